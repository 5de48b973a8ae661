"""A rule that was changed under episodes that are there already: nothing is made anew, and that is said."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from honed.doctor import processes
from honed.doctor.finding import together
from honed.domain.composition import PLAIN, Composition, parse_weight
from honed.domain.outcome import Success
from honed.ports import EpisodeFilter
from honed.rewards.jury import Jury
from honed.stores import open_store
from tests.feed_parts import call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio

DESK_FIRST = Composition(rule="first", weights=(parse_weight("desk"), parse_weight("*")))


async def _outdated(path: Path, composition: Composition) -> dict[str, int]:
    async with open_store(f"sqlite:///{path}", composition=composition) as store:
        jury = Jury(store, scenario="airline", learn_models=["chat"])
        await jury.compare_rule()
        assert (await jury.status())["outdated"] == jury.outdated
        return jury.outdated["chat"]


async def test_outcomes_of_a_former_rule_are_counted(tmp_path: Path) -> None:
    """Those that the present rule would make otherwise; without verdicts there is nothing to compare."""
    path = tmp_path / "a.db"
    async with open_store(f"sqlite:///{path}", composition=PLAIN) as store:
        for task in ("silent", "agreed", "overruled", "late"):
            await store.append([incoming(call(task_id=task))])
        await store.append([incoming(success(task_id="agreed", source="desk"))])
        await store.append([incoming(success(task_id="overruled", source="desk"))])
        await store.append([incoming(failure(task_id="overruled", source="bot"))])
        await close_all(store)
        await store.append([incoming(success(0.5, task_id="late", source="desk"))])
        await store.append([incoming(success(0.7, task_id="late", source="bot"))])
    assert await _outdated(path, PLAIN) == {"num": 0, "of": 3}
    with capture_logs() as logged:
        assert await _outdated(path, DESK_FIRST) == {"num": 2, "of": 3}
    (said,) = [each for each in logged if each["event"] == "composition.changed"]
    assert (said["learn_model"], said["num_outdated"], said["of"]) == ("chat", 2, 3)
    assert await _outdated(path, PLAIN) == {"num": 0, "of": 3}


async def test_the_next_word_on_an_episode_makes_it_by_the_present_rule(tmp_path: Path) -> None:
    """Whoever speaks; then it is outdated no more."""
    path = tmp_path / "a.db"
    async with open_store(f"sqlite:///{path}", composition=PLAIN) as store:
        await store.append([incoming(call(task_id="t"))])
        await store.append([incoming(success(0.5, task_id="t", source="desk"))])
        await store.append([incoming(failure(task_id="t", source="bot"))])
        await close_all(store)
    assert await _outdated(path, DESK_FIRST) == {"num": 1, "of": 1}
    async with open_store(f"sqlite:///{path}", composition=DESK_FIRST) as store:
        await store.append([incoming(failure(task_id="t", source="bot"))])
        (row,) = await store.list_episodes(EpisodeFilter())
        assert row.outcome == Success(0.5)
    assert await _outdated(path, DESK_FIRST) == {"num": 0, "of": 1}


def test_the_doctor_says_that_outcomes_are_of_a_former_rule() -> None:
    """Of the running daemon, with what to do."""
    answer = {"scenario": "a", "rewards": {"outdated": {"chat": {"num": 2, "of": 3}}}}
    found = together(processes._troubles(answer, "a"))
    assert "2 of the 3 newest judged episodes of chat" in found.text
    assert "honed feedback" in (found.advice or "")
