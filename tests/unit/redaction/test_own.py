"""Patterns of the operator: what they do, and what is refused when they are read."""

import json

import pytest

from honed.errors import ConfigError
from honed.redaction import Redactor, own_pattern


@pytest.mark.parametrize("contains", [None, "EMP-"])
def test_an_own_pattern_is_replaced_under_its_name(contains: str | None) -> None:
    """With or without a text that says where to look."""
    own = own_pattern("employee", r"\bEMP-[0-9]{6}\b", contains=contains)
    redactor = Redactor(secret=b"s", own=[own])
    for text in ("by EMP-123456", "\nEMP-123456", "{}/EMP-123456"):
        redacted = redactor.redact(json.dumps({"a": text}).encode())
        assert redacted is not None
        assert "[SECRET:employee:1]" in json.loads(redacted.line)["a"]
    assert redactor.redact(b'{"a":"EMP-12"}') is None


def test_the_group_is_what_is_replaced() -> None:
    """What stands around may be needed to know it, and stays."""
    redactor = Redactor(secret=b"s", own=[own_pattern("desk", r"desk ([0-9]+)")])
    redacted = redactor.redact(b'{"a":"at desk 12 now"}')
    assert redacted is not None
    assert redacted.line == b'{"a":"at desk [SECRET:desk:1] now"}'


def test_anchors_are_those_of_the_string() -> None:
    """`^` is where the string begins, not where the line does."""
    redactor = Redactor(secret=b"s", own=[own_pattern("badge", r"^B[0-9]+$")])
    assert redactor.redact(b'{"a":["xB12","B1x"]}') is None
    redacted = redactor.redact(b'{"a":["B12"]}')
    assert redacted is not None
    assert redacted.line == b'{"a":["[SECRET:badge:1]"]}'


@pytest.mark.parametrize(
    ("name", "expression", "reason"),
    [
        ("Bad Name", "x-[0-9]", "expected a name"),
        ("email", "x-[0-9]", "a kind of its own"),
        ("a", "(", r"does not compile: missing \)"),
        ("a", r"(?<=x)y", "does not compile"),
        ("a", r"(x)\1", "does not compile"),
        ("a", "x*", "matches the empty string"),
        ("a", "x{2}|$", "matches the empty string"),
        ("a", "(x)(y)", "found 2 groups"),
        ("a", r"\pL{500}", "pattern too large"),
        ("a", r"[a-z]+", "of which events are made"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(name: str, expression: str, reason: str) -> None:
    """At load, with the name of the pattern and what is wrong."""
    with pytest.raises(ConfigError, match=reason):
        own_pattern(name, expression)


@pytest.mark.parametrize("contains", ["", "E", 'E"', "a/b", "a\\b", "é é", "a\nb"])
def test_a_text_that_json_may_escape_is_no_place_to_look_for(contains: str) -> None:
    """Encoders write it in more than one way."""
    with pytest.raises(ConfigError, match="JSON never escapes"):
        own_pattern("a", "x-[0-9]", contains=contains)
