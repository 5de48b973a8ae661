"""New against replayed rows, one skill against another, young against old: shares hold, whatever comes in."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.outcome import Success
from honed.domain.run import Run
from honed.domain.verdict import Seen
from honed.learn_models import create
from honed.ports import TrainingSet
from honed.stores import SqlStore
from honed.training_sets.candidates import Candidate, Origin
from honed.training_sets.held_out import HeldOutSplit
from honed.training_sets.mixture import AGE, REPLAYED, SKILL, age_classes, mixed
from honed.training_sets.rows import SpooledRow
from honed.training_sets.rules import Rules
from tests.unit.training_sets.test_builder import KEPT, add, build, read, rows, told, with_store

DAY = 86_400_000


def row(number: int, *, skill: str = "", days: float = 0, is_new: bool = True) -> Candidate:
    origin = Origin((f"e{number}",), (), round((1_000 - days) * DAY), skill, is_new)
    place = number.to_bytes(4, "big")
    return Candidate(origin, SpooledRow(0, 0, 0, b""), place, True, (False, 1.0), (), None)


def rules(**changed: Any) -> Rules:
    fixed: dict[str, Any] = {"min_score": 0, "min_rows": 1, "unlabelled": "wait", "seed": 1}
    split = HeldOutSplit(b"s", 0.2)
    return Rules(learn_model=create("chat"), scenario="air", split=split, **fixed, **changed)


def numbers(found: list[Candidate]) -> list[int]:
    return [int.from_bytes(each.place, "big") for each in found]


mixtures = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 40), st.booleans()), min_size=1, max_size=60
)
shares = st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0])


@given(mixtures, shares, shares, shares)
def test_every_limit_holds_and_what_is_left_out_is_counted(
    made: list[tuple[str, float, bool]], replay: float, skill_share: float, age_share: float
) -> None:
    """As far as it can: a class of one alone, and equal parts of all, are always allowed."""
    every = [row(n, skill=s, days=d, is_new=new) for n, (s, d, new) in enumerate(made)]
    left_out = Counter[str]()
    limits = rules(replay=replay, max_skill_share=skill_share, max_age_share=age_share)
    found = mixed(every, limits, left_out)
    assert found
    assert numbers(found) == sorted(numbers(found))
    assert len(found) + sum(left_out.values()) == len(every)
    ages = age_classes(mixed(every, rules(replay=replay), Counter()))
    for share, class_of in (
        (skill_share, lambda r: r.origin.skill),
        (age_share, lambda r: ages[r.key]),
    ):
        counts = Counter(map(class_of, found))
        if len(counts) > 1 and share < 1:
            assert max(counts.values()) <= max(share, 1 / len(counts)) * len(found) + 1e-6
    if replay == 1.0 == skill_share == age_share:
        assert found == every


def test_a_share_of_replay() -> None:
    """Three old rows to seven new ones; without new rows there is nothing to mix with."""
    every = [row(n, is_new=n >= 20) for n in range(27)]
    left_out = Counter[str]()
    assert numbers(mixed(every, rules(replay=0.3), left_out)) == [0, 1, 2, *range(20, 27)]
    assert left_out[REPLAYED] == 17
    assert numbers(mixed(every, rules(replay=0.0), left_out)) == list(range(20, 27))
    assert len(mixed(every[:20], rules(replay=0.3), left_out)) == 20


def test_a_share_of_one_skill() -> None:
    """Of 80, 15 and 5, half stays half: 20 of the large one beside the 20 others."""
    skills = ["large"] * 80 + ["middle"] * 15 + ["small"] * 5
    every = [row(n, skill=skill) for n, skill in enumerate(skills)]
    left_out = Counter[str]()
    found = mixed(every, rules(max_skill_share=0.5), left_out)
    counts = Counter(each.origin.skill for each in found)
    assert (counts, left_out[SKILL]) == ({"large": 20, "middle": 15, "small": 5}, 60)
    counts = Counter(
        each.origin.skill for each in mixed(every, rules(max_skill_share=0.1), left_out)
    )
    assert counts == {"large": 5, "middle": 5, "small": 5}


def test_ages_double() -> None:
    """Counted back from the youngest row, so that no clock moves them."""
    days = [0, 0.9, 1, 1.9, 2, 3.9, 4, 30]
    every = [row(n, days=each) for n, each in enumerate(days)]
    assert list(age_classes(every).values()) == [
        "under 1 d", "under 1 d", "under 2 d", "under 2 d",
        "under 4 d", "under 4 d", "under 8 d", "under 32 d",
    ]  # fmt: skip
    left_out = Counter[str]()
    found = mixed(every, rules(max_age_share=0.2), left_out)
    assert (numbers(found), left_out[AGE]) == ([0, 2, 4, 6, 7], 3)


# ------------------------------------------------------------ in a training set


async def _attempts(store: SqlStore, numbers: range, **fields: Any) -> None:
    for number in numbers:
        text = " ".join(f"{KEPT[number]}-{n}" for n in range(30))
        await add(store, told(KEPT[number], Success(), answer=text, **fields))


async def _trained(store: SqlStore, made: TrainingSet) -> None:
    """As a run leaves it."""
    await store.start_scenario("air", "chat", now_ms=1)
    run = Run(
        id="r1", scenario="air", learn_model="chat", state="done", started_at_ms=1, reason="-",
        ended_at_ms=2,
    )  # fmt: skip
    await store.add_run(run)
    await store.end_run(run, trained_count=made.episode_count, seen=made.seen or Seen())


def test_the_manifest_tells_rules_and_counts(tmp_path: Path) -> None:
    """Of a mixture of replayed and new rows of two skills."""

    async def test(store: SqlStore, folder: Path) -> None:
        await _attempts(store, range(10), tags={"skill": "rebook"})
        await _trained(store, await build(store, folder))
        await _attempts(store, range(10, 16), tags={"skill": "cancel"})
        await _attempts(store, range(16, 18), tags={"skill": "rebook"})
        made = await build(store, folder, replay=0.5, max_skill_share=0.6, seed=7)
        assert made.dataset is not None
        assert made.dataset.rules.replay == 0.5
        assert (made.dataset.rules.seed, made.dataset.rules.held_out_fraction) == (7, 0.2)
        assert made.dataset.num_new == 8
        assert made.dataset.rows_by_skill == {"cancel": 6, "rebook": 9}
        assert made.left_out == {REPLAYED: 2, SKILL: 1}
        assert made.dataset.digest == made.data_digest
        assert made.dataset.num_rows == made.num_rows == 15
        assert read(folder / "dataset.json").startswith(b"{")
        again = await build(store, folder, replay=0.5, max_skill_share=0.6, seed=7)
        assert again.dataset == made.dataset
        other = await build(store, folder, replay=0.5, max_skill_share=0.6, seed=8)
        assert other.data_digest != made.data_digest

    with_store(test, tmp_path)


@pytest.mark.parametrize(
    ("limit", "reason", "num_rows"),
    [
        ({"min_chars": 30}, "too few characters", 1),
        ({"max_chars": 30}, "too many characters", 3),
        ({"max_turns": 2}, "too many turns", 3),
    ],
)
def test_rows_of_another_length_are_left_out(
    tmp_path: Path, limit: dict[str, int], reason: str, num_rows: int
) -> None:
    """Held-out rows are what they are."""

    async def test(store: SqlStore, folder: Path) -> None:
        for number in range(3):
            await add(store, told(KEPT[number], Success(), answer=f"yes {number}"))
        long = told(KEPT[4], Success(), answer=" ".join(f"word{n}" for n in range(40)))
        long[0]["messages"] = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "what?"},
            {"role": "user", "content": "go"},
        ]
        await add(store, long)
        made = await build(store, folder, **limit)
        assert (made.num_rows, made.left_out) == (num_rows, {reason: 4 - num_rows})
        assert len(rows(made.data_path)) == num_rows

    with_store(test, tmp_path)
