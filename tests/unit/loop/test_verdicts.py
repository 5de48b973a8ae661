"""Verdicts that come after a training: the loop sees them, the next training learns from them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.outcome import Failure, Success
from honed.domain.run import Run
from honed.keeping.forgetting import Forgetting
from honed.learn_models import create
from honed.ports import Whose
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from tests.feed_parts import call, close_all, failure, incoming, success
from tests.unit.loop.conftest import SCENARIO
from tests.unit.loop.test_trigger_loop import Parts

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def looping(store: SqlStore, folder: Path, trigger: str) -> AsyncIterator[Parts]:
    """A loop on training sets as a daemon builds them."""
    sets = EpisodeTrainingSets(
        store,
        create("chat"),
        scenario=SCENARIO,
        secret=bytes(32),
        held_out_fraction=0.0,
        min_rows=1,
    )
    parts = Parts(store, folder, trigger=trigger, sets=sets)
    async with anyio.create_task_group() as tasks:
        await tasks.start(parts.loop.run)
        yield parts
        tasks.cancel_scope.cancel()


async def attempts(store: SqlStore, *tasks: str) -> list[str]:
    """Successes, one for each task; the ids of their episodes."""
    for task in tasks:
        answer = {"role": "assistant", "content": f"done {task}"}
        told = [call(task_id=task, response_message=answer), success(task_id=task)]
        await store.append([incoming(event) for event in told])
    return [episode.id for episode in await close_all(store)]


def taught(folder: Path, run: Run) -> set[str]:
    """The tasks that a run learned from."""
    lines = (folder / "runs" / run.id / "chat.jsonl").read_bytes().splitlines()
    return {
        msgspec.json.decode(line)["messages"][-1]["content"].removeprefix("done ") for line in lines
    }


@pytest.mark.feature("SE-053")
async def test_a_verdict_after_the_training_is_learned_from_in_the_next(
    store: SqlStore, tmp_path: Path
) -> None:
    """It fires the rule like a new episode, once; both runs say by which verdict they went."""
    async with looping(store, tmp_path, "count(2)") as parts:
        good, _ = await attempts(store, "good", "other")
        (first,) = await parts.ended()
        told: list[dict[str, Any]] = [
            success(task_id="good", source="ann"),  # as it stood
            failure("reopened", task_id="good", source="ann"),
        ]
        await store.append([incoming(event) for event in told])
        await attempts(store, "new")
        second, _ = await parts.ended(2)
        await store.append([incoming(failure("again", task_id="good", source="ben"))])
        await attempts(store, "newest")
        await parts.loop.beat()
        assert "2 episodes" in str(await parts.loop.verdict())
        assert len(await parts.runs()) == 2
    assert (first.num_new, first.num_changed, first.left_out) == (2, 0, {})
    assert (second.num_new, second.num_changed, second.left_out) == (1, 1, {"not a success": 1})
    assert taught(tmp_path, first) == {"good", "other"}
    assert taught(tmp_path, second) == {"other", "new"}
    [lesson] = await store.lessons.of(good)
    assert (lesson.model_id, lesson.run_id, lesson.outcome) == ("airline@1", first.id, Success())


async def test_a_verdict_during_a_training_starts_the_next(store: SqlStore, tmp_path: Path) -> None:
    """The run that reads is not told any more; nothing of it is lost."""
    async with looping(store, tmp_path, "count(1)") as parts:
        parts.training.may_end = anyio.Event()
        await attempts(store, "good", "other")
        await parts.training.started.wait()
        await store.append([incoming(failure("reopened", task_id="good"))])
        parts.training.may_end.set()
        second, first = await parts.ended(2)
    assert first.num_episodes == 2
    assert (second.num_episodes, second.num_new, second.num_changed) == (1, 0, 1)


async def test_a_training_without_anything_to_learn_has_seen_it_all_the_same(
    store: SqlStore, tmp_path: Path
) -> None:
    """A run that is skipped does not start over and over on the same verdict."""
    async with looping(store, tmp_path, "count(1)") as parts:
        (one,) = await attempts(store, "only")
        await parts.ended()
        await store.set_outcome(one, Failure("reopened"))
        skipped, _ = await parts.ended(2)
        await parts.loop.beat()
        assert len(await parts.runs()) == 2
    assert skipped.state == "skipped"


async def test_what_is_forgotten_names_the_adapters_that_learned_from_it(
    store: SqlStore, tmp_path: Path
) -> None:
    """As the runs wrote it down: not one that left it out because of a later verdict."""
    async with looping(store, tmp_path, "count(2)") as parts:
        good, other = await attempts(store, "good", "other")
        await parts.ended()
        await store.append([incoming(failure("reopened", task_id="good"))])
        await attempts(store, "new")
        await parts.ended(2)
        forgetting = Forgetting(store.keeping, runs_dir=tmp_path / "runs")
        seen = await forgetting.look(Whose("episode", other))
        assert seen.adapters == {"airline@1": 1, "airline@2": 1}
        assert len(seen.runs) == 2
        done = await forgetting.forget(Whose("episode", good))
        assert done.adapters == {"airline@1": 1}
    assert [lesson.model_id for lesson in await store.lessons.of(other)] == [
        "airline@1",
        "airline@2",
    ]
