"""What was held out is never learned from, and what was learned from is never held out: whatever somebody tries.

Each attempt says a word of its own, `markN`, by which it is known again wherever it turns up.
"""

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from honed.domain.held_text import num_equal
from honed.domain.message import Message
from honed.domain.outcome import Failure, Success
from honed.domain.training_data import ChatExample
from honed.errors import EmptyDataError
from honed.keeping.forgetting import Forgetting
from honed.learn_models import create
from honed.ports import EpisodeFilter, Look, TrainingSet, Whose
from honed.sink import Sink
from honed.stores import SqlStore, open_store
from honed.training_sets import (
    FORMATS,
    EpisodeTrainingSets,
    Export,
    HeldOutSplit,
    StoredEpisode,
)
from honed.training_sets.choosing import BOTH_SIDES, NEAR_HELD_OUT, NEAR_LEARNED
from honed.training_sets.near_duplicates import said, sketch
from honed.training_sets.trajectories import events_of
from tests.feed_parts import action, line

pytestmark = pytest.mark.anyio

SECRET, OTHER_SECRET = b"s" * 32, b"o" * 32
NUM = 40


class Files(NamedTuple):
    """What one build wrote."""

    made: TrainingSet
    trained: frozenset[str]
    """Marks in the training file."""
    held_out: frozenset[str]


class Swarm:
    """A store with its intake, and trainings on it."""

    def __init__(self, store: SqlStore, sink: Sink, folder: Path, secret: bytes) -> None:
        self.store, self.sink, self.folder, self.secret = store, sink, folder, secret
        self._num_builds = 0

    async def tell(self, *events: dict[str, Any]) -> None:
        await self.tell_lines([line(event) for event in events])

    async def tell_lines(self, lines: list[bytes]) -> None:
        assert not (await self.sink.ingest(lines)).rejected
        with anyio.fail_after(20):
            while await self.store.next_due_ms(settle_ms=0, idle_ms=0) is not None:
                await anyio.sleep(0.01)

    async def build(
        self,
        fraction: float = 0.3,
        model: str = "chat",
        shape: Any = "sft",
        look: Look | None = None,
        **rules: Any,
    ) -> Files:
        self._num_builds += 1
        sets = EpisodeTrainingSets(
            self.store,
            create(model),
            scenario="air",
            secret=self.secret,
            held_out_fraction=fraction,
            min_rows=1,
            **rules,
        )
        folder = self.folder / f"run-{self._num_builds}"
        made = await sets.build(folder, shape=shape, look=look)
        return Files(made, marks(made.data_path), marks(made.held_out_path))

    async def ids_by_mark(self) -> dict[str, list[str]]:
        """Episodes of conversations."""
        found: dict[str, list[str]] = {}
        async for episode in self.store.query_episodes(EpisodeFilter(learn_model="chat")):
            for mark in marks_in(repr(episode.records)):
                found.setdefault(mark, []).append(episode.id)
        return found


@asynccontextmanager
async def open_swarm(
    folder: Path, secret: bytes = SECRET, models: Sequence[str] = ("chat",)
) -> AsyncIterator[Swarm]:
    folder.mkdir(exist_ok=True)
    async with (
        open_store(f"sqlite:///{folder / 'honed.db'}") as store,
        anyio.create_task_group() as tasks,
    ):
        sink = Sink(
            store,
            [create(name) for name in models],
            scenario="air",
            secret=secret,
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda episode: None,
        )
        tasks.start_soon(sink.run)
        yield Swarm(store, sink, folder, secret)
        tasks.cancel_scope.cancel()


def marks(path: Path) -> frozenset[str]:
    return marks_in(path.read_text())


def marks_in(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"mark\d+", text))


def text(number: int, *, swapped: int = 0) -> str:
    """What attempt `number` was asked; some words swapped for others."""
    words = [f"w{n}" for n in random.Random(number).choices(range(2_000), k=120)]
    for place in range(swapped):
        words[10 + 50 * place] = f"other{place}"
    return " ".join([f"mark{number}", *words])


