"""Pairs of attempts and of edited answers, and answers marked good or bad; on a real store."""

from pathlib import Path
from typing import Any

import pytest

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.errors import EmptyDataError
from honed.learn_models import DpoConfig, create
from honed.ports import TrainingSet
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from honed.training_sets.choosing import TOO_MANY_PAIRS
from honed.training_sets.comparisons import ALONE, NO_ANSWER, NO_GROUP, NO_PAIR, SAME_ANSWER
from tests.unit.training_sets.test_builder import (
    HELD_OUT,
    KEPT,
    SECRET,
    add,
    rows,
    told,
    with_store,
)

GROUP, OTHER = KEPT[0], KEPT[1]


async def attempt(
    store: SqlStore, name: str, outcome: Outcome, answer: str, *, group: str = GROUP, **fields: Any
) -> str:
    """One that answers what its whole group is asked."""
    events = told(name, outcome, answer=answer, group_id=group, **fields)
    events[0]["messages"] = [{"role": "user", "content": f"do {group}"}]
    return await add(store, events)


async def edited(store: SqlStore, name: str, outcome: Outcome, answer: str, better: str) -> str:
    """One whose answer somebody has edited."""
    events = told(name, outcome, answer=answer)
    events[1] |= {"demonstration": better, "source": "ada"}
    return await add(store, events)


async def built(
    store: SqlStore, folder: Path, shape: Any, model: str = "chat", **settings: Any
) -> TrainingSet:
    settings = {"scenario": "air", "secret": SECRET, "min_rows": 1} | settings
    return await EpisodeTrainingSets(store, create(model), **settings).build(folder, shape=shape)


