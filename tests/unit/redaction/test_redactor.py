"""What a redacted line looks like, and what never changes in it."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.domain.events import parse_event
from honed.errors import ConfigError, ValidationError
from honed.redaction import KINDS, PATTERNS, Redactor, own_pattern
from tests.redaction_corpus import DATA, ENCODERS, as_event, examples, fill, secrets

REDACTOR = Redactor(secret=b"of this data folder")
AWS = fill("AKIA[A:16]", random.Random(1))
AWS_2 = fill("AKIA[A:16]", random.Random(2))


def redact(value: Any) -> Any:
    redacted = REDACTOR.redact(json.dumps(value).encode())
    return value if redacted is None else json.loads(redacted.line)


def test_a_line_without_secrets_is_not_touched() -> None:
    """Nothing to hide costs no copy: the answer is None."""
    for line in (DATA / "tau-airline-excerpt.jsonl").read_bytes().splitlines():
        assert REDACTOR.redact(line) is None


@pytest.mark.parametrize(
    ("index", "text"),
    list(examples()),
    ids=lambda x: PATTERNS[x].kind if isinstance(x, int) else "",
)
def test_each_pattern_finds_its_examples(index: int, text: str) -> None:
    """Every pattern of the table has a text that it finds, under its own kind."""
    redactor = Redactor(secret=b"s", kinds=KINDS)
    redacted = redactor.redact(json.dumps({"a": text}).encode())
    assert redacted is not None
    assert PATTERNS[index].kind in redacted.counts


def test_every_pattern_has_an_example_or_is_a_field() -> None:
    """A pattern that nothing shows is one that nobody tests."""
    assert not [p.kind for p in PATTERNS if not p.examples and not p.is_field]


def test_equal_secrets_get_equal_numbers_in_order_of_appearance() -> None:
    """Who said what stays readable, without what was said."""
    found = redact(
        {"a": f"{AWS} then {AWS_2}", "b": [AWS_2, f"again {AWS}, from jane@example.org"]}
    )
    assert found == {
        "a": "[SECRET:aws_key:1] then [SECRET:aws_key:2]",
        "b": ["[SECRET:aws_key:2]", "again [SECRET:aws_key:1], from [PERSONAL:email:1]"],
    }


def test_each_line_numbers_anew_and_the_same_line_gives_the_same_bytes() -> None:
    """What is stored depends on the line alone, so a repeat is stored as the first was."""
    first = json.dumps({"a": AWS}).encode()
    second = json.dumps({"a": AWS_2}).encode()
    before = [REDACTOR.redact(line) for line in (first, second)]
    other = Redactor(secret=b"of this data folder")
    assert [other.redact(line) for line in (second, first)] == before[::-1]
    assert all(r is not None and b"aws_key:1]" in r.line for r in before)


def test_replacements_are_counted_by_kind() -> None:
    """Counts say what was found, never what it was."""
    redacted = REDACTOR.redact(json.dumps({"a": f"{AWS} {AWS} a@example.org"}).encode())
    assert redacted is not None
    assert redacted.counts == {"aws_key": 2, "email": 1}


def test_keys_are_redacted_as_values_are() -> None:
    """A mapping from people to things tells as much as a list of people."""
    assert redact({"seats": {"jane@example.org": "14C", "joe@example.org": "14D"}}) == {
        "seats": {"[PERSONAL:email:1]": "14C", "[PERSONAL:email:2]": "14D"}
    }


def test_the_rest_of_the_line_stays_byte_by_byte() -> None:
    """Numbers, order, white space, escapes and repeated keys are the sender's."""
    line = rb'{ "n":1.0e5,"big": 123456789012345678901234567890 , "s":"\u00e9\/\n", "a":"KEY","x":0.10 }'
    redacted = REDACTOR.redact(line.replace(b"KEY", AWS.encode()))
    assert redacted is not None
    assert redacted.line == line.replace(b"KEY", b"[SECRET:aws_key:1]")


def test_both_of_two_equal_keys_are_redacted() -> None:
    """A decoder would keep the last only; the first stays in the line and so must be clean."""
    redacted = REDACTOR.redact(f'{{"a":"{AWS}","a":"fine"}}'.encode())
    assert redacted is not None
    assert redacted.line == b'{"a":"[SECRET:aws_key:1]","a":"fine"}'


def test_json_inside_a_string_stays_json() -> None:
    """Arguments of tools are JSON in a string, and are parsed again in training."""
    arguments = json.dumps(
        {"cmd": f"export K={AWS}\n\tAPI_TOKEN=a1B2c3D4e5F6g7H8i9\n", "to": "\njane@example.org"}
    )
    inner = json.loads(redact({"arguments": arguments})["arguments"])
    assert inner == {
        "cmd": "export K=[SECRET:aws_key:1]\n\tAPI_TOKEN=[SECRET:credential:1]\n",
        "to": "\n[PERSONAL:email:1]",
    }


def test_a_card_as_a_number_is_replaced_where_its_key_says_so() -> None:
    """A number elsewhere stays one: fields that must be numbers are never made strings."""
    line = {
        "card_number": 4111111111111111,
        "order": 4111111111111111,
        "timestamp_ms": 1772442123456,
    }
    assert redact(line) == line | {"card_number": "[PERSONAL:card:1]"}


def test_fields_that_join_events_keep_joining() -> None:
    """An address as the id of a task is gone, and its events still belong together."""
    first = redact({"task_id": "jane@example.org/7", "a": "joe@example.org"})
    second = redact({"a": "jim@example.org", "task_id": "jane@example.org/7"})
    other = redact({"task_id": "jane@example.org/8"})
    assert first["task_id"] == second["task_id"] != other["task_id"]
    assert first["task_id"].startswith("[PERSONAL:email:")
    assert len(first["task_id"]) <= 64
    assert first["task_id"] == REDACTOR.redacted_id("jane@example.org/7")
    assert REDACTOR.redacted_id("task-7") == "task-7"


