"""From judged attempts to an adapter by the methods that learn from failures too."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.domain.job import TrainSettings
from honed.learn_models import ChatLearnModel
from honed.ports import TrainRequest
from honed.processors import LocalProcessor
from honed.training_sets import EpisodeTrainingSets
from tests.feed_parts import SECRET, call, failure, line, open_intake, success
from tests.tiny_models import conversations

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


async def test_failures_are_learned_from_by_kto(tiny_base: Path, tmp_path: Path) -> None:
    """Too few successes to imitate: every judged attempt is a row, good or bad; the adapter says why."""
    made = [row["messages"] for row in conversations(24)]
    async with open_intake(tmp_path / "honed.db", learn_models=[ChatLearnModel()]) as intake:
        for n, turns in enumerate(made):
            judged = success if n % 2 else failure
            told: list[dict[str, Any]] = [
                call(task_id=f"t{n}", messages=turns[:-1], response_message=turns[-1]),
                judged(task_id=f"t{n}"),
            ]
            await intake.sink.ingest([line(event) for event in told])
        with anyio.fail_after(20):
            for _ in made:
                await intake.episodes.receive()
        sets = EpisodeTrainingSets(
            intake.store,
            ChatLearnModel(),
            scenario="airline",
            secret=SECRET,
            min_rows=15,
            fallbacks=("preference", "labelled"),
        )
        training_set = await sets.build(tmp_path / "set")
    assert training_set.why_shape is not None
    assert "sft had" in training_set.why_shape
    request = TrainRequest(
        run_id="chat-tiny-1",
        model_id="airline@1",
        scenario="airline",
        learn_model="chat",
        base_model=str(tiny_base),
        settings=TrainSettings(r=4, max_steps=2, threads=1, device="cpu"),
        training_set=training_set,
        incumbent=None,
        parent_id=None,
    )
    local = LocalProcessor(runs_dir=tmp_path / "runs", adapters_dir=tmp_path / "adapters")
    trained = await local.train(request, on_progress=lambda progress: None)
    assert trained.model.method == "kto"
    assert trained.model.method_reason == (
        f"the data are {training_set.num_rows} labelled answers; {training_set.why_shape}"
    )
    assert trained.model.started_from is None
    assert trained.model.metrics is not None
    assert trained.model.metrics.probe_kl is not None
    assert len(trained.scores) == len(training_set.held_out) > 0