def said(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Of each row, what these columns end with."""
    return sorted(tuple(row[name][-1]["content"] for name in names) for row in rows(path))


@pytest.mark.feature("SE-054")
def test_attempts_of_one_group_are_paired(tmp_path: Path) -> None:
    """The better is chosen, by score; who is alone, or says the same, is counted."""

    async def test(store: SqlStore, folder: Path) -> None:
        good = await attempt(store, "t1", Success(1.0), "good")
        fair = await attempt(store, "t2", Success(0.5), "fair")
        bad = await attempt(store, "t3", Failure("no"), "bad")
        await attempt(store, "t4", Success(1.0), "good", group=OTHER)
        await attempt(store, "t5", Success(1.0), "better", group=OTHER)
        await add(store, told(KEPT[2], Success(), answer="lonely"))
        await attempt(store, "t6", Unknown(), "unknown")
        for name, outcome in (("t7", Success()), ("t8", Failure("no"))):
            await attempt(store, name, outcome, "same", group=KEPT[3])
        held = await attempt(store, "t9", Success(), "held out", group=HELD_OUT[0])
        made = await built(store, folder, "preference")
        assert said(made.data_path, "prompt", "chosen", "rejected") == [
            (f"do {GROUP}", "fair", "bad"),
            (f"do {GROUP}", "good", "bad"),
            (f"do {GROUP}", "good", "fair"),
        ]
        assert made.left_out == {
            ALONE: 2, NO_GROUP: 1, NO_PAIR: 2, "held out": 1, "without an outcome": 1
        }  # fmt: skip
        assert made.episode_ids == tuple(sorted((good, fair, bad)))
        assert [each.episode_id for each in made.held_out] == [held]
        assert said(made.held_out_path, "messages") == [("held out",)]
        meta = rows(folder / "chat.meta.jsonl")
        assert all(each["group"] == GROUP and each["rejected_episode_id"] for each in meta)

    with_store(test, tmp_path)


def test_the_largest_gaps_are_kept(tmp_path: Path) -> None:
    """`max_pairs` cuts, `min_quality_gap` leaves out, and reuse can be forbidden; edited answers come first."""

    async def test(store: SqlStore, folder: Path) -> None:
        await attempt(store, "t1", Success(1.0), "good")
        await attempt(store, "t2", Success(0.6), "fair")
        await attempt(store, "t3", Timeout(0.5), "late")
        await attempt(store, "t4", Failure("no"), "bad")
        await edited(store, KEPT[5], Unknown(), "original", "edited")

        async def pairs(**config: Any) -> list[tuple[str, ...]]:
            made = await built(store, folder, "preference", pairs=DpoConfig(**config))
            return said(made.data_path, "chosen", "rejected")

        best = ("good", "bad")
        assert await pairs(max_pairs=2) == [("edited", "original"), best]
        assert await pairs(min_quality_gap=0.6) == [
            ("edited", "original"), ("fair", "bad"), best
        ]  # fmt: skip
        assert await pairs(allow_reuse=False) == [("edited", "original"), ("fair", "late"), best]
        made = await built(store, folder, "preference", pairs=DpoConfig(max_pairs=2))
        assert made.left_out == {TOO_MANY_PAIRS: 5}
        assert made.dataset is not None
        assert made.dataset.rules.max_pairs == 2

    with_store(test, tmp_path)


@pytest.mark.parametrize("outcome", [Success(1.0), Failure("no"), Unknown()])
def test_an_edited_answer_is_chosen_and_the_original_rejected(
    tmp_path: Path, outcome: Outcome
) -> None:
    """Whatever the attempt came to; as single answers the original is bad only where the attempt is no success."""

    async def test(store: SqlStore, folder: Path) -> None:
        await edited(store, KEPT[0], outcome, "original", "edited")
        made = await built(store, folder, "preference")
        assert said(made.data_path, "chosen", "rejected") == [("edited", "original")]
        assert rows(folder / "chat.meta.jsonl")[0]["demonstrated_by"] == "ada"
        made = await built(store, folder, "labelled")
        answers = {row["completion"][-1]["content"]: row["label"] for row in rows(made.data_path)}
        assert answers == {"edited": True} | (
            {} if outcome == Success(1.0) else {"original": False}
        )

    with_store(test, tmp_path)


def test_an_edit_that_changes_nothing_makes_no_pair(tmp_path: Path) -> None:
    """Neither answer is better."""

    async def test(store: SqlStore, folder: Path) -> None:
        await edited(store, KEPT[0], Success(), "same", " same ")
        with pytest.raises(EmptyDataError, match=f"1 {SAME_ANSWER}"):
            await built(store, folder, "preference")

    with_store(test, tmp_path)


@pytest.mark.feature("SE-054")
def test_answers_are_good_or_bad(tmp_path: Path) -> None:
    """By the outcome of their attempt; weak successes are neither, nor is what cannot be imitated whole."""

    async def test(store: SqlStore, folder: Path) -> None:
        await add(store, told(KEPT[0], Success(0.9), answer="good"))
        await add(store, told(KEPT[1], Success(0.2), answer="weak"))
        await add(store, told(KEPT[2], Failure("no"), answer="bad"))
        await add(store, told(KEPT[3], Timeout(0.9), answer="late"))
        await add(store, told(KEPT[4], Success(), answer="theirs", trust="untrusted"))
        await add(store, told(KEPT[5], Unknown(), answer="open"))
        made = await built(store, folder, "labelled", min_score=0.5)
        found = {row["completion"][0]["content"]: row["label"] for row in rows(made.data_path)}
        assert found == {"good": True, "bad": False, "late": False}
        assert made.left_out == {"score too low": 1, NO_ANSWER: 1, "without an outcome": 1}

    with_store(test, tmp_path)


def test_equal_episodes_and_rules_give_equal_pairs(tmp_path: Path) -> None:
    """Byte for byte, manifest and all; another seed another order of the same rows."""

    async def test(store: SqlStore, folder: Path) -> None:
        for number in range(8):
            outcome = Success(number / 10) if number else Failure("no")
            await attempt(store, f"t{number}", outcome, f"answer {number}")
        for shape in ("preference", "labelled"):
            one, again, other = [
                await built(store, folder / shape / str(i), shape, seed=seed)
                for i, seed in enumerate((1, 1, 2))
            ]
            assert one.dataset == again.dataset
            assert one.data_digest != other.data_digest
            assert sorted(rows(one.data_path), key=repr) == sorted(rows(other.data_path), key=repr)

    with_store(test, tmp_path)


def test_actions_are_compared_too(tmp_path: Path) -> None:
    """By the extractor of their learn model."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name, outcome, second in (("t1", Success(), "fix"), ("t2", Failure("no"), "wait")):
            acts = [
                {
                    "type": "action",
                    "tick": tick,
                    "worker_id": 0,
                    "action": act,
                    "result": {"success": True},
                }
                for tick, act in enumerate(("look", second, "done"))
            ]
            verdict = told(name, outcome)[1]
            names = {"task_id": name, "group_id": GROUP, "scenario": "air"}
            events = [
                e | names | {"event_id": f"{name}-{n}"} for n, e in enumerate([*acts, verdict])
            ]
            await add(store, events, "worker_task")
        made = await built(store, folder, "preference", model="worker_task")
        assert said(made.data_path, "chosen", "rejected") == [("look -> fix", "look -> wait")]

    with_store(test, tmp_path)


ALL: dict[str, Any] = {"fallbacks": ("preference", "labelled")}


async def failures_and_successes(store: SqlStore, *, failures: int, successes: int) -> None:
    """Attempts of one group, all answered differently."""
    for kind, count, outcome in (
        ("bad", failures, Failure("no")),
        ("good", successes, Success(1.0)),
    ):
        for number in range(count):
            await attempt(store, f"{kind}{number}", outcome, f"{kind} {number}")


@pytest.mark.parametrize(
    ("min_rows", "shape", "why"),
    [
        (3, "sft", None),
        (4, "preference", "sft had 3 training rows in 5 episodes, expected at least 4"),
    ],
)
def test_successes_are_imitated_where_there_are_enough(
    tmp_path: Path, min_rows: int, shape: str, why: str | None
) -> None:
    """Else attempts of one group are compared, and why is told; a preview shows the same."""

    async def test(store: SqlStore, folder: Path) -> None:
        await failures_and_successes(store, failures=2, successes=3)
        sets = EpisodeTrainingSets(
            store, create("chat"), scenario="air", secret=SECRET, min_rows=min_rows, **ALL
        )
        shown = await sets.preview(folder / "scratch", num_rows=1)
        made = await sets.build(folder)
        assert made.dataset is not None
        assert (shown.shape, made.dataset.rules.shape) == (shape, shape)
        assert (shown.data_digest, shown.problem) == (made.data_digest, None)
        assert shown.num_episodes == 5
        assert (made.why_shape or "").startswith(why or "")
        assert bool(made.why_shape) == bool(why)

    with_store(test, tmp_path)


def test_answers_are_labelled_where_nothing_else_gives_enough(tmp_path: Path) -> None:
    """Judged attempts of no group; each counts, good or bad, and why is told."""

    async def test(store: SqlStore, folder: Path) -> None:
        for number, name in enumerate(KEPT[:5]):
            outcome = Success(1.0) if number == 0 else Failure("no")
            await add(store, told(name, outcome, answer=f"answer {number}"))
        made = await built(store, folder, None, min_rows=4, **ALL)
        assert sorted(row["label"] for row in rows(made.data_path)) == [False] * 4 + [True]
        assert made.why_shape is not None
        assert "sft had 1 training rows" in made.why_shape
        assert "; dpo had no training rows" in made.why_shape

    with_store(test, tmp_path)


@pytest.mark.parametrize("outcome", [Failure("no"), Success(1.0)], ids=["bad", "good"])
def test_answers_of_one_label_are_no_way_out(tmp_path: Path, outcome: Outcome) -> None:
    """They say nothing of the difference: what is told is why there is too little to imitate."""

    async def test(store: SqlStore, folder: Path) -> None:
        for number, name in enumerate(KEPT[:5]):
            events = told(name, outcome, answer=f"answer {number}")
            await add(store, events)
        few = 6 if isinstance(outcome, Success) else 4
        with pytest.raises(EmptyDataError, match=f"expected at least {few}") as raised:
            await built(store, folder, None, min_rows=few, **ALL)
        assert "good or all bad" not in str(raised.value)
        shown = await EpisodeTrainingSets(
            store, create("chat"), scenario="air", secret=SECRET, min_rows=few, **ALL
        ).preview(folder / "scratch")
        assert shown.shape == "sft"
        assert shown.problem is not None

    with_store(test, tmp_path)
