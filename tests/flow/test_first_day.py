"""The first day: init writes a file, doctor passes it, the daemon starts with it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from honed.config import load_config
from tests.processes import honed


def _honed(
    folder: Path, *arguments: str, stdin: int = subprocess.DEVNULL, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `honed` as on a machine where nobody has set anything."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments],
        cwd=folder,
        env=kept | {"HOME": str(folder), "COLUMNS": "300"} | variables,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=90,
    )


def _on_a_terminal(folder: Path, answers: list[str], *arguments: str) -> str:
    """Run `honed` on a terminal where somebody types the answers; what it wrote."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        done = _honed(folder, *arguments, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_init_writes_what_doctor_passes_and_the_daemon_starts_with(
    tmp_path: Path, tiny_base: Path
) -> None:
    """In a fresh folder, with flags alone; the doctor looks again while the daemon runs."""
    flags = ("--base-model", str(tiny_base), "--data-dir", "data", "--file", "mine.toml")
    done = _honed(tmp_path, "init", "airline", *flags)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "mine.toml"
    assert file.stat().st_mode & 0o077 in (0, 0o044)
    before = _diagnosis(tmp_path, file)
    assert {f["check"]: f["status"] for f in before.values() if f["status"] == "fail"} == {}
    assert "trained and served as qwen3" in before["base model"]["found"]
    assert not (tmp_path / "data").exists()
    with honed(tmp_path, "") as running:
        running.config = file
        running.start("run")
        after = _diagnosis(tmp_path, file)
        assert "running, pid" in after["daemon"]["found"]
        assert "feed.sock answers" in after["sockets"]["found"]
        assert after["store"]["status"] == after["daemon"]["status"] == "ok"
        assert running.status()["scenario"] == "airline"


def _diagnosis(folder: Path, file: Path) -> dict[str, dict[str, str]]:
    # the port of the starter file may be taken by whatever runs beside the tests
    port = {"HONED__SERVE__PORT": "0"}
    done = _honed(folder, "doctor", "--config", str(file), "--json", **port)
    assert done.returncode == 0, done.stdout + done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)}


def test_on_a_terminal_init_asks_for_what_is_open(tmp_path: Path, tiny_base: Path) -> None:
    """A wrong answer is asked again; models of a named folder are offered by number."""
    answers = ["Not A Name", "airline", "1", "sometimes", "manual", str(tmp_path / "kept")]
    said = _on_a_terminal(
        tmp_path, answers, "init", "--models-dir", str(tiny_base.parent), "--file", "a.toml"
    )
    assert f"1  {tiny_base}" in said
    config = load_config(tmp_path / "a.toml")
    assert (config.scenario, config.base_model) == ("airline", str(tiny_base))
    assert (config.apply.mode, config.data_dir) == ("manual", tmp_path / "kept")


def test_a_model_that_cannot_be_meant_is_asked_for_again(tmp_path: Path) -> None:
    """A number off the list, a folder that is not there, a bare word; then one that is offered."""
    answers = ["airline", "99", str(tmp_path / "nothing"), "qwen", "Qwen/Qwen3-0.6B", "", ""]
    said = _on_a_terminal(tmp_path, answers, "init")
    assert said.count("Base model: a number") == 4
    assert load_config(tmp_path / "honed.toml").base_model == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        ("99", "'99' is no folder here and no hub id"),
        ("./nothing", "nothing does not exist"),
        (".", "has no config.json"),
        ("weights.gguf", "weights.gguf is a file (a GGUF belongs in serve.base_model_path)"),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(tmp_path: Path, named: str, fault: str) -> None:
    """With flags nobody can be asked: status 2, what to name instead, and no file."""
    (tmp_path / "weights.gguf").touch()
    done = _honed(tmp_path, "init", "airline", "--base-model", named)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "name a folder with config.json, or a hub id" in done.stderr
    assert not (tmp_path / "honed.toml").exists()


def test_with_scenario_and_model_given_a_terminal_is_not_asked(
    tmp_path: Path, tiny_base: Path
) -> None:
    """Flags are enough; `auto` is what stands in the file."""
    _on_a_terminal(tmp_path, [], "init", "airline", "--base-model", str(tiny_base))
    assert load_config(tmp_path / "honed.toml").apply.mode == "auto"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "the scenario is missing"),
        (["--yes"], "the scenario is missing"),
        (["airline"], "the base model is missing"),
        (["Not A Name", "--yes"], "cannot name a scenario"),
        (["airline", "--base-model", "none", "--llama-server", "/none"], "/none does not exist"),
    ],
)
def test_without_a_terminal_what_is_missing_is_an_error(
    tmp_path: Path, arguments: list[str], fault: str
) -> None:
    """In a script nothing is ever asked; nothing is written."""
    done = _honed(tmp_path, "init", *arguments)
    assert done.returncode in (1, 2)
    assert fault in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "honed.toml").exists()