def attempt(number: int, *, swapped: int = 0, **names: Any) -> list[dict[str, Any]]:
    """A successful attempt: a call, an action and a verdict, without ids of their own."""
    names = {"task_id": f"task-{number}", "group_id": f"group-{number}"} | names
    call = {
        "type": "llm_call",
        "messages": [{"role": "user", "content": text(number, swapped=swapped)}],
        "response_message": {"role": "assistant", "content": f"done w{number}"},
    }
    did = action(context={"observation": text(number, swapped=swapped)})
    done = action(name="done", tick=2)
    verdict = {"type": "outcome", "outcome": {"type": "success", "score": 1.0}}
    return [event | names for event in (call, did, done, verdict)]


def attempts(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [event for number in numbers for event in attempt(number)]


async def first(swarm: Swarm, num: int = NUM) -> Files:
    """Forty attempts, and the first training on them."""
    await swarm.tell(*attempts(range(num)))
    found = await swarm.build()
    assert found.trained
    assert found.held_out
    assert found.trained | found.held_out == {f"mark{number}" for number in range(num)}
    return found


def check(before: Files, after: Files) -> None:
    """The law."""
    assert not after.trained & before.held_out, "held out once, learned from now"
    assert not after.held_out & before.trained, "learned from once, held out now"
    assert not after.trained & after.held_out


# ------------------------------------------------------------ what somebody may try


async def reimport(swarm: Swarm, before: Files) -> None:
    """Everything again, without ids: other names for the same attempts."""
    again = [
        attempt(number, task_id=f"again-{number}", group_id=f"anew-{number}")
        for number in range(NUM)
    ]
    await swarm.tell(*chain.from_iterable(again))


async def through_a_form_without_names(swarm: Swarm, before: Files) -> None:
    """Exported as rows for a trainer, which have neither task nor group, and imported."""
    export = Export(
        store=swarm.store,
        learn_model=create("chat"),
        scenario="air",
        shape="sft",
        filter=EpisodeFilter(learn_model="chat"),
    )
    lines: list[bytes] = []
    for row in [row async for row in export.lines()]:
        told = FORMATS["sft"].read(row)
        assert isinstance(told, list)
        [made] = map(events_of, told)
        lines += made.lines
    await swarm.tell_lines(lines)
    ids = await swarm.ids_by_mark()
    for id in chain.from_iterable(ids[mark] for mark in before.held_out):
        await swarm.store.set_outcome(id, Success(1.0), source="somebody")


async def relabel(swarm: Swarm, before: Files) -> None:
    """Failures become successes and successes failures, by verdicts that name groups of the other side."""
    ids = await swarm.ids_by_mark()
    told = []
    for mark in sorted(before.held_out | before.trained):
        [id] = ids[mark]
        outcome = Success(0.9) if mark in before.held_out else Failure("worse")
        await swarm.store.set_outcome(id, outcome, source="somebody")
        number = mark.removeprefix("mark")
        verdict = {"type": "outcome", "outcome": {"type": "success", "score": 0.8}}
        told.append(verdict | {"task_id": f"task-{number}", "group_id": "other"})
    await swarm.tell(*told)


async def change_group(swarm: Swarm, before: Files) -> None:
    """The same tasks with other words under groups of the other side, the old ones forgotten."""
    for number in range(NUM):
        await forget(swarm, Whose("task", f"task-{number}"))
    sides = {n: group(held_out=f"mark{n}" in before.trained) for n in range(NUM)}
    again = [attempt(n, swapped=2, group_id=side) for n, side in sides.items()]
    await swarm.tell(*chain.from_iterable(again))


async def nearly_the_same(swarm: Swarm, before: Files) -> None:
    """A word or two swapped, under new names."""
    near = [
        attempt(n, swapped=1 + n % 2, task_id=f"near-{n}", group_id=f"near-{n}") for n in range(NUM)
    ]
    await swarm.tell(*chain.from_iterable(near))


async def forget_and_resend(swarm: Swarm, before: Files) -> None:
    """Taken out for ever and sent again, at another fraction (`FRACTION`)."""
    for number in range(NUM):
        await forget(swarm, Whose("task", f"task-{number}"))
    assert await swarm.ids_by_mark() == {}
    await swarm.tell(*attempts(reversed(range(NUM))))


async def nothing(swarm: Swarm, before: Files) -> None:
    """Only another fraction."""


async def forget(swarm: Swarm, whose: Whose) -> None:
    assert (await Forgetting(swarm.store.keeping, runs_dir=swarm.folder).forget(whose)).done


def group(*, held_out: bool) -> str:
    """A group that is on this side by its name alone."""
    split = HeldOutSplit(SECRET, 0.3)
    return next(
        name for name in (f"side-{n}" for n in range(100)) if split.is_held_out(name) == held_out
    )


Attack = Callable[[Swarm, Files], Awaitable[None]]
ATTACKS: tuple[Attack, ...] = (
    reimport,
    through_a_form_without_names,
    relabel,
    change_group,
    nearly_the_same,
    forget_and_resend,
    nothing,
)


@pytest.mark.parametrize("fraction", [0.01, 0.9])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_the_held_out_cannot_be_learned_from(
    tmp_path: Path, attack: Attack, fraction: float
) -> None:
    """Whatever is tried after the first training, and whatever fraction is set then, in every later one."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        await attack(swarm, before)
        check(before, await swarm.build(fraction))
        check(before, await swarm.build(0.3))


async def renamed(swarm: Swarm, *, swapped: int = 0) -> None:
    """All texts once more, under tasks and groups that nobody has seen."""
    names = [{"task_id": f"later-{n}", "group_id": f"later-{n}"} for n in range(NUM)]
    told = [attempt(n, swapped=swapped, **named) for n, named in enumerate(names)]
    await swarm.tell(*chain.from_iterable(told))


@pytest.mark.parametrize("swapped", [0, 2])
async def test_what_has_left_the_window_is_not_learned_under_another_task(
    tmp_path: Path, swapped: int
) -> None:
    """A run that looks at the newest episodes alone knows all that was ever held out, also in nearly the same words."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        await renamed(swarm, swapped=swapped)
        for fraction in (0.3, 0.01):
            after = await swarm.build(fraction, max_episodes=NUM)
            assert after.trained, "the others are learned from"
            assert not after.trained & before.held_out
            assert after.made.left_out[NEAR_HELD_OUT] > 0


@pytest.mark.parametrize("swapped", [0, 2])
async def test_a_forgotten_text_that_comes_again_under_another_task_is_not_learned(
    tmp_path: Path, swapped: int
) -> None:
    """The text is gone; what tells that it was held out is not."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        for number in range(NUM):
            await forget(swarm, Whose("task", f"task-{number}"))
        await renamed(swarm, swapped=swapped)
        after = await swarm.build(0.01)
        assert after.trained
        assert not after.trained & before.held_out


async def test_pairs_know_what_has_left_the_window(tmp_path: Path) -> None:
    """An answer of a pair that was held out as a conversation is in none, however long ago that was."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        told = []
        for number in range(NUM):
            good = attempt(number, task_id=f"good-{number}", group_id=f"later-{number}")
            bad = attempt(number, task_id=f"bad-{number}", group_id=f"later-{number}")
            bad[0]["response_message"] = {"role": "assistant", "content": f"no w{number}"}
            bad[-1]["outcome"] = {"type": "failure", "reason": "no"}
            bad[2]["result"] = {"success": False}
            told += [*good, *bad]
        await swarm.tell(*told)
        for shape in ("preference", "labelled"):
            after = await swarm.build(0.01, shape=shape, max_episodes=2 * NUM)
            assert after.trained
            assert not after.trained & before.held_out


async def test_nothing_that_is_remembered_of_a_held_out_text_can_be_tried(tmp_path: Path) -> None:
    """Without the key neither the words nor their sketch give what the store keeps."""
    example = ChatExample(
        messages=(
            Message(role="user", content="yes or no?"),
            Message(role="assistant", content="yes, for certain"),
        )
    )
    made = [
        HeldOutSplit(key, 0.3).texts.text(said(example), sketch(example))
        for key in (SECRET, OTHER_SECRET)
    ]
    assert made[0].digest != made[1].digest
    assert not set(made[0].bands) & set(made[1].bands)
    assert num_equal(made[0].parts, made[1].parts) < 5
    async with open_swarm(tmp_path) as swarm:
        await swarm.store.lessons.hold_out(made[:1])
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("honed.db*"))
    assert made[0].digest in stored
    assert said(example) not in stored
    assert b"for certain" not in stored


