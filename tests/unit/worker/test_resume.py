"""A run that is cut off goes on, and gives what it would have given: bit for bit on the CPU."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from honed.domain.job import Progress, TrainJob, TrainResult, TrainSettings, parse_result
from honed.domain.run_files import SEAL
from tests.tiny_models import SUBJECTS, conversations, offline
from tests.unit.worker.test_train import job

SETTINGS = TrainSettings(
    r=4,
    lora_alpha=8,
    lora_dropout=0.1,
    num_train_epochs=3,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=5e-3,
    threads=1,
    logging_steps=1,
    save_steps=4,
    validation_fraction=0.2,
    device="cpu",
)
"""Dropout and a validation split: whatever draws random numbers must go on where it was."""
STEPS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(48)))
    return path


def order(base: Path, data: Path, folder: Path, settings: TrainSettings = SETTINGS) -> TrainJob:
    return job(
        base,
        data,
        folder,
        settings=settings,
        held_out_path=None,
        checkpoints_path=str(folder / "checkpoints"),
    )


def run(job: TrainJob, *, stop_after: int | None = None) -> tuple[TrainResult, list[Progress]]:
    offline()
    from honed.worker.train import train

    told: list[Progress] = []

    def report(progress: Progress) -> None:
        is_first = all(line.step != progress.step for line in told)  # a second SIGTERM ends pytest
        told.append(progress)
        if stop_after is not None and progress.step == stop_after and is_first:
            os.kill(os.getpid(), signal.SIGTERM)

    return train(job, report), told


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    result, told = run(order(tiny_base, data, folder))
    assert result.metrics.num_steps == STEPS
    assert result.metrics.extra["num_evaluations"] == 3
    assert all(line.note is None for line in told)
    return folder


@pytest.mark.feature("TR-062")
@pytest.mark.parametrize("step", [1, 7, 10, 30])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    step: int, tiny_base: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Wherever SIGTERM comes, at the end of an epoch or of the run too, the step ends and is kept."""
    from honed.worker.stopping import StoppedError

    with pytest.raises(StoppedError) as stopped:
        run(order(tiny_base, data, tmp_path), stop_after=step)
    assert stopped.value.code == 143
    assert step <= stopped.value.step <= step + 1
    result, told = run(order(tiny_base, data, tmp_path))
    assert f"goes on after step {stopped.value.step}" in [line.note for line in told]
    assert weights(tmp_path) == weights(unbroken)
    assert result.metrics.num_steps == STEPS


