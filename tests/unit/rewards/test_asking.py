"""Every new episode is asked about once: across restarts, faults and repeats, while intake goes on."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.episode import Episode
from honed.domain.outcome import Failure, Success, Unknown
from honed.domain.records import OutcomeRecord
from honed.domain.times import now_ms
from honed.errors import RewardError, UnreachableError
from honed.ports import Answer, EpisodeFilter
from honed.redaction import Redactor
from honed.rewards.asking import Asking, _event_id
from honed.rewards.jury import Jury
from honed.sink import Sink
from honed.stores import open_store
from tests.feed_parts import (
    CHAT,
    SECRET,
    Intake,
    call,
    close_all,
    failure,
    incoming,
    open_intake,
    success,
)
from tests.unit.rewards.parts import made

pytestmark = pytest.mark.anyio

Says = Callable[[Episode], Answer | None]


class Scripted:
    """A verifier that says what the test says."""

    def __init__(self, says: Says, *, version: str | None = "1") -> None:
        self.source, self.version = "verifier:test", version
        self.says = says
        self.asked: list[str] = []

    async def verify(self, episode: Episode) -> Answer | None:
        self.asked.append(episode.id)
        await anyio.lowlevel.checkpoint()
        return self.says(episode)

    async def rank(self, episodes: Sequence[Episode]) -> list[Answer]:
        self.asked.append("+".join(episode.task_id or "" for episode in episodes))
        scores = [n / (len(episodes) - 1) for n in range(len(episodes))]
        return [Answer(Success(score) if score else Failure("last")) for score in scores]


def _asking(intake: Intake, verifier: Scripted, **fields: Any) -> Asking:
    return Asking(
        verifier,
        intake.store.rewards,
        intake.sink,
        scenario="airline",
        learn_model="chat",
        now_ms=fields.pop("clock", now_ms),
        retry_first_s=0.01,
        **fields,
    )


@asynccontextmanager
async def open_quiet(database: Path | None) -> AsyncIterator[Intake]:
    """Store and sink, without the closing loop: a test says when groups become episodes."""
    send, episodes = anyio.create_memory_object_stream[Episode](0)
    async with open_store(f"sqlite:///{database}" if database else "sqlite://") as store:
        sink = Sink(
            store,
            [CHAT],
            scenario="airline",
            secret=SECRET,
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda _: None,
        )
        with send, episodes:
            yield Intake(store, sink, episodes)


@asynccontextmanager
async def _running(asking: Asking) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asking.run)
        yield
        tasks.cancel_scope.cancel()


async def _ready(intake: Intake) -> None:
    """The verifier's place is the end of what there is before."""
    await intake.store.rewards.position("airline", "chat", "verifier:test")


async def _made(intake: Intake, num: int = 1, **fields: Any) -> list[str]:
    await intake.store.append([incoming(call(**fields)) for _ in range(num)])
    return sorted(episode.id for episode in await close_all(intake.store))