async def test_a_preview_remembers_nothing(tmp_path: Path) -> None:
    """Looking at what a run would hold out does not hold it out."""
    async with open_swarm(tmp_path) as swarm:
        await swarm.tell(*attempts(range(NUM)))
        await swarm.build(0.3, look=lambda episode, reason: None)
        await renamed(swarm)
        made = await swarm.build(0.3, max_episodes=NUM)
        assert made.made.left_out.get(NEAR_HELD_OUT, 0) == 0


async def test_rows_that_say_nearly_what_is_held_out_are_counted(tmp_path: Path) -> None:
    """Those whose own names put them on the side of training."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        await nearly_the_same(swarm, before)
        after = await swarm.build()
        assert after.made.left_out[NEAR_HELD_OUT] > 0
        assert after.made.left_out[NEAR_LEARNED] > 0
        assert after.made.num_rows + sum(after.made.left_out.values()) == 2 * NUM


async def test_one_text_under_many_names_is_learned_from_or_held_out_as_it_began(
    tmp_path: Path,
) -> None:
    """The first attempt decides for all that say the same; where that leaves nothing, the error says what to do."""
    split = HeldOutSplit(SECRET, 0.3)
    names = [f"group-{n}" for n in range(NUM)]
    for side in (False, True):
        async with open_swarm(tmp_path / str(side)) as swarm:
            first_name = next(name for name in names if split.is_held_out(name) == side)
            told = []
            for at_ms, name in enumerate([first_name, *names]):
                named = {"group_id": name, "task_id": f"t{at_ms}", "timestamp_ms": at_ms + 1}
                told += [event | named for event in attempt(0)]
            await swarm.tell(*told)
            if side:
                with pytest.raises(EmptyDataError) as caught:
                    await swarm.build()
                assert "one group_id" in (caught.value.advice or "")
                continue
            made = (await swarm.build()).made
            num_held_out = sum(map(split.is_held_out, names))
            assert made.left_out == {NEAR_LEARNED: num_held_out}
            assert (made.num_rows, made.held_out) == (NUM + 1 - num_held_out, ())


async def test_another_learn_model_keeps_to_the_sides(tmp_path: Path) -> None:
    """Also where only the calls name a group: what it knows is the task, which stands where the group put it."""
    async with open_swarm(tmp_path, models=["chat", "worker_task"]) as swarm:
        events = attempts(range(NUM))
        for event in events:
            if event["type"] != "llm_call":
                del event["group_id"]
        await swarm.tell(*events)
        before = await swarm.build()
        split = HeldOutSplit(SECRET, 0.3)
        moved = [
            n
            for n in range(NUM)
            if split.is_held_out(f"task-{n}") != split.is_held_out(f"group-{n}")
        ]
        assert moved, "the task alone would have put some on the other side"
        after = await swarm.build(model="worker_task")
        check(before, after)
        assert after.held_out == before.held_out


async def test_a_new_fraction_counts_for_what_is_new(tmp_path: Path) -> None:
    """What a training has looked at stays; groups that come from then on go by the new share."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        assert (await swarm.build(0.99)).held_out == before.held_out
        await swarm.tell(*attempts(range(NUM, NUM + 20)))
        after = await swarm.build(0.99)
        check(before, after)
        assert len(after.held_out - before.held_out) >= 18
        lower = await swarm.build(0.01)
        assert lower.held_out == after.held_out


