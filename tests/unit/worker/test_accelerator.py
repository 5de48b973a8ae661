"""Jobs of several daemons on one accelerator take turns; there need be none for that."""

import subprocess
import sys
from pathlib import Path

import pytest

from honed.domain.job import Progress
from honed.errors import TrainingError
from honed.worker import accelerator
from honed.worker.accelerator import alone_on, device_name

HOLD = """
import sys
from pathlib import Path
from honed.worker import accelerator
accelerator.PLACES = (Path(sys.argv[1]),)
with accelerator.alone_on("cuda", print):
    print("held", flush=True)
    sys.stdin.read()
"""


def ignore(progress: Progress) -> None:
    """Nothing to look at."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(accelerator, "PLACES", (tmp_path,))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return tmp_path


def holder(place: Path) -> subprocess.Popen[bytes]:
    """Another process that has the accelerator, until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_another_job_waits_so_long_and_no_longer(place: Path) -> None:
    """While another process computes there, the wait is told, ends, and says on what and what to do."""
    told: list[Progress] = []
    with (
        holder(place),
        pytest.raises(TrainingError, match="accelerator cuda-0 is in use") as raised,
        alone_on("cuda", told.append, wait_s=0.1),
    ):
        pytest.fail("both have it")
    assert raised.value.advice is not None
    assert [line.note for line in told] == ["for the accelerator cuda-0"]


def test_the_next_one_goes_on_when_it_is_free(place: Path) -> None:
    """A job that waits gets the accelerator once the other one has ended, also by kill -9."""
    with holder(place) as process:
        told: list[Progress] = []

        def kill(progress: Progress) -> None:
            told.append(progress)
            process.kill()
            process.wait()

        with alone_on("cuda", kill, wait_s=600):
            pass
    assert len(told) == 1


def test_another_device_is_another_matter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees another GPU does not wait."""
    with holder(place):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4f1c/x,1")
        assert device_name("cuda") == "cuda-GPU-4f1c_x"
        with alone_on("cuda", ignore, wait_s=0.1):
            pass


def test_nobody_waits_for_the_cpu(place: Path) -> None:
    """Nothing is opened for it."""
    with alone_on("cpu", ignore), alone_on("cpu", ignore):
        assert not list(place.iterdir())


def test_a_lock_that_cannot_be_opened_is_told(place: Path) -> None:
    """The error names the file."""
    (place / "honed-cuda-0.lock").symlink_to(place / "elsewhere")
    with pytest.raises(TrainingError, match=r"honed-cuda-0\.lock"), alone_on("cuda", ignore):
        pass