async def _until(look: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not look():
            await anyio.sleep(0.005)


async def _outcomes(intake: Intake) -> list[Any]:
    return [row.outcome for row in await intake.store.list_episodes(EpisodeFilter())]


async def test_new_episodes_get_the_verifier_s_verdict() -> None:
    """Those before the first start do not; the verdict is a record with source and version."""
    async with open_quiet(None) as intake:
        await _made(intake)
        verifier = Scripted(lambda _: Answer(Success(0.5), "looks right"))
        await _ready(intake)
        new = await _made(intake, 20)
        asking = _asking(intake, verifier, at_a_time=3)
        async with _running(asking):
            await _until(lambda: asking.counts.told == 20)
            more = await _made(intake)
            asking.notify()
            await _until(lambda: asking.counts.told == 21)
        assert sorted(verifier.asked) == [*new, *more]
        assert await _outcomes(intake) == [Unknown()] + [Success(0.5)] * 21
        (said,) = (await intake.store.get_episode(new[0])).records_of(OutcomeRecord)
        assert (said.source, said.version, said.comment) == ("verifier:test", "1", "looks right")


async def test_a_restart_asks_about_nothing_twice(tmp_path: Path) -> None:
    """Neither after an orderly stop, nor where the position was not written any more."""
    for kill in (False, True):
        async with open_quiet(tmp_path / f"{kill}.db") as intake:
            await _ready(intake)
            ids = await _made(intake, 3)
            first = Scripted(lambda _: Answer(Success()))
            asking = _asking(intake, first)
            async with _running(asking):
                await _until(lambda: asking.counts.told == 3)  # noqa: B023
                await _until(lambda: asking._wake.is_set() is False)  # noqa: B023
            if kill:  # as if it had come after the verdicts
                await intake.store.rewards.advance(
                    "airline", "chat", "verifier:test", episode_id=""
                )
            again = Scripted(lambda _: Answer(Failure("another")))
            more = await _made(intake)
            asking = _asking(intake, again)
            async with _running(asking):
                await _until(lambda: asking.counts.told == 1)  # noqa: B023
            assert again.asked == more
            assert (await intake.store.get_episode(ids[0])).outcome == Success()


async def test_the_same_verdict_twice_is_one(tmp_path: Path) -> None:
    """Two that ask at the same time (an old daemon that ends while a new one starts) store one."""
    async with open_quiet(tmp_path / "a.db") as intake:
        await _ready(intake)
        ids = await _made(intake)
        verifiers = [
            Scripted(lambda _: Answer(Success())),
            Scripted(lambda _: Answer(Failure("x"))),
        ]
        one, other = (_asking(intake, verifier) for verifier in verifiers)
        episode = await intake.store.get_episode(ids[0])
        await one._ask(episode)
        await other._ask(episode)
        assert (one.counts.told, other.counts.told) == (1, 0)
        assert await _outcomes(intake) == [Success()]


async def test_a_verifier_that_fails_on_one_goes_on_with_the_next() -> None:
    """Its own errors and programming errors alike are counted; the episodes go without."""

    def says(episode: Episode) -> Answer:
        if len(verifier.asked) == 1:
            raise RewardError("no tests found")
        if len(verifier.asked) == 2:
            raise ZeroDivisionError
        return Answer(Success())

    verifier = Scripted(says)
    async with open_quiet(None) as intake:
        await _ready(intake)
        await _made(intake, 3)
        asking = _asking(intake, verifier)
        async with _running(asking):
            await _until(lambda: asking.counts.told == 1)
        assert asking.counts.failed == 2
        assert asking.last_failure
        assert asking.problem is None


async def test_a_verifier_that_cannot_be_asked_loses_nothing() -> None:
    """It is asked again about the same, says why meanwhile, and what it did answer is not asked again."""
    is_down = True

    def says(episode: Episode) -> Answer:
        if is_down and len(verifier.asked) != 1:
            raise UnreachableError("nobody listens", advice="start it")
        return Answer(Success())

    verifier = Scripted(says)
    async with open_quiet(None) as intake:
        await _ready(intake)
        ids = await _made(intake, 3)
        asking = _asking(intake, verifier)
        async with _running(asking):
            await _until(lambda: len(verifier.asked) > 6)
            assert asking.problem == "nobody listens; start it"
            is_down = False
            await _until(lambda: asking.counts.told == 3 and asking.problem is None)
        assert asking.counts.failed == 0
        assert verifier.asked.count(ids[0]) + verifier.asked.count(verifier.asked[0]) >= 1
        assert await _outcomes(intake) == [Success()] * 3


async def test_intake_goes_on_while_a_verifier_hangs() -> None:
    """Events are stored and episodes made, however long an answer takes."""
    verifier = Scripted(lambda _: None)

    async def hang(episode: Episode) -> Answer | None:
        verifier.asked.append(episode.id)
        await anyio.sleep_forever()
        return None

    verifier.verify = hang  # type: ignore[method-assign]

    async def arrive(intake: Intake, task_id: str) -> None:
        lines = (call(task_id=task_id), success(task_id=task_id))
        await intake.sink.ingest([msgspec.json.encode(line) for line in lines])

    async with open_intake(None) as intake:
        await _ready(intake)
        asking = _asking(intake, verifier)
        async with _running(asking):
            await arrive(intake, "first")
            await intake.episodes.receive()
            asking.notify()
            await _until(lambda: bool(verifier.asked))
            with anyio.fail_after(60):
                for number in range(50):
                    await arrive(intake, f"t{number}")
                    asking.notify()
                for _ in range(50):
                    await intake.episodes.receive()
        assert len(verifier.asked) == 1


async def test_only_what_nobody_has_judged_is_asked_about() -> None:
    """If so told; what may not be learned from, never: it need not leave the store."""
    async with open_quiet(None) as intake:
        await _ready(intake)
        await _made(intake, task_id="judged")
        await intake.store.append([incoming(failure(task_id="judged"))])
        await _made(intake, task_id="private", train=False)
        (open_one,) = await _made(intake, task_id="open")
        verifier = Scripted(lambda _: Answer(Success()))
        asking = _asking(intake, verifier, only_unlabelled=True)
        async with _running(asking):
            await _until(lambda: asking.counts.told == 1)
        assert verifier.asked == [open_one]


async def test_an_episode_may_wait_for_somebody_else_first() -> None:
    """Until its time is over; then it is asked about, if nobody has spoken."""
    clock = now_ms()
    async with open_quiet(None) as intake:
        await _ready(intake)
        verifier = Scripted(lambda _: Answer(Success()))
        asking = _asking(
            intake, verifier, only_unlabelled=True, wait=timedelta(minutes=1), clock=lambda: clock
        )
        for task in ("told", "open"):
            await intake.store.append([incoming(call(task_id=task))])
        made_now = await close_all(intake.store, now_ms=clock)
        async with _running(asking):
            await anyio.wait_all_tasks_blocked()
            await intake.store.append([incoming(failure(task_id="told"))])
            assert verifier.asked == []
            clock += 61_000
            asking.notify()
            await _until(lambda: asking.counts.told == 1)
        assert verifier.asked == [episode.id for episode in made_now if episode.task_id == "open"]


async def test_a_sample_is_drawn_by_the_episodes_themselves() -> None:
    """About the share that is asked for, and the same ones again."""
    async with open_quiet(None) as intake:
        episodes = [made() for _ in range(500)]
        one, other = (_asking(intake, Scripted(lambda _: None), sample=0.3) for _ in range(2))
        drawn = [episode for episode in episodes if one._wants(episode)]
        assert drawn == [episode for episode in episodes if other._wants(episode)]
        assert 100 <= len(drawn) <= 200


async def test_attempts_of_a_group_are_ranked_when_the_last_is_there() -> None:
    """So many at a time, in the order in which they were made; those without a group each by itself."""
    async with open_quiet(None) as intake:
        await _ready(intake)
        verifier = Scripted(lambda _: Answer(Success(0.25)))
        asking = _asking(intake, verifier, ranks=verifier, group_size=3)
        for number in range(7):
            await _made(intake, task_id=f"t{number}", group_id="g")
        await _made(intake, task_id="alone")
        async with _running(asking):
            await _until(lambda: asking.counts.told == 7)
        assert verifier.asked[:2] == ["t0+t1+t2", "t3+t4+t5"]
        assert await _outcomes(intake) == [
            *[Failure("last"), Success(0.5), Success(1.0)] * 2,
            Unknown(),
            Success(0.25),
        ]


async def test_what_may_not_be_learned_from_is_not_shown_to_who_ranks() -> None:
    """It counts as an attempt of its group; the others are ranked without it, and one alone is not."""
    async with open_quiet(None) as intake:
        await _ready(intake)
        verifier = Scripted(lambda _: Answer(Success(0.25)))
        asking = _asking(intake, verifier, ranks=verifier, group_size=3)
        for number in range(6):
            await _made(intake, task_id=f"t{number}", group_id="g", train=number in (0, 2, 5))
        async with _running(asking):
            await _until(lambda: asking.counts.told == 2)
        assert verifier.asked == ["t0+t2"]


async def test_status_shows_questions_and_agreement() -> None:
    """What a judge says against what others say of the same, from the stored verdicts."""
    async with open_quiet(None) as intake:
        await _made(intake, 4, user="u")
        ids = [row.id for row in await intake.store.list_episodes(EpisodeFilter())]
        for number, id in enumerate(ids):
            told = success if number < 3 else failure
            await intake.store.append([incoming(told(episode_id=id, source="judge:m"))])
            await intake.store.append([incoming(success(episode_id=id, source="ann"))])
        asking = _asking(intake, Scripted(lambda _: None))
        jury = Jury(intake.store, [asking], scenario="airline", learn_models=["chat"])
        status = await jury.status()
        assert status["agreement"]["judge:m"]["num"] == 4
        assert status["agreement"]["judge:m"]["share"] == 0.75
        assert status["agreement"]["judge:m"]["others_alone"] == 1
        assert status["asked"]["verifier:test"]["told"] == 0
        assert status["alarms"] == []


async def test_an_alarm_is_raised_once_for_each_adapter() -> None:
    """Episodes since the last adapter was applied, against those before it, from the store."""
    async with open_quiet(None) as intake:
        told: list[tuple[str, dict[str, Any]]] = []
        store, applied_ms = intake.store, now_ms() + 5_000
        for at_ms, outcome, answer in (
            (applied_ms - 1, failure, "x" * 400),
            (applied_ms, success, "ok"),
        ):
            message = {"role": "assistant", "content": answer}
            events = []
            for number in range(80):
                task = f"{at_ms}.{number}"
                events.append(call(response_message=message, task_id=task))
                events.append((outcome if number % 2 else success)(task_id=task))
            await store.append([incoming(event) for event in events])
            await close_all(store, now_ms=at_ms)
        await store.push_applied(
            "airline", "airline@1", expected=None, max_history=5, now_ms=applied_ms
        )
        jury = Jury(
            store,
            scenario="airline",
            learn_models=["chat"],
            announce=lambda name, what: told.append((name, what)),
        )
        await jury.look()
        await jury.look()
        assert [(name, what["sign"]) for name, what in told] == [
            ("reward.suspected", "shorter answers")
        ]
        assert "shorter answers: 400" in jury.alarms[0]


def test_the_id_of_a_verdict_passes_redaction() -> None:
    """Turned into a hash it would not be known again."""
    redactor, verifier = Redactor(secret=b"k" * 32), Scripted(lambda _: None)
    for _ in range(2_000):
        line = msgspec.json.encode({"type": "outcome", "event_id": _event_id(verifier, made())})
        assert redactor.redact(line) is None
