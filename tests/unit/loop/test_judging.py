"""The loop asks the gate with all earlier looks, and a gate that breaks lets nothing pass."""

import random
from typing import Any

import pytest

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate
from honed.loop.judging import verdict_on
from honed.ports import HeldOut
from honed.stores import SqlStore
from tests.unit.loop.conftest import model

pytestmark = pytest.mark.anyio

HELD_OUT = [HeldOut(episode_id=f"e{i}", group=f"g{i}", is_success=i % 2 == 0) for i in range(60)]


def scores(seed: int) -> list[EpisodeScore]:
    rng = random.Random(seed)
    return [
        EpisodeScore(num_tokens=9, candidate=rng.gauss(-2, 0.1), incumbent=-2) for _ in HELD_OUT
    ]


async def looked(store: SqlStore, name: str, seed: int = 0, **fields: Any) -> GateResult:
    """Register a candidate, unless it is there already, and have it judged."""
    candidate = model(name, **fields)
    if name not in {known.id for known in await store.list_models(candidate.scenario)}:
        await store.add_model(candidate)
    verdict = await verdict_on(
        HeldOutGate(), store, candidate, HELD_OUT, scores(seed), incumbent_id=None
    )
    await store.set_gate(name, verdict)
    return verdict


class Broken:
    """A gate whose evaluator crashes."""

    def judge(self, held_out: Any, scores: Any, **asked: Any) -> GateResult:
        raise ZeroDivisionError("no episodes in slice")


async def test_an_evaluator_that_crashes_is_not_a_pass(store: SqlStore) -> None:
    """The candidate waits, and the verdict says what broke."""
    candidate = model("airline@1")
    await store.add_model(candidate)
    verdict = await verdict_on(Broken(), store, candidate, HELD_OUT, scores(0), incumbent_id="a@0")
    assert (verdict.decision, verdict.passed) == ("not_enough_evidence", False)
    assert "ZeroDivisionError: no episodes in slice" in verdict.reason
    assert (verdict.incumbent_id, verdict.num_successes, verdict.num_failures) == ("a@0", 30, 30)


async def test_scores_that_are_missing_are_not_a_pass(store: SqlStore) -> None:
    """A scorer that left episodes out has broken."""
    candidate = model("airline@1")
    await store.add_model(candidate)
    verdict = await verdict_on(
        HeldOutGate(), store, candidate, HELD_OUT, scores(0)[:-1], incumbent_id=None
    )
    assert verdict.decision == "not_enough_evidence"


async def test_each_candidate_of_the_line_makes_it_harder_for_the_next(store: SqlStore) -> None:
    """Looks are counted from the store, so a restart forgets none."""
    verdicts = [await looked(store, f"airline@{n}", seed=n) for n in range(1, 4)]
    assert [verdict.look for verdict in verdicts] == [1, 2, 3]
    levels = [verdict.level for verdict in verdicts]
    assert levels == sorted(levels, reverse=True)


async def test_other_lines_and_controls_are_not_counted(store: SqlStore) -> None:
    """What cannot go live by itself, or learns something else, uses up no look."""
    await looked(store, "airline@1", selection="blind")
    await looked(store, "airline@2", learn_model="worker_task")
    assert (await looked(store, "airline@3")).look == 1


async def test_a_candidate_that_is_judged_again_has_looked_twice(store: SqlStore) -> None:
    """Its second look counts its first, and both count for the next candidate."""
    await looked(store, "airline@1")
    again = await looked(store, "airline@1")
    assert (again.look, len(again.sketches)) == (2, 2)
    assert (await looked(store, "airline@2")).look == 3
