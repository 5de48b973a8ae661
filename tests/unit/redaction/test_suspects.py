"""The first look at many lines at once finds what a look at each line finds, and no line more than needed."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.redaction import KINDS, Redactor, own_pattern
from tests.unit.redaction.test_hostile import PARTS

REDACTOR = Redactor(secret=b"s", kinds=KINDS)
LINES = [
    b"{}",
    json.dumps({"a": "nothing to see"}).encode(),
    json.dumps({"a": "write to jane.doe@example.org"}).encode(),
    json.dumps({"a": "x\nghp_" + "a1" * 20}).encode(),
    json.dumps({"password": "hunter-two-42"}).encode(),
    json.dumps({"a": "\u00e9"}).encode(),
    b"4111 1111 1111 1111",
    b"card: 4111",
    b"AKIA" + b"B" * 15,
    b"",
]


def parts_of(text: list[str]) -> bytes:
    return json.dumps({"a": "".join(text)}).encode()


@given(
    st.lists(st.sampled_from(LINES) | st.lists(st.sampled_from(PARTS), max_size=8).map(parts_of))
)
def test_no_line_is_missed(lines: list[bytes]) -> None:
    """Whatever stands before and after it."""
    alone = {position for position, line in enumerate(lines) if REDACTOR.suspects([line])}
    redacted = {position for position, line in enumerate(lines) if REDACTOR.redact(line)}
    together = REDACTOR.suspects(lines)
    assert redacted <= together
    assert alone <= together


def test_a_clean_line_beside_a_secret_is_not_looked_at_again() -> None:
    """Of a thousand lines only those that may hold something cost more than the search."""
    lines = [json.dumps({"n": n, "a": "lorem ipsum " * 40}).encode() for n in range(1_000)]
    dirty = sorted(random.Random(7).sample(range(1_000), 30))
    for position in dirty:
        lines[position] = json.dumps({"a": f"key AKIA{'B' * 16} {position}"}).encode()
    assert sorted(REDACTOR.suspects(lines)) == dirty


def test_what_spans_a_line_break_accuses_both_lines() -> None:
    """A search may begin in one line and end in the next; neither hides the other's own secret."""
    lines = [b'{"password":', b'"AKIABBBBBBBBBBBBBBBB hunter-two-42"}', b"{}"]
    assert REDACTOR.suspects(lines) >= {1}
    assert 2 not in REDACTOR.suspects(lines)


@pytest.mark.parametrize(
    "contains", [None, "EMP-"], ids=["every line is decoded", "with a first look"]
)
def test_patterns_of_ones_own(contains: str | None) -> None:
    """Without a text that every match holds, every line is looked at."""
    redactor = Redactor(secret=b"s", own=[own_pattern("staff", r"EMP-[0-9]+", contains=contains)])
    lines = [b'{"a":"EMP-7"}', b'{"a":"nobody"}']
    assert redactor.suspects(lines) == ({0, 1} if contains is None else {0})
