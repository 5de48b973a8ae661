"""`honed runs`, `honed logs` and `honed compare`: what runs have said, and how two of them differ."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from typer.testing import CliRunner

from honed.cli.app import app
from honed.cli.curve_plot import curves
from honed.domain.job import Progress, TrainJob, TrainSettings
from honed.domain.run import Run
from honed.domain.trained_model import GateResult, Interval, TrainedModel, TrainingMetrics
from honed.stores import open_store
from tests.contract.test_store import model

BEGAN_MS = 1_700_000_000_000


def run(number: int, **fields: Any) -> Run:
    plain: dict[str, Any] = {
        "id": f"chat-tiny-{number}",
        "scenario": "airline",
        "learn_model": "chat",
        "state": "done",
        "started_at_ms": BEGAN_MS + number * 1_000_000,
        "ended_at_ms": BEGAN_MS + number * 1_000_000 + 61_500,
        "reason": "count(2)",
        "method": "sft",
        "method_reason": "conversations alone",
        "num_episodes": 2,
        "model_id": f"airline@{number}",
    }
    return Run(**plain | fields)


def trained(number: int, **fields: Any) -> TrainedModel:
    plain = {
        "run_id": f"chat-tiny-{number}",
        "metrics": TrainingMetrics(final_loss=1.5 / number, num_steps=20, training_time_secs=31.0),
        "data_digest": f"d{number}",
        "episode_ids": ("e1", f"only-{number}"),
    }
    return msgspec.structs.replace(model(number), **plain | fields)


def write(folder: Path, number: int, reports: list[Progress], **settings: Any) -> None:
    """The files of a run, as worker and daemon leave them."""
    run_folder = folder / "runs" / f"chat-tiny-{number}"
    run_folder.mkdir(parents=True)
    job = TrainJob(
        run_id=run_folder.name,
        model_id=f"airline@{number}",
        scenario="airline",
        learn_model="chat",
        base_model="org/tiny",
        data_path="",
        held_out_path=None,
        incumbent_path=None,
        output_path="",
        result_path="",
        settings=TrainSettings(**settings),
    )
    (run_folder / "job.json").write_bytes(msgspec.json.encode(job))
    (run_folder / "worker.log").write_text("loading \x1b[31mweights\nno newline at the end")
    lines = [msgspec.json.encode(each) + b"\n" for each in reports]
    (run_folder / "progress.jsonl").write_bytes(b"".join(lines))


def falling(high: float) -> list[Progress]:
    note = Progress(phase="training", note="out of memory: goes on with batches of 2")
    return [note, note] + [
        Progress(phase="training", step=step, total_steps=20, loss=high / step)
        for step in range(1, 21)
    ]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A scenario with two runs, the second of which was judged, and one that was skipped."""
    (tmp_path / "honed.toml").write_text(f'scenario = "airline"\ndata_dir = "{tmp_path}"\n')
    write(tmp_path, 1, falling(3.0), r=8, seed=1)
    write(tmp_path, 2, falling(1.0), r=16, seed=1)
    gate = GateResult(
        decision="pass",
        proof="outcome",
        incumbent_id="airline@1",
        reason="",
        num_successes=14,
        num_failures=88,
        contrast=Interval(value=0.5, low=0.25, high=0.75),
        p_value=0.003,
    )

    async def fill() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            for number in (1, 2):
                await store.add_run(run(number, state="running", ended_at_ms=None, model_id=None))
                await store.end_run(run(number))
            await store.add_model(trained(1))
            await store.add_model(trained(2, gate=gate))
            skipped = run(3, state="skipped", model_id=None, method=None, message="too few rows")
            await store.skip_run(skipped)

    anyio.run(fill)
    return str(tmp_path / "honed.toml")


def shown(*arguments: str, status: int = 0) -> str:
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == status, found.output
    return found.stdout


def words(text: str) -> str:
    return " ".join(text.split())


def test_runs_show_loss_steps_and_notes(config: str) -> None:
    """Method, loss, steps and duration stand in a run's line, what was told in it below, once."""
    text = shown("runs", "--config", config)
    (line,) = (line for line in text.splitlines() if line.startswith("chat-tiny-2"))
    assert "61.5 s  sft  loss 0.750 after 20 steps" in line
    assert text.count("goes on with batches of 2") == 2  # of two runs


