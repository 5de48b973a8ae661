"""What the sink takes out of lines, and how what was taken out is still found."""

from pathlib import Path

import anyio
import msgspec
import pytest

from honed.config import RedactSection
from honed.domain.consent import Consent, parse_rule
from honed.keeping.forgetting import Forgetting
from honed.ports import RecordFilter, Whose
from honed.stores import SqlStore
from tests.feed_parts import SECRET, action, call, line, open_intake, success

pytestmark = pytest.mark.anyio

ON = RedactSection().redaction(SECRET)
JANE = "jane.doe@example.org"
KEY = "AKIA" + "Q7" * 8


async def bodies(store: SqlStore) -> list[bytes]:
    """What is stored, as it is stored."""
    rows = await store.records.list(RecordFilter())
    records = [record async for record in store.records.query(RecordFilter())]
    return [msgspec.json.encode(each) for each in (*rows, *records)]


async def test_nothing_that_was_taken_out_is_stored() -> None:
    """Neither in a text, nor in a key, nor in an id; what was taken out is counted by kind."""
    event = action(
        task_id=JANE,
        context={"observation": f"key {KEY}", "extra": {JANE: 1}},
        tags={"mail": JANE},
        unknown_to_us={"password": "hunter-two7"},
    )
    async with open_intake(None, redaction=ON) as intake:
        done = await intake.sink.ingest([line(event), line(action())])
        stored = b"".join(await bodies(intake.store))
        counts = intake.sink.counts().redacted
    assert (done.stored, done.rejected) == (2, ())
    for secret in (JANE, KEY, "hunter-two7"):
        assert secret.encode() not in stored
    assert b"[SECRET:aws_key:1]" in stored
    assert counts == {"email": 3, "aws_key": 1, "password": 1}


async def test_a_repeat_is_known_and_a_change_is_a_conflict() -> None:
    """The digest is over the line as it came; what the answer says is of the line as it is kept."""
    event = action(event_id=f"of {JANE}", target=KEY)
    async with open_intake(None, redaction=ON) as intake:
        await intake.sink.ingest([line(event)])
        again = await intake.sink.ingest([line(event)])
        changed = await intake.sink.ingest([line(event | {"action": "jump"})])
    assert (again.stored, again.duplicates) == (0, 1)
    assert [r.code for r in changed.rejected] == ["conflict"]
    assert JANE not in changed.rejected[0].message


async def test_a_refused_line_is_quoted_without_its_secrets() -> None:
    """The decoder quotes values that it does not know; they are placeholders by then."""
    wrong = action() | {"type": KEY}
    broken = b'{"type": "action", "target": "' + KEY.encode() + b'"'
    async with open_intake(None, redaction=ON) as intake:
        done = await intake.sink.ingest([line(wrong), broken, b'"' + JANE.encode() + b'\xff"'])
        assert await intake.store.records.count(RecordFilter()) == 0
    assert [r.code for r in done.rejected] == ["invalid"] * 3
    told = " ".join(r.message for r in done.rejected)
    assert KEY not in told
    assert JANE not in told
    assert "[SECRET:aws_key:1]" in told


async def test_off_means_as_it_was_sent() -> None:
    """Nothing is looked for, and nothing is counted."""
    async with open_intake(None, redaction=RedactSection(enabled=False).redaction(SECRET)) as own:
        await own.sink.ingest([line(action(target=JANE))])
        stored = b"".join(await bodies(own.store))
        assert own.sink.counts().redacted is None
    assert JANE.encode() in stored


@pytest.mark.parametrize("rule", [f"user={JANE}", "user=*@example.org", "tag.mail=jane*"])
async def test_rules_of_consent_see_what_was_taken_out(rule: str) -> None:
    """They speak of people by the names that people have, also where only a placeholder comes in."""
    consent = Consent(exclude=(parse_rule(rule),), drops=True)
    event = action(user=JANE, tags={"mail": JANE})
    turned = action(user=ON.forms(JANE)[0])
    async with open_intake(None, redaction=ON, consent=consent) as intake:
        await intake.sink.ingest([line(event), line(action(user="joe@example.com"))])
        assert intake.sink.counts().withheld == 1
        await intake.sink.ingest([line(turned)])
        assert intake.sink.counts().withheld == 1 + (rule == f"user={JANE}")
        assert JANE.encode() not in b"".join(await bodies(intake.store))


