"""Out of a store that redacts, and into another: what was taken out once is never touched again."""

import json
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.config import RedactSection
from honed.domain.outcome import Failure, Success
from tests.redaction_corpus import secrets
from tests.unit.training_sets.test_export import place, told

ON, ELSEWHERE = (RedactSection().redaction(key * 32) for key in (b"k", b"e"))
CORPUS = [secret.text for secret in secrets()]
SECRETS = st.sampled_from(CORPUS) | st.sampled_from([json.dumps({"cmd": t}) for t in CORPUS])


@st.composite
def attempts(draw: st.DrawFn) -> list[bytes]:
    """The events of one attempt, with things to be taken out wherever something may stand."""
    fields: dict[str, Any] = {
        "user": draw(SECRETS),
        "tags": {"said": draw(SECRETS)},
        "comment": draw(SECRETS),
        "not_known_to_us": {draw(SECRETS): [draw(SECRETS)]},
    }
    task = draw(st.sampled_from(["t1", "jane.doe@example.org"]))
    outcome = draw(st.builds(Failure, SECRETS) | st.just(Success()))
    lines = told(task, outcome, draw(SECRETS), **fields)
    return [line.replace(f"{task}-".encode(), b"e-") for line in lines]  # ids of 64 at most


@settings(max_examples=15)
@given(lines=attempts())
def test_what_a_redacting_store_gives_out_another_takes_as_it_is(lines: list[bytes]) -> None:
    """Equal episodes, equal events byte for byte; and the events as they were sent are repeats there."""

    async def test() -> None:
        async with place(redaction=ON) as here, place(redaction=ELSEWHERE) as there:
            await here.tell(lines)
            (exported,), _ = await here.export()
            assert await there.adopt(exported)
            assert await there.episodes() == await here.episodes()
            assert (await there.export())[0] == [exported]
            assert not await there.adopt(exported)
            assert not await here.adopt(exported)
            assert there.sink.counts().redacted == {}

    anyio.run(test)


@settings(max_examples=15)
@given(lines=attempts())
def test_an_import_is_redacted_as_a_feed_is(lines: list[bytes]) -> None:
    """An export of a store that does not redact comes in as if its events had come in; again it changes nothing."""

    async def test() -> None:
        async with (
            place() as open_one,
            place(redaction=ON) as fed,
            place(redaction=ON) as told_later,
        ):
            await open_one.tell(lines)
            (exported,), _ = await open_one.export()
            assert await told_later.adopt(exported)
            (first,), _ = await told_later.export()
            await fed.tell(lines)
            (of_the_feed,), _ = await fed.export()
            assert events(first) == events(of_the_feed)
            assert not await told_later.adopt(exported)
            assert not await told_later.adopt(first)
            done = await told_later.sink.ingest(lines)
            assert (done.stored, done.duplicates) == (0, len(lines))

    anyio.run(test)


def test_an_export_that_was_redacted_takes_the_events_as_they_were_sent_for_repeats() -> None:
    """A client that sends again what another folder had already is known by what is kept."""
    lines = told("t1", Success(), "ask jane.doe@example.org")

    async def test() -> None:
        async with place(redaction=ON) as here, place(redaction=ON) as there:
            await here.tell(lines)
            (exported,), _ = await here.export()
            assert await there.adopt(exported)
            done = await there.sink.ingest(lines)
            assert (done.stored, done.duplicates, done.rejected) == (0, 2, ())

    anyio.run(test)


def test_nothing_of_an_imported_episode_is_kept_that_would_be_taken_out() -> None:
    """Task, group, tags, reason and comments of verdicts too, of which no event needs to know."""
    jane = "jane.doe@example.org"
    lines = told(jane, Failure(f"asked {jane}"), f"ask {jane}", group_id=jane, tags={"to": jane})

    async def test() -> None:
        async with place() as here, place(redaction=ON) as there:
            await here.tell(lines)
            (exported,), _ = await here.export()
            assert exported.count(jane.encode()) >= 6
            assert await there.adopt(exported)
            (given_out,), _ = await there.export()
            assert jane.encode() not in given_out
            (episode,) = await there.episodes()
            assert episode.task_id == episode.group_id == ON.forms(jane)[0]
            assert episode.metadata.tags == {"to": "[PERSONAL:email:1]"}

    anyio.run(test)


def events(line: bytes) -> list[Any]:
    return [told["event"] for told in json.loads(line)["events"]]


def test_every_text_of_the_corpus_is_touched_once() -> None:
    """A line that was redacted has nothing more to take out, under any folder's key."""
    redactors = [redaction.redactor for redaction in (ON, ELSEWHERE)]
    for text in CORPUS:
        line = json.dumps({"task_id": text, "texts": [text, json.dumps({"cmd": text})]}).encode()
        for redactor in redactors:
            assert redactor is not None
            if (redacted := redactor.redact(line)) is not None:
                assert [each.redact(redacted.line) for each in redactors if each] == [None, None]


def test_an_import_finishes_an_attempt_that_had_begun_to_come_in() -> None:
    """An event that is stored already, as it was sent, is no other one because the export has it redacted."""
    lines = told("t1", Success(), "ask jane.doe@example.org")

    async def test() -> None:
        async with place(redaction=ON) as here, place(redaction=ON) as there:
            await here.tell(lines)
            (exported,), _ = await here.export()
            await there.sink.ingest(lines[:1])
            assert await there.adopt(exported)
            (given_out,), _ = await there.export()
            assert events(given_out) == events(exported)

    anyio.run(test)