def test_logs_show_what_the_worker_wrote(config: str) -> None:
    """Its own words, made harmless, the progress, and how it ended; without a name the newest that began."""
    text = shown("logs", "--config", config)
    assert "loading \\x1b[31mweights\nno newline at the end\n" in text
    assert "training  step 20/20  loss 0.0500" in text
    assert "chat-tiny-2 done" in text.splitlines()[-1]
    assert "chat-tiny-1 done" in shown("logs", "airline@1", "--config", config)
    lines = shown("logs", "chat-tiny-1", "--json", "--config", config).splitlines()
    told = [json.loads(line) for line in lines]
    assert told[0] == {"log": "loading \x1b[31mweights"}
    assert told[-1]["loss"] == 3.0 / 20


def test_logs_of_a_run_that_is_not_there_name_it(config: str) -> None:
    """Exit status 1 and one line."""
    found = CliRunner().invoke(app, ["logs", "chat-tiny-9", "--config", config])
    assert found.exit_code == 1
    assert "airline has no run chat-tiny-9" in found.stderr


def test_followed_logs_end_with_the_run(config: str, tmp_path: Path) -> None:
    """`-f` shows what comes and ends when the run does; nothing of it is lost."""
    folder = tmp_path / "runs" / "chat-tiny-4"
    folder.mkdir()
    (folder / "worker.log").write_text("first\n")
    command = [sys.executable, "-m", "honed", "logs", "-f", "--config", config]

    async def follow() -> str:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            going = run(4, state="running", ended_at_ms=None, model_id=None)
            await store.add_run(going)
            async with await anyio.open_process(command, stderr=subprocess.STDOUT) as process:
                assert process.stdout is not None
                text = b""
                while b"first" not in text:
                    text += await process.stdout.receive()
                progress = Progress(phase="training", step=1, total_steps=2, loss=2.0)
                (folder / "progress.jsonl").write_bytes(msgspec.json.encode(progress) + b"\n")
                while b"step 1/2" not in text:
                    text += await process.stdout.receive()
                with (folder / "worker.log").open("a") as file:
                    file.write("last")
                await store.end_run(run(4, model_id=None, state="failed", message="it broke"))
                async for chunk in process.stdout:
                    text += chunk
                assert await process.wait() == 0
        return text.decode()

    async def in_time() -> str:
        with anyio.fail_after(120):
            return await follow()

    text = anyio.run(in_time)
    assert text.splitlines()[-2] == "last"
    assert "it broke" in text.splitlines()[-1]


def test_two_runs_are_compared(config: str, tmp_path: Path) -> None:
    """What differs in settings, data, losses and verdict, side by side; what is the same is left out."""
    text = shown("compare", "chat-tiny-1", "airline@2", "--config", config)
    lines = [words(line) for line in text.splitlines()]
    assert "final loss 1.5000 0.7500" in lines
    assert "r 8 16" in lines
    assert not any(line.startswith("seed ") for line in lines)
    assert "verdict not judged pass" in lines
    assert "1 episodes are common to both, 1 and 1 are in one alone." in words(text)
    assert "loss of 1 and 2" in text
    told = json.loads(shown("compare", "airline@1", "airline@2", "--json", "--config", config))
    assert told["settings_that_differ"] == {"r": [8, 16]}
    assert told["runs"][0]["loss"][0] == [1, 3.0]
    assert told["common_episodes"] == 1
    (tmp_path / "runs" / "chat-tiny-1" / "job.json").unlink()
    text = shown("compare", "airline@1", "airline@2", "--config", config)
    assert "The settings of a run are gone with its files." in words(text)


def test_curves_are_drawn_on_common_axes() -> None:
    """The highest value stands at the top, the lowest at the bottom; where curves meet there is a star."""
    lines = list(curves({"1": [(0, 2.0), (10, 1.0)], "2": [(0, 2.0), (10, 0.0)]}, y_name="loss"))
    assert lines[0].strip() == "loss"
    assert lines[1].startswith("2.000 |*")
    assert lines[12].startswith("0.000 |")
    assert lines[12].endswith("2")
    assert lines[-1].split() == ["step", "0", "step", "10"]
    assert len(lines[-1]) == len(lines[-2])
    assert list(curves({"1": [], "2": []}, y_name="loss")) == []
    flat = list(curves({"1": [(3, 1.0)]}, y_name="loss"))
    assert sum("1" in line.partition("|")[2] for line in flat) == 1
