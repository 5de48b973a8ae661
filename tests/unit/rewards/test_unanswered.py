"""A question that nobody answers: the episode's fault or the endpoint's, told apart, and paid for once."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from honed.domain.outcome import Failure, Success, Unknown
from honed.domain.times import now_ms
from honed.ports import EpisodeFilter
from honed.rewards.asking import TRIES, Asking
from honed.rewards.endpoint import ANSWER_MAX, Endpoint
from honed.rewards.judge import Judge
from tests.feed_parts import Intake, call, close_all, incoming
from tests.judge_stub import HANGS, JudgeStub, Reply, Says, failing, judge_stub, saying, scoring
from tests.unit.rewards.test_asking import _running, _until, open_quiet

pytestmark = pytest.mark.anyio

POISON = "poison"
SOURCE = "judge:m"


def _judge(url: str, *, seconds: float = 20, **fields: Any) -> Judge:
    endpoint = Endpoint(
        url,
        model="stub",
        key=None,
        timeout=timedelta(seconds=seconds),
        attempts=1,
        max_concurrent=2,
        backoff_first_s=0.001,
    )
    return Judge(endpoint, name="m", version="1", rubric="Is it polite?", attempts=2, **fields)


def _asking(intake: Intake, judge: Judge, **fields: Any) -> Asking:
    return Asking(
        judge,
        intake.store.rewards,
        intake.sink,
        scenario="airline",
        learn_model="chat",
        now_ms=now_ms,
        at_a_time=fields.pop("at_a_time", 2),
        probe=judge.probe,
        retry_first_s=0.01,
        **fields,
    )


@asynccontextmanager
async def _intake() -> AsyncIterator[Intake]:
    async with open_quiet(None) as intake:
        await intake.store.rewards.position("airline", "chat", SOURCE)
        yield intake


async def _made(intake: Intake, *questions: str, **fields: Any) -> None:
    """An episode of each question, in this order."""
    for question in questions:
        turns = [{"role": "user", "content": question}]
        await intake.store.append([incoming(call(messages=turns, **fields))])
        await close_all(intake.store)


async def _outcomes(intake: Intake) -> list[Any]:
    return [row.outcome for row in await intake.store.list_episodes(EpisodeFilter())]


async def _position(intake: Intake) -> str:
    return await intake.store.rewards.position("airline", "chat", SOURCE)


def _is_probe(request: dict[str, Any]) -> bool:
    return len(request["messages"]) == 1


def _poisoned(reply: Reply) -> Says:
    def says(request: dict[str, Any], number: int) -> Reply:
        return reply if POISON in json.dumps(request) else scoring(1.0)

    return says


def _asked_about(stub: JudgeStub, words: str) -> int:
    return sum(words in shown for shown in stub.shown)


@pytest.mark.parametrize(
    "reply",
    [failing(500), failing(403), failing(404), failing(429), Reply(body=b"x" * (ANSWER_MAX + 1))],
    ids=["error", "filter", "absent", "too-many", "oversized"],
)
async def test_an_episode_that_gets_no_answer_does_not_stop_the_judge(reply: Reply) -> None:
    """The others get theirs, and are paid for once; it is given up after some rounds, and said why."""
    questions = ["q0.", "q1.", POISON, "q3.", "q4."]
    with judge_stub(_poisoned(reply)) as stub, capture_logs() as logged:
        async with _intake() as intake:
            await _made(intake, *questions)
            asking = _asking(intake, _judge(stub.url))
            async with _running(asking):
                await _until(lambda: asking.counts.failed == 1)
                await _made(intake, "later.")
                asking.notify()
                await _until(lambda: asking.counts.told == 5)
            assert [_asked_about(stub, words) for words in questions if words != POISON] == [1] * 4
            assert _asked_about(stub, POISON) <= 2 * TRIES
            assert await _outcomes(intake) == [Success()] * 2 + [Unknown()] + [Success()] * 3
            assert asking.problem is None
    (failed,) = [each for each in logged if each["event"] == "verifier.failed"]
    assert "the judge answered" in failed["reason"]
    assert failed["reason"] in (asking.last_failure or "")


async def test_an_episode_that_a_model_thinks_about_for_ever_is_given_up() -> None:
    """Its silence is its own while others, or a probe, are answered."""
    with judge_stub(_poisoned(HANGS)) as stub:
        async with _intake() as intake:
            await _made(intake, "q0.", POISON, "q2.")
            asking = _asking(intake, _judge(stub.url, seconds=2))
            async with _running(asking):
                await _until(lambda: asking.counts.failed == 1)
            assert "gave no answer within 2 s" in (asking.last_failure or "")
            assert asking.counts.told == 2


async def test_a_lone_episode_is_given_up_where_a_probe_is_answered() -> None:
    """A quiet swarm has no other episode that could tell whose fault it is."""
    with judge_stub(_poisoned(failing(500))) as stub:
        async with _intake() as intake:
            await _made(intake, POISON)
            asking = _asking(intake, _judge(stub.url))
            async with _running(asking):
                await _until(lambda: asking.counts.failed == 1)
            assert sum(map(_is_probe, stub.requests)) == TRIES
            assert _asked_about(stub, POISON) == TRIES


@pytest.mark.parametrize("questions", [["q0."], ["q0.", "q1.", "q2."]], ids=["one", "several"])
async def test_an_endpoint_that_is_down_costs_no_episode_its_verdict(questions: list[str]) -> None:
    """However many rounds it is down for: the position stays, and the first answer after it counts."""
    holder = socket.socket()  # nobody listens, and nobody else can
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    async with _intake() as intake:
        before = await _position(intake)
        await _made(intake, *questions)
        judge = _judge(f"http://127.0.0.1:{port}/v1")
        asking = _asking(intake, judge)
        async with _running(asking):
            await _until(
                lambda: judge.endpoint.counts.requests > (TRIES + 2) * (len(questions) + 1)
            )
            assert "cannot be asked" in (asking.problem or "")
            assert await _position(intake) == before
            holder.close()
            with judge_stub(lambda _, __: scoring(1.0), port):
                await _until(lambda: asking.counts.told == len(questions))
        assert asking.counts.failed == 0


@pytest.mark.parametrize("status", [401, 403, 404, 500], ids=str)
async def test_an_endpoint_that_refuses_everything_costs_nothing(status: int) -> None:
    """A wrong key, a wrong place or a server in trouble is not the episodes' fault; correcting it is enough."""
    is_right = False

    def says(request: dict[str, Any], number: int) -> Reply:
        return scoring(1.0) if is_right else failing(status)

    with judge_stub(says) as stub:
        async with _intake() as intake:
            before = await _position(intake)
            await _made(intake, "q0.", "q1.")
            asking = _asking(intake, _judge(stub.url))
            async with _running(asking):
                await _until(lambda: len(stub.requests) > 3 * (TRIES + 2))
                assert f"status {status}" in (asking.problem or "")
                assert await _position(intake) == before
                is_right = True
                await _until(lambda: asking.counts.told == 2)
            assert asking.counts.failed == 0