def test_defaults_suit_the_machine_and_name_the_licence(tmp_path: Path) -> None:
    """`--yes` proposes a model under Apache-2.0 and writes its licence down."""
    assert _honed(tmp_path, "init", "airline", "--yes").returncode == 0
    config = load_config(tmp_path / "honed.toml")
    assert config.base_model is not None
    assert config.base_model.startswith("Qwen/Qwen3-")
    text = (tmp_path / "honed.toml").read_text()
    assert "# Its licence: apache-2.0\nbase_model" in text
    size = config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
    assert size == 16


def test_a_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    """Neither by another call nor when something else fails."""
    file = tmp_path / "honed.toml"
    file.write_text("# mine\n")
    refused = _honed(tmp_path, "init", "airline", "--yes")
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    assert file.read_text() == "# mine\n"
    assert _honed(tmp_path, "init", "airline", "--base-model", "none", "--force").returncode == 0
    assert load_config(file).base_model is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["honed.toml"]


def test_before_the_first_start_every_command_says_what_to_do(tmp_path: Path) -> None:
    """There is a config, and nothing else yet."""
    assert _honed(tmp_path, "init", "airline", "--base-model", "none").returncode == 0
    advice = {
        ("runs",): "the first `honed up`, `run` or `import` makes it",
        ("backup", "b.tar"): "the first `honed up`, `run` or `import` makes it",
        ("rollback",): "start the daemon: `honed up`, or `honed run`",
        ("health", "daemon"): "start it with `honed up` or `honed run`",
        ("health", "gateway"): "start it with `honed up` or `honed serve`",
    }
    port = {"HONED__SERVE__PORT": "0"}  # that of the file may be taken by another gateway
    for command, words in advice.items():
        done = _honed(tmp_path, *command, **port)
        assert done.returncode in (1, 3)
        assert words in done.stderr, command


def test_doctor_tells_scripts_by_its_status(tmp_path: Path) -> None:
    """78 the config, 1 a failure, with --strict a warning too; one finding for each fault."""
    nothing = _honed(tmp_path, "doctor")
    assert nothing.returncode == 78
    assert "`honed init` writes one" in nothing.stdout
    assert "training stack" in nothing.stdout
    (tmp_path / "honed.toml").write_text('scenario = "a"\ntriger = 1\n[train]\nr = "x"\n')
    bad = _honed(tmp_path, "doctor", "--json")
    assert bad.returncode == 78
    faults = [f["found"] for f in json.loads(bad.stdout) if f["check"] == "config"]
    assert len(faults) == 2
    (tmp_path / "honed.toml").write_text(
        f'scenario = "a"\ndata_dir = "{tmp_path / "d"}"\n[train]\ndevice = "cpu"\n'
        "[serve]\nport = 0\n"
    )
    assert _honed(tmp_path, "doctor").returncode == 0
    assert _honed(tmp_path, "doctor", "--strict").returncode == 1  # no base model
    (tmp_path / "d").touch()
    assert _honed(tmp_path, "doctor").returncode == 1


def test_config_show_says_where_a_value_comes_from(tmp_path: Path) -> None:
    """As text for people, as JSON for programs."""
    (tmp_path / "honed.toml").write_text('scenario = "a"\n[train]\nr = 8\n')
    told = _honed(tmp_path, "config", "show", "--sources", HONED__TRAIN__SEED="7").stdout
    lines = {line.split()[0]: line.split() for line in told.splitlines() if line}
    assert lines["train.r"] == ["train.r", "8", "honed.toml:3"]
    assert lines["train.seed"] == ["train.seed", "7", "HONED__TRAIN__SEED"]
    shown = json.loads(_honed(tmp_path, "config", "show", "--json").stdout)
    assert shown["settings"]["train.r"] == 8
    assert shown["places"]["feed_socket"].endswith("/feed.sock")
    schema = json.loads(_honed(tmp_path, "config", "schema").stdout)
    assert schema["required"] == ["scenario"]