async def test_another_store_holds_out_what_was_held_out_here(tmp_path: Path) -> None:
    """Its own secret draws another split; an export says what a training had held out, and that stays so."""
    async with open_swarm(tmp_path / "here") as here:
        before = await first(here)
        export = Export(
            store=here.store,
            learn_model=create("chat"),
            scenario="air",
            shape="honed",
            filter=EpisodeFilter(learn_model="chat"),
            split=HeldOutSplit(SECRET, 0.3),
        )
        lines = [line async for line in export.lines()]
    assert sum(b'"held_out":true' in line for line in lines) == len(before.held_out)
    async with open_swarm(tmp_path / "there", OTHER_SECRET) as there:
        split = HeldOutSplit(OTHER_SECRET, 0.3)
        for row in lines:
            told = FORMATS["honed"].read(row)
            assert isinstance(told, StoredEpisode)
            if told.is_held_out:  # as `honed import` does it
                await split.hold_out(there.store.lessons, [create("chat")], told.episode)
            await there.sink.adopt(told.episode, told.provenance)
        await renamed(there)
        window = await there.build(max_episodes=NUM)
        assert window.trained, "a run that never saw what was held out there"
        assert not window.trained & before.held_out
        after = await there.build()
        assert before.held_out < after.held_out
        assert not after.trained & before.held_out
        await nearly_the_same(there, before)
        assert not (await there.build()).trained & before.held_out