async def test_what_was_silent_or_garbage_is_not_asked_again_with_the_rest() -> None:
    """A round after an outage asks only about those of the page that are left."""
    is_down = True

    def says(request: dict[str, Any], number: int) -> Reply:
        shown = json.dumps(request)
        if "garbage." in shown:
            return saying("I would rather not say.")
        if "last." in shown or _is_probe(request):
            return failing(500) if is_down else scoring(0.0)
        return scoring(1.0)

    with judge_stub(says) as stub:
        async with _intake() as intake:
            await _made(intake, "garbage.", "fine.", "last.")
            asking = _asking(intake, _judge(stub.url), at_a_time=1)
            async with _running(asking):
                await _until(lambda: _asked_about(stub, "last.") > TRIES)
                is_down = False
                await _until(lambda: asking.counts.told == 2)
            assert _asked_about(stub, "garbage.") == 2  # the judge's own tries of one question
            assert _asked_about(stub, "fine.") == 1
            assert asking.counts.failed == 1
            outcomes = await _outcomes(intake)
            assert outcomes[:2] == [Unknown(), Success()]
            assert isinstance(outcomes[2], Failure)


async def test_an_undecided_episode_is_not_asked_again_with_the_rest() -> None:
    """Votes that tie are an answer; only who got none is asked once more."""
    is_down = True

    def says(request: dict[str, Any], number: int) -> Reply:
        if "tie." in json.dumps(request):
            return scoring(number % 2)  # the first two requests are these
        return failing(503) if is_down else scoring(1.0)

    with judge_stub(says) as stub:
        async with _intake() as intake:
            await _made(intake, "tie.", "last.")
            asking = _asking(intake, _judge(stub.url, votes=2), at_a_time=1)
            async with _running(asking):
                await _until(lambda: _asked_about(stub, "last.") > 2 * TRIES)
                is_down = False
                await _until(lambda: asking.counts.told == 1)
            assert _asked_about(stub, "tie.") == 2
            assert asking.counts.silent == 1