@pytest.mark.parametrize("name", ["task_id", "session_id", "receipt_id", "group_id"])
async def test_feedback_finds_an_attempt_by_the_id_that_people_know(name: str) -> None:
    """Whichever id it is; nothing of it is stored as it was said."""
    names = {"task_id": "t1", name: JANE} if name in ("receipt_id", "group_id") else {name: JANE}
    end = {key: value for key, value in names.items() if key != "receipt_id"}
    async with open_intake(None, redaction=ON) as intake:
        await intake.sink.ingest([line(call(**names)), line(success(**end))])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
        taken = await intake.sink.feedback(
            {name: JANE, "outcome": {"type": "failure", "reason": f"said {JANE}"}}
        )
        assert JANE.encode() not in b"".join(await bodies(intake.store))
    assert (taken.became, taken.reach, taken.episode_ids) == ("stored", "episodes", (made.id,))


@pytest.mark.parametrize("before", [RedactSection(enabled=False), RedactSection(kinds=("ip",))])
async def test_feedback_finds_what_was_stored_under_other_rules(
    tmp_path: Path, before: RedactSection
) -> None:
    """An attempt that was stored as it came, before redaction was on, is found by its id still."""
    task = "10.20.30.40"
    database = tmp_path / "honed.db"
    async with open_intake(database, redaction=before.redaction(SECRET)) as intake:
        await intake.sink.ingest([line(call(task_id=task)), line(success(task_id=task))])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    now = RedactSection(kinds=("default", "ip") if not before.enabled else ("default",))
    async with open_intake(database, redaction=now.redaction(SECRET)) as intake:
        told = {"event_id": "e1", "task_id": task, "outcome": {"type": "failure", "reason": "no"}}
        taken = await intake.sink.feedback(told)
        again = await intake.sink.feedback(told)
    assert (taken.became, taken.episode_ids) == ("stored", (made.id,))
    assert again.became == "known"


@pytest.mark.parametrize("kind", ["task", "group", "session", "agent", "user"])
@pytest.mark.parametrize("section", [RedactSection(), RedactSection(enabled=False)])
async def test_somebody_is_forgotten_by_the_name_that_people_know(
    tmp_path: Path, kind: str, section: RedactSection
) -> None:
    """What is stored under the placeholder goes, whether redaction is still on or not."""
    fields = {"task": "task_id", "group": "group_id", "session": "session_id"}
    names = {"task_id": "t1"} | {fields.get(kind, kind): JANE}
    async with open_intake(None, redaction=ON) as intake:
        await intake.sink.ingest([line(call(**names)), line(call(task_id="t2"))])
        forgetting = Forgetting(
            intake.store.keeping, runs_dir=tmp_path, forms=section.redaction(SECRET).forms
        )
        done = await forgetting.forget(Whose(kind, JANE))  # type: ignore[arg-type]
        left = await intake.store.records.count(RecordFilter())
    assert (done.records, left) == (1, 1)


async def test_a_long_line_holds_up_nobody() -> None:
    """It is looked at in a thread, at its place in its batch, while others come and go."""
    near_misses = "4111 4111 4111 4112 " * 50_000
    long, wrong = action(target=f"{near_misses} {JANE}"), near_misses.encode()
    order: list[str] = []
    async with open_intake(None, redaction=ON) as intake:

        async def send(name: str, *lines: bytes) -> None:
            done = await intake.sink.ingest(lines)
            order.append(name)
            if name == "long":
                assert (done.stored, [r.position for r in done.rejected]) == (3, [2])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                send,
                "long",
                line(action(task_id="a")),
                line(long),
                wrong,
                line(action(task_id="b")),
            )
            await anyio.sleep(0)
            tasks.start_soon(send, "short", line(action(task_id="c")))
        tasks_in_order = [row.task_id for row in await intake.store.records.list(RecordFilter())]
        stored = b"".join(await bodies(intake.store))
    assert order == ["short", "long"]
    assert tasks_in_order == ["c", "a", "t1", "b"]
    assert JANE.encode() not in stored


async def test_placeholders_are_the_same_in_every_process(tmp_path: Path) -> None:
    """They follow from the event and the folder's secret; another folder's tell nothing here."""
    again = RedactSection().redaction(SECRET)
    other = RedactSection().redaction(b"o" * 32)
    assert ON.forms(JANE)[0] == again.forms(JANE)[0]
    assert ON.forms(JANE)[0] != other.forms(JANE)[0]
    assert ON.forms("t1") == ("t1",)
