"""Ids and bookkeeping of the client, without a socket."""

import ast
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import honed.client
from honed.client import RefusedError, RejectedError
from honed.client.events import action_event, llm_call_event, outcome_event
from honed.client.exchange import WINDOW_LINES, DaemonLeftError, Exchange, replies
from honed.client.wire import complete, encode, new_event_id
from honed.domain.events import ActionEvent, LlmCallEvent, OutcomeEvent, parse_event
from honed.domain.outcome import Failure, Success


def test_the_client_needs_the_standard_library_only() -> None:
    """A swarm can import it anywhere."""
    imported = set()
    for path in Path(honed.client.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("honed.client")} == set()


def test_event_ids_are_rising_uuid7s() -> None:
    """Also many in one millisecond: the daemon's index grows at its end."""
    ids = [new_event_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    parsed = [uuid.UUID(text) for text in ids]
    assert {(one.version, one.variant) for one in parsed} == {(7, uuid.RFC_4122)}


def test_an_event_keeps_what_it_brings() -> None:
    """Id, time, scenario and agent are filled in only where they are missing."""
    full = complete({"type": "action"}, scenario="airline", agent="a")
    assert (full["scenario"], full["agent"]) == ("airline", "a")
    assert full["timestamp_ms"] > 1_700_000_000_000
    own = {"event_id": "e", "timestamp_ms": 1, "scenario": "rail", "agent": "b"}
    assert complete(own, scenario="airline", agent="a") == own


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_what_json_cannot_say_is_refused_before_it_is_sent(bad: dict[str, object]) -> None:
    """As the caller's mistake."""
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        encode(bad)


def test_the_shapes_are_events_of_the_daemon() -> None:
    """What the short forms make is read back as meant."""
    acted = parse_event(
        encode(action_event("look", task_id="t", tick=2, observation="dark", output="o"))
    )
    assert isinstance(acted, ActionEvent)
    assert (acted.context.observation, acted.result.output) == ("dark", "o")
    turn = {"role": "assistant", "content": "hi"}
    called = parse_event(encode(llm_call_event([turn], turn, task_id="t", train=False)))
    assert isinstance(called, LlmCallEvent)
    assert not called.train
    for said, outcome in [
        ({"success": True}, Success(1.0)),
        ({"score": 0.3}, Success(0.3)),
        ({"score": 0.0, "reason": "late"}, Failure("late")),
        ({"success": False, "reason": "no"}, Failure("no")),
    ]:
        told = parse_event(encode(outcome_event(task_id="t", **said)))
        assert isinstance(told, OutcomeEvent)
        assert told.outcome == outcome


def test_an_outcome_without_an_object_or_a_verdict_is_refused() -> None:
    """Before it is sent."""
    with pytest.raises(ValueError, match="task_id"):
        outcome_event(success=True)
    with pytest.raises(ValueError, match="success, score, comment or demonstration"):
        outcome_event(task_id="t")


def test_an_outcome_may_be_about_one_episode_and_then_about_nothing_else() -> None:
    """The protocol's `episode_id`; beside another name it would be passed over."""
    told = parse_event(encode(outcome_event(episode_id="e1", success=False, reason="no")))
    assert isinstance(told, OutcomeEvent)
    assert (told.episode_id, told.outcome) == ("e1", Failure("no"))
    with pytest.raises(ValueError, match="an episode_id stands alone"):
        outcome_event(episode_id="e1", task_id="t", success=True)


def test_what_is_no_event_is_refused_by_its_type() -> None:
    """A list of events is the usual slip, and the message says what to write."""
    with pytest.raises(TypeError, match=r"found list: write send\(\*events\) for many"):
        complete([{"type": "action"}], scenario=None, agent=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a dictionary for each event, found str"):
        complete("look", scenario=None, agent=None)  # type: ignore[arg-type]


def test_a_better_answer_and_a_comment_say_nothing_of_success() -> None:
    """They go along with who said them; a group may be named alone."""
    told = parse_event(
        encode(outcome_event(group_id="g", comment="odd", demonstration="go left", source="ann"))
    )
    assert isinstance(told, OutcomeEvent)
    assert (told.group_id, told.outcome, told.comment) == ("g", None, "odd")
    assert (told.demonstration, told.source) == ("go left", "ann")


def exchange(count: int) -> Exchange:
    return Exchange([b"%d\n" % n for n in range(count)], [str(n) for n in range(count)])


@given(count=st.integers(1, 600), acks=st.lists(st.integers(0, WINDOW_LINES), max_size=9))
def test_whatever_is_lost_every_event_is_acknowledged_once(count: int, acks: list[int]) -> None:
    """Connections may end after any ack; what was not acknowledged goes again, nothing else."""
    sending = exchange(count)
    stored: list[bytes] = []
    lines_before = 0
    for acked in [*acks, *[WINDOW_LINES] * count]:
        if sending.is_done:
            break
        lines = sending.window(lines_before)
        assert 0 < len(lines) <= WINDOW_LINES
        acked = min(acked, len(lines))
        if acked:
            stored += lines[:acked]
            sending.take({"type": "ack", "line": lines_before + acked, "stored": acked})
        lines_before = lines_before + acked if acked == len(lines) else 0
    assert stored == [b"%d\n" % n for n in range(count)]
    assert sending.result() == (count, 0, tuple(str(n) for n in range(count)))


def test_rejections_name_the_event_and_count_the_others() -> None:
    """Also on a connection that has carried lines before."""
    sending = exchange(3)
    sending.window(10)
    sending.take({"type": "error", "line": 12, "code": "invalid", "path": "$.x", "message": "no"})
    sending.take({"type": "ack", "line": 13, "stored": 1, "duplicates": 1})
    with pytest.raises(RejectedError) as caught:
        sending.result()
    [rejected] = caught.value.events
    assert (rejected.position, rejected.path) == (1, "$.x")
    assert (caught.value.stored, caught.value.duplicates) == (1, 1)


def test_a_rejection_before_a_lost_ack_is_not_counted_twice() -> None:
    """Its line goes again and is judged again."""
    sending = exchange(1)
    error = {"type": "error", "line": 1, "code": "invalid", "path": "$", "message": "no"}
    for _ in range(2):
        sending.window(0)
        sending.take(error)
    sending.take({"type": "ack", "line": 1, "stored": 0})
    with pytest.raises(RejectedError) as caught:
        sending.result()
    assert len(caught.value.events) == 1


def test_some_reasons_pass_and_some_do_not() -> None:
    """A stopping daemon or a full disk is worth another try, a line that is too long is not."""
    for code in ("draining", "store"):
        with pytest.raises(DaemonLeftError):
            exchange(1).take({"type": "error", "line": 1, "code": code, "message": "m"})
    with pytest.raises(RefusedError, match="m") as caught:
        exchange(1).take(
            {"type": "error", "line": 1, "code": "too_long", "message": "m", "advice": "a"}
        )
    assert (caught.value.code, caught.value.__notes__) == ("too_long", ["a"])


def test_replies_are_cut_at_newlines() -> None:
    """An unfinished one stays."""
    buffer = bytearray(b"a\nb\nc")
    assert list(replies(buffer)) == [b"a", b"b"]
    assert buffer == b"c"