@pytest.mark.feature("TR-062")
def test_a_damaged_checkpoint_is_not_gone_on_from(
    tiny_base: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """One byte is enough; the one before it is taken, and the weights are the same."""
    from honed.worker.stopping import StoppedError

    with pytest.raises(StoppedError):
        run(order(tiny_base, data, tmp_path), stop_after=13)
    newest, older = sorted((tmp_path / "checkpoints/smaller-0").glob("checkpoint-*"), reverse=True)[
        :2
    ]
    assert newest.name.removeprefix("checkpoint-") in ("13", "14")
    optimizer = newest / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    _, told = run(order(tiny_base, data, tmp_path))
    number = older.name.removeprefix("checkpoint-")
    notes = [line.note for line in told if line.note]
    assert notes == [
        f"{newest.name} is damaged or was never finished: it was removed",
        f"goes on after step {number}",
    ]
    assert weights(tmp_path) == weights(unbroken)


IMPATIENT = msgspec.structs.replace(
    SETTINGS, num_train_epochs=20, early_stopping_patience=3, learning_rate=1e-2, warmup_steps=0
)
"""Learns by heart: what it was not shown soon gets worse."""


def unlearnable(path: Path) -> Path:
    """Answers that nothing tells."""
    draws = random.Random(5)
    talks = [row["messages"][:3] for row in conversations(24)]
    for talk in talks:
        talk[2] = {"role": "assistant", "content": draws.choice(SUBJECTS)}
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return path


@pytest.mark.feature("TR-062")
def test_a_run_that_goes_on_stops_as_early_as_one_that_went_through(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Evaluations in vain before it was cut off count; cut off behind the last of them, it takes no step more."""
    from honed.worker.stopping import StoppedError

    data = unlearnable(tmp_path / "train.jsonl")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    result, told = run(order(tiny_base, data, whole, IMPATIENT))
    ended = result.metrics.num_steps
    (planned,) = {line.total_steps for line in told if line.total_steps}
    assert ended is not None
    assert ended < planned, "the settings must be such that it stops early"
    with pytest.raises(StoppedError):
        run(order(tiny_base, data, cut, IMPATIENT), stop_after=ended - 6)  # behind one in vain
    again, told = run(order(tiny_base, data, cut, IMPATIENT))
    assert any(line.note and line.note.startswith("goes on after") for line in told)
    assert again.metrics.num_steps == ended
    assert weights(cut) == weights(whole)

    kept = weights(whole)
    last, told = run(order(tiny_base, data, whole, IMPATIENT))
    assert not [line for line in told if line.loss is not None]
    assert last.metrics.num_steps == ended
    assert max(line.total_steps or 0 for line in told) == planned
    assert weights(whole) == kept


def test_a_checkpoint_without_its_seal_was_never_finished(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """A run that was killed while it wrote its first one begins again."""
    from honed.worker.checkpoints import Checkpoints
    from honed.worker.stopping import StoppedError

    with pytest.raises(StoppedError):
        run(order(tiny_base, data, tmp_path), stop_after=1)
    (only,) = (tmp_path / "checkpoints/smaller-0").glob("checkpoint-*")
    (only / SEAL).unlink()
    checkpoints, removed = Checkpoints(only.parent), []
    assert checkpoints.newest(removed.append) is None
    assert removed == [only]
    assert not only.exists()


def _worker(job: TrainJob, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "honed.worker", str(path)], stdout=subprocess.PIPE, stderr=log
        )


def _kill_at(worker: subprocess.Popen[bytes], step: int) -> None:
    """kill -9 once it has told of the step, or of a later one that it has gone on to."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if (msgspec.json.decode(line).get("step") or 0) >= step:
            worker.kill()
            break
    worker.stdout.close()
    assert worker.wait() == -signal.SIGKILL


def _ends(worker: subprocess.Popen[bytes], folder: Path) -> None:
    assert worker.stdout is not None
    worker.stdout.read()
    worker.stdout.close()
    assert worker.wait() == 0, (folder / "worker.log").read_text()[-2000:]
    assert isinstance(parse_result((folder / "result.json").read_bytes()), TrainResult)


@pytest.mark.feature("TR-062")
def test_a_killed_run_goes_on_to_the_same_weights(
    tiny_base: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """kill -9 between two checkpoints loses the steps since the first one, and nothing else."""
    todo = order(tiny_base, data, tmp_path)
    _kill_at(_worker(todo, tmp_path), 5)
    assert not Path(todo.result_path).exists()
    _ends(_worker(todo, tmp_path), tmp_path)
    assert weights(tmp_path) == weights(unbroken)


@pytest.mark.long
def test_a_run_that_is_killed_twenty_times_gives_the_same_weights(
    tiny_base: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """At random steps, sometimes before it has come any further."""
    draws = random.Random(41)
    todo = order(tiny_base, data, tmp_path, msgspec.structs.replace(SETTINGS, save_steps=1))
    for at in sorted(draws.randint(1, STEPS - 3) for _ in range(20)):
        _kill_at(_worker(todo, tmp_path), at)
    _ends(_worker(todo, tmp_path), tmp_path)
    assert weights(tmp_path) == weights(unbroken)


@pytest.mark.long
def test_a_run_that_is_killed_at_any_moment_gives_the_same_weights(
    tiny_base: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """While it loads, steps, writes a checkpoint, validates or exports; no half folder is left."""
    draws = random.Random(43)
    settings = msgspec.structs.replace(SETTINGS, save_steps=1)

    def worker_in(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return _worker(order(tiny_base, data, folder, settings), folder)

    began = time.monotonic()
    _ends(worker_in(tmp_path / "timed"), tmp_path / "timed")
    whole_s = time.monotonic() - began
    num_killed = num_runs = 0
    while num_killed < 20:
        folder = tmp_path / f"run-{num_runs}"
        num_runs += 1
        while num_killed < 20 and _is_killed_after(worker_in(folder), draws.uniform(0, whole_s)):
            num_killed += 1
        if not (folder / "result.json").exists():
            _ends(worker_in(folder), folder)
        assert weights(folder) == weights(unbroken)
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= {
            "adapter",
            "checkpoints",
        }


def _is_killed_after(worker: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether kill -9 met it before it came to its end."""
    try:
        worker.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
    return worker.returncode == -signal.SIGKILL
