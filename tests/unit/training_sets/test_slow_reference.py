"""A swarm in which much goes wrong gives exactly the rows that a slow, obvious reference gives."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.ports import TrainingSet
from honed.training_sets import EpisodeTrainingSets
from honed.training_sets.choosing import NEAR_HELD_OUT, NEAR_LEARNED
from honed.training_sets.harvest import LOW_SCORE, MAY_NOT_TEACH, NO_OUTCOME, NO_SUCCESS
from tests.feed_parts import CHAT, SECRET, line, open_intake
from tests.made_swarm import Made, made_swarm
from tests.slow_reference import expected
from tests.unit.training_sets.test_any_interleaving import end

MARKS = (MAY_NOT_TEACH, NEAR_HELD_OUT, NEAR_LEARNED, LOW_SCORE, NO_SUCCESS, NO_OUTCOME)


async def trained_on(folder: Path, swarm: Made) -> TrainingSet:
    """Send it, close its attempts, send what is late, and build a training set."""
    async with open_intake(
        folder / "honed.db", settle=timedelta(hours=1), idle=timedelta(0)
    ) as intake:
        for events in swarm:
            for start in range(0, len(events), 500):
                lines = [line(event) for event in events[start : start + 500]]
                assert not (await intake.sink.ingest(lines)).rejected
            await end(intake.store, idle=True)
        sets = EpisodeTrainingSets(
            intake.store,
            CHAT,
            scenario="airline",
            secret=SECRET,
            min_score=0.5,
            min_rows=1,
            max_episodes=10_000,
        )
        return await sets.build(folder / "run")


def rows(path: Path) -> list[str]:
    return sorted(
        json.dumps(json.loads(row), sort_keys=True) for row in path.read_text().splitlines()
    )


def plain(found: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in found)


def check(folder: Path, num: int, seed: int) -> None:
    swarm = made_swarm(num, seed=seed)
    made = anyio.run(trained_on, folder, swarm)
    should = expected([*swarm.first, *swarm.late], secret=SECRET, fraction=0.2, min_score=0.5)
    assert num / 5 < len(should.training) < num / 2
    reasons = ("held out", *MARKS)
    assert all(made.left_out.get(reason) for reason in reasons), "the swarm is too tame"
    assert len(made.forks) == 3
    assert rows(made.data_path) == plain(should.training)
    assert rows(made.held_out_path) == plain([row for row, _ in should.held_out])
    successes = sum(each.is_success for each in made.held_out)
    assert successes == sum(is_success for _, is_success in should.held_out)


@pytest.mark.feature("SE-092")
def test_the_reference_agrees_on_a_small_swarm(tmp_path: Path) -> None:
    """400 attempts."""
    check(tmp_path, 400, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
def test_the_reference_agrees_on_a_swarm(tmp_path: Path, seed: int) -> None:
    """5,000 attempts."""
    check(tmp_path, 5_000, seed=seed)
