"""Programs are asked, within a time, and left without a trace."""

import os
import time
from pathlib import Path

import pytest

from honed.errors import ServerStartError
from honed.machine.gpus import gpus
from honed.machine.llama_server import on_path, program
from honed.machine.program import ask
from tests.unit.machine.folders import make_program

LLAMA = """
case $1 in
--version) echo "version: 6789 (abcdef)" >&2; echo "built with cc for x86_64" >&2;;
--list-devices) echo "Available devices:"; echo "  CUDA0: NVIDIA L4 (22564 MiB, 22000 MiB free)";;
*) exit 1;;
esac
"""


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """A wrapper's child would hold the pipe open, and the question would last for ever."""
    pid_file = tmp_path / "pid"
    script = make_program(tmp_path / "hang", f"sleep 60 & echo $! > {pid_file}; wait")
    before = time.monotonic()
    answer = ask([str(script)], limit_s=1)
    assert time.monotonic() - before < 10
    assert answer.status is None
    assert "no answer within 1 s" in answer.last_words
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    """Not an exception: there is nothing to decide here."""
    assert ask([str(tmp_path / "none")], limit_s=1).fault == "No such file or directory"


def test_an_executable_tells_its_version_and_its_gpus(tmp_path: Path) -> None:
    """As llama.cpp prints them."""
    found = program(make_program(tmp_path / "llama-server", LLAMA))
    assert found.version == "build 6789 (abcdef)"
    assert found.devices == ("CUDA0: NVIDIA L4 (22564 MiB, 22000 MiB free)",)


def test_the_bundled_server_runs_on_this_machine() -> None:
    """It is asked in a process of its own."""
    found = program(None)
    assert found.path is None
    assert found.version.startswith("xllamacpp ")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo no such option >&2; exit 1", "no such option"),
        ("exit 0", "said nothing"),
        ("kill -ILL $$", "signal 4"),
    ],
)
def test_what_cannot_serve_is_refused(tmp_path: Path, script: str, fault: str) -> None:
    """With its own last words."""
    with pytest.raises(ServerStartError, match=fault):
        program(make_program(tmp_path / "llama-server", script))


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    """Missing, or not executable; the advice says what to do."""
    path = tmp_path / "llama-server"
    with pytest.raises(ServerStartError, match="does not exist"):
        program(path)
    path.touch()
    with pytest.raises(ServerStartError, match="not executable") as caught:
        program(path)
    assert caught.value.advice == f"chmod +x {path}"


def test_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cards, and who is on them; memory that the driver does not tell counts as 0."""
    script = """
case $1 in
--query-gpu=*) echo "NVIDIA L4, 23034, 1034, 570.1"; echo "NVIDIA GB10, [N/A], [N/A], 570.1";;
--query-compute-apps=*) echo "123, /usr/bin/python3, 512"; echo "9, x, [N/A]";;
esac
"""
    make_program(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = gpus()
    assert [(card.name, card.free >> 20) for card in found.cards] == [
        ("NVIDIA L4", 22000),
        ("NVIDIA GB10", 0),
    ]
    assert [(tenant.pid, tenant.used >> 20) for tenant in found.tenants] == [(123, 512), (9, 0)]


def test_a_broken_driver_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program is there, but gives no list."""
    make_program(tmp_path / "nvidia-smi", "echo Failed to initialize NVML; exit 18")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus().fault == "Failed to initialize NVML"


def test_the_server_of_the_search_path_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its usual name."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert on_path() is None
    make_program(tmp_path / "llama-server", LLAMA)
    assert on_path() == tmp_path / "llama-server"