async def test_an_attempt_on_both_sides_is_used_for_neither(tmp_path: Path) -> None:
    """Its task was learned from, and its group is held out."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        trained = min(int(mark.removeprefix("mark")) for mark in before.trained)
        await forget(swarm, Whose("task", f"task-{trained}"))
        held = min(int(mark.removeprefix("mark")) for mark in before.held_out)
        await swarm.tell(*attempt(trained, group_id=f"group-{held}"))
        after = await swarm.build()
        assert f"mark{trained}" not in after.trained | after.held_out
        assert after.made.left_out[BOTH_SIDES] == 1


async def test_a_task_in_two_new_groups_is_held_out(tmp_path: Path) -> None:
    """One of the groups is held out by its name: nothing of the task is learned from, whichever is read first."""
    for order in ((True, False), (False, True)):
        model = "worker_decision_sequence"
        async with open_swarm(tmp_path / str(order[0]), models=[model]) as swarm:
            told = [
                action(
                    task_id="shared",
                    tick=tick,
                    worker_id=worker,
                    group_id=group(held_out=side),
                    context={"observation": text(worker)},
                )
                for worker, side in enumerate(order)
                for tick in range(3)
            ]
            alone = [
                action(
                    task_id="t",
                    tick=tick,
                    group_id=group(held_out=False),
                    context={"observation": text(2)},
                )
                for tick in range(3)
            ]
            done = [action(task_id=task, name="done", tick=9) for task in ("shared", "t")]
            await swarm.tell(*told, *alone, *done)
            after = await swarm.build(model=model)
            assert after.trained == {"mark2"}
            assert after.made.left_out == {BOTH_SIDES: 1, "held out": 1}


@pytest.mark.parametrize("shape", ["preference", "labelled"])
async def test_no_shape_learns_from_the_held_out(tmp_path: Path, shape: str) -> None:
    """Pairs and labelled answers come of the same side as conversations."""
    async with open_swarm(tmp_path) as swarm:
        before = await first(swarm)
        told = []
        for number in range(NUM):
            bad = attempt(number, task_id=f"bad-{number}")
            bad[0]["response_message"] = {"role": "assistant", "content": f"no w{number}"}
            bad[-1]["outcome"] = {"type": "failure", "reason": "no"}
            bad[2]["result"] = {"success": False}
            told += bad
        await swarm.tell(*told)
        after = await swarm.build(shape=shape)
        check(before, after)
        assert after.trained == before.trained
        assert after.made.num_rows == len(before.trained) * (1 if shape == "preference" else 2)
