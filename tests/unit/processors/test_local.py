"""A training run by the local processor: what is published, and when nothing is."""

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.domain.job import Progress, ScoreJob, TrainSettings
from honed.domain.verdict import Reach, Seen
from honed.errors import EmptyDataError, ProcessFailedError, TrainingError
from honed.ports import HeldOut, Processor, Trained, TrainingSet, TrainRequest
from honed.processors import LocalProcessor
from tests.tiny_models import conversations
from tests.unit.processors.test_worker_process import (
    REPORT,
    group_is_gone,
    group_of,
    interpreter,
    worker_pid,
)

SETTINGS = TrainSettings(
    r=4,
    lora_alpha=8,
    lora_dropout=0.0,
    max_steps=6,
    gradient_accumulation_steps=1,
    learning_rate=5e-3,
    logging_steps=2,
    threads=1,
    device="cpu",
)

SEEN = Seen(newest=Reach(7, 20), later={"e1": Reach(8, 21)})


def processor(folder: Path) -> LocalProcessor:
    return LocalProcessor(runs_dir=folder / "runs", adapters_dir=folder / "adapters")


def request(base: Path, folder: Path, **changed: Any) -> TrainRequest:
    data = folder / "data.jsonl"
    rows = conversations(16)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = tuple(
        HeldOut(episode_id=str(i), group=str(i), is_success=True) for i in range(len(rows))
    )
    fields: dict[str, Any] = {
        "run_id": "chat-tiny-1",
        "model_id": "ops@1",
        "scenario": "ops",
        "learn_model": "chat",
        "base_model": str(base),
        "settings": SETTINGS,
        "training_set": TrainingSet(
            data_path=data,
            held_out_path=data,
            episode_ids=("e1",),
            held_out=held_out,
            data_digest="d" * 64,
            num_rows=len(rows),
            episode_count=len(rows),
            left_out={},
            seen=SEEN,
        ),
        "incumbent": None,
        "parent_id": None,
    }
    return TrainRequest(**fields | changed)


def train(
    processor: Processor, request: TrainRequest, on_progress: Any = lambda progress: None
) -> Trained:
    async def run() -> Trained:
        return await processor.train(request, on_progress=on_progress)

    return anyio.run(run)


def test_run_publishes_a_whole_adapter(tiny_base: Path, tmp_path: Path) -> None:
    """The adapter appears under its id; the next run is scored against it; its id is not reused."""
    local = processor(tmp_path)
    cut_off = tmp_path / "runs" / "chat-tiny-1" / "adapter"
    cut_off.mkdir(parents=True)
    (cut_off / "half.safetensors").touch()
    first = train(local, request(tiny_base, tmp_path))
    assert first.model.adapter_path == str(tmp_path / "adapters" / "ops@1")
    assert first.model.gguf_path == str(tmp_path / "adapters" / "ops@1" / "adapter.gguf")
    published = {path.name for path in Path(first.model.adapter_path).iterdir()}
    assert "adapter.gguf" in published
    assert "half.safetensors" not in published
    assert first.model.data_digest == "d" * 64
    assert first.model.seen == SEEN
    manifest = json.loads((Path(first.model.adapter_path) / "manifest.json").read_text())
    assert manifest["seen"] == {"newest": [7, 20], "later": {"e1": [8, 21]}}
    assert len(first.scores) == 16
    assert not (tmp_path / "runs" / "chat-tiny-1" / "adapter").exists()

    with pytest.raises(TrainingError, match="ops@1 exists"):
        train(local, request(tiny_base, tmp_path, run_id="chat-tiny-2"))

    again = request(
        tiny_base, tmp_path, run_id="chat-tiny-3", model_id="ops@2", incumbent=first.model
    )
    second = train(local, again)
    assert second.model.digest == first.model.digest
    assert all(score.candidate == score.incumbent for score in second.scores)


def test_killed_worker_publishes_nothing(tiny_base: Path, tmp_path: Path) -> None:
    """`kill -9` in mid-training leaves the adapters as they were."""
    folder = tmp_path / "runs" / "chat-tiny-1"
    order = request(tiny_base, tmp_path)

    def kill(progress: Progress) -> None:
        if progress.step == 2 and progress.loss is not None:
            os.kill(worker_pid(folder), signal.SIGKILL)

    with pytest.raises(ProcessFailedError) as raised:
        train(processor(tmp_path), order, kill)
    assert raised.value.exit_code == -1
    assert not (tmp_path / "adapters").exists()


def test_hung_worker_does_not_hold_the_run(tmp_path: Path) -> None:
    """The processor's limit of silence reaches the worker; nothing is published."""
    local = LocalProcessor(
        runs_dir=tmp_path / "runs",
        adapters_dir=tmp_path / "adapters",
        python=interpreter(tmp_path, f"{REPORT}\nsleep 301"),
        silence_limit=timedelta(seconds=0.3),
    )
    with pytest.raises(ProcessFailedError, match="silent"):
        train(local, request(tmp_path / "base", tmp_path))
    assert group_is_gone(group_of(tmp_path))
    assert not (tmp_path / "adapters").exists()


def test_nothing_to_learn_arrives_as_such(tiny_base: Path, tmp_path: Path) -> None:
    """The worker's EmptyDataError is one on this side too: the run is skipped, not failed."""
    short = TrainSettings(max_length=16, threads=1, device="cpu")
    with pytest.raises(EmptyDataError):
        train(processor(tmp_path), request(tiny_base, tmp_path, settings=short))
    assert not (tmp_path / "adapters").exists()


def test_held_out_episodes_are_scored_without_training(
    tiny_base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two adapters are compared on the same episodes, line by line."""
    data = tmp_path / "held_out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in conversations(5)))
    job = ScoreJob(
        base_model=str(tiny_base),
        held_out_path=str(data),
        candidate_path=str(tiny_adapters[0]),
        incumbent_path=str(tiny_adapters[1]),
        result_path=str(tmp_path / "score" / "result.json"),
        device="cpu",
        threads=1,
    )

    async def run() -> Any:
        return await processor(tmp_path).score(job, tmp_path / "score")

    scores = anyio.run(run)
    assert len(scores) == 5
    assert all(len({score.candidate, score.incumbent, score.base}) == 3 for score in scores)
    assert all(0 <= score.candidate_accuracy <= 1 for score in scores)


def test_cancelled_run_publishes_nothing(tiny_base: Path, tmp_path: Path) -> None:
    """Cancelling the task ends the worker before it publishes."""
    pids: list[int] = []

    async def cancel_in_training() -> None:
        def on_progress(progress: Progress) -> None:
            if progress.phase == "training":
                pids.append(worker_pid(tmp_path / "runs" / "chat-tiny-1"))
                scope.cancel()

        with anyio.CancelScope() as scope:
            await processor(tmp_path).train(request(tiny_base, tmp_path), on_progress=on_progress)

    anyio.run(cancel_in_training)
    assert group_is_gone(pids[0])
    assert not (tmp_path / "adapters").exists()