async def test_a_group_that_cannot_be_ranked_does_not_stop_the_judge() -> None:
    """Its attempts go without a verdict; the next group is ranked."""

    def says(request: dict[str, Any], number: int) -> Reply:
        if POISON in json.dumps(request):
            return failing(403)
        return saying('{"ranking": [1, 2]}')

    with judge_stub(says) as stub:
        async with _intake() as intake:
            await _made(intake, POISON, "q1.", group_id="a")
            await _made(intake, "q2.", "q3.", group_id="b")
            judge = _judge(stub.url)
            asking = _asking(intake, judge, ranks=judge, group_size=2)
            async with _running(asking):
                await _until(lambda: (asking.counts.told, asking.counts.failed) == (2, 1))
            assert _asked_about(stub, "q2.") == 1


async def test_an_answer_in_no_encoding_is_garbage() -> None:
    """Counted as that; the judge goes on with the next episode."""
    broken = b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'
    with judge_stub(_poisoned(Reply(body=broken))) as stub:
        async with _intake() as intake:
            await _made(intake, POISON, "q1.")
            judge = _judge(stub.url, votes=3)
            asking = _asking(intake, judge)
            async with _running(asking):
                await _until(lambda: (asking.counts.told, asking.counts.failed) == (1, 1))
            assert judge.counts.garbage == 6


async def test_a_verdict_that_is_refused_is_a_failure() -> None:
    """With its reason; it is no repeat of another verdict."""
    with judge_stub(lambda _, __: scoring(1.0)) as stub:
        async with _intake() as intake:
            await _made(intake, "q0.")
            judge = _judge(stub.url)
            judge.version = 1  # type: ignore[assignment]
            asking = _asking(intake, judge)
            async with _running(asking):
                await _until(lambda: asking.counts.failed == 1)
            assert "version" in (asking.last_failure or "")
            assert asking.counts.told == 0


async def test_the_reason_of_a_failure_is_redacted_and_short() -> None:
    """What a verifier says of an episode may quote it."""

    class Quotes:
        source, version = SOURCE, "1"

        async def verify(self, episode: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            raise ValueError("key sk-ant-REDACTED " + "x" * 5_000)

    async with _intake() as intake:
        await _made(intake, "q0.")
        cleaned: list[str] = []

        class Sink:
            """The real one, and what it was given to clean."""

            ingest = intake.sink.ingest

            def clean(self, text: str) -> str:
                cleaned.append(text)
                return text.replace("sk-ant-REDACTED", "[key]")

        asking = Asking(
            Quotes(),
            intake.store.rewards,
            Sink(),  # type: ignore[arg-type]
            scenario="airline",
            learn_model="chat",
            now_ms=now_ms,
        )
        with capture_logs() as logged:
            async with _running(asking):
                await _until(lambda: asking.last_failure is not None)
    (failed,) = [each for each in logged if each["event"] == "verifier.failed"]
    assert failed["error"] == "ValueError"
    assert failed["reason"].startswith("key [key] xxx")
    assert len(failed["reason"]) == 500
    assert "sk-ant" not in (asking.last_failure or "")
    assert cleaned