def test_the_hash_in_a_joining_field_needs_the_folder_s_secret() -> None:
    """Without it nobody finds out an address by trying many."""
    ids = {Redactor(secret=secret).redacted_id("jane@example.org") for secret in (b"one", b"two")}
    assert len(ids) == 2


def test_numbers_that_the_line_quotes_are_not_used_again() -> None:
    """An agent that was trained on placeholders may write one; it is not the one of this line."""
    assert redact({"a": "I wrote to [PERSONAL:email:1]", "b": "cc joe@example.org"}) == {
        "a": "I wrote to [PERSONAL:email:1]",
        "b": "cc [PERSONAL:email:2]",
    }


def test_overlapping_findings_are_replaced_as_one() -> None:
    """What any pattern found is gone, also the part that only one of them saw."""
    text = f"password=x9-{AWS}-y8 and on"
    assert redact({"a": text}) == {"a": "password=[SECRET:aws_key:1] and on"}


def test_a_redacted_event_can_be_parsed() -> None:
    """Placeholders break neither JSON nor the fields of an event."""
    for n, secret in enumerate(secrets()):
        if n % 7 == 0:
            line = json.dumps(
                as_event(secret.text) | {"event_id": f"{secret.hidden[:40]}@example.org"[-64:]}
            )
            redacted = REDACTOR.redact(line.encode())
            parse_event(line.encode() if redacted is None else redacted.line)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_was_redacted_is_not_redacted_again(encoder: str) -> None:
    """Import, replay and backup may pass a line through twice."""
    for n, secret in enumerate(secrets()):
        if n % 5 == 0:
            redacted = REDACTOR.redact(
                ENCODERS[encoder]({secret.kind: secret.text, "task_id": secret.text}).encode()
            )
            assert redacted is None or REDACTOR.redact(redacted.line) is None, redacted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.sampled_from([AWS, "a@example.org", f"x\n{AWS}/", "password: hunter2!"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5) | st.just("password"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(value=JSON)
def test_any_json_stays_json_of_the_same_shape(value: Any) -> None:
    """Only strings change."""

    def shape(item: Any) -> Any:
        match item:
            case dict():
                return [shape(inner) for inner in item.values()]
            case list():
                return [shape(inner) for inner in item]
            case str():
                return str
            case _:
                return item

    assert shape(redact({"a": value})) == shape({"a": value})
    assert AWS not in json.dumps(redact({"a": value}))


@pytest.mark.parametrize(
    "line",
    [
        f'{{"a":"{AWS}"'.encode(),
        f'{{"a":"{AWS}\\x"}}'.encode(),
        f'{{"a":"{AWS}", "b":"\\ud800"}}'.encode(),
        f'{{"a":"{AWS} '.encode() + b'\xff"}',
        b"[" * 100_000 + AWS.encode(),
    ],
    ids=["cut off", "bad escape", "half a surrogate", "not UTF-8", "deep"],
)
def test_a_line_that_is_no_json_is_refused_and_not_quoted(line: bytes) -> None:
    """What cannot be read cannot be cleaned, so it is not kept; the error does not quote it."""
    with pytest.raises(ValidationError) as refused:
        REDACTOR.redact(line)
    assert AWS not in str(refused.value)


def test_addresses_of_hosts_are_redacted_when_asked_for() -> None:
    """An address has the shape of a version, so it is left alone unless somebody asks."""
    line = json.dumps(
        {"a": "203.0.113.7,203.0.113.8 2001:db8::1 127.0.0.1 300.1.1.1 12:30:45"}
    ).encode()
    assert REDACTOR.redact(line) is None
    redacted = Redactor(secret=b"s", kinds=["ip"]).redact(line)
    assert redacted is not None
    assert json.loads(redacted.line)["a"] == (
        "[PERSONAL:ip:1],[PERSONAL:ip:2] [PERSONAL:ip:3] 127.0.0.1 300.1.1.1 12:30:45"
    )


def test_only_the_chosen_kinds_are_looked_for() -> None:
    """Who wants addresses kept says so."""
    line = json.dumps({"a": f"{AWS} a@example.org"}).encode()
    redacted = Redactor(secret=b"s", kinds=["aws_key"]).redact(line)
    assert redacted is not None
    assert redacted.counts == {"aws_key": 1}
    with pytest.raises(ConfigError, match="unknown kind 'aws_keys'") as refused:
        Redactor(secret=b"s", kinds=["aws_keys"])
    assert refused.value.advice == "did you mean aws_key?"


def test_two_own_patterns_of_one_name_are_refused() -> None:
    """Their counts could not be told apart."""
    own = [own_pattern("badge", "B-[0-9]+"), own_pattern("badge", "C-[0-9]+")]
    with pytest.raises(ConfigError, match="2 patterns called badge"):
        Redactor(secret=b"s", own=own)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_bare_number_leaves_json_inside_a_string_whole(depth: int) -> None:
    """A tool's arguments with a bare card number can be read afterwards, at whatever depth."""
    text: object = {"pay": {"card_number": 4111111111111111, "at": 1}, "last": 5555555555554444}
    for _ in range(depth):
        text = {"body": json.dumps(text)}
    redacted = Redactor(secret=b"k").redact(json.dumps(text).encode())
    assert redacted is not None
    found = json.loads(redacted.line)
    for _ in range(depth):
        found = json.loads(found["body"])
    assert found == {
        "pay": {"card_number": "[PERSONAL:card:1]", "at": 1},
        "last": "[PERSONAL:card:2]",
    }
