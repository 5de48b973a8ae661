"""The law on which the first look rests: what a tight form finds in a string, its wide form finds in the line."""

import json
import random
import re
from collections.abc import Callable

import msgspec
import pytest
import re2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from honed.redaction import PATTERNS, Redactor
from honed.redaction.strings import joined
from tests.redaction_corpus import examples

ESCAPED = re2.compile(rb"\\[u/]")
TIGHT = [re2.compile(f"{p.tight}\\z" if p.is_field else p.tight) for p in PATTERNS]
WIDE = [re2.compile((p.wide or "").encode()) for p in PATTERNS]
EXAMPLES = [text for _, text in examples()]
GLUE = [
    "", " ", "\n", "\t", "\r", "\b", "\f", "\x01", '"', "'", "\\", "\\n", '\\"', "/", "=", ": ",
    ":=", " => ", '":"', " is ",
    " is now ", "--", "<", "é", "字", "😀", "%20", "\x1b[1;31m", "\\u0041", "_", "n", "b", "0", ".", "-", "@", "x7",
]  # fmt: skip
WORDS = [
    "password", "PASSWD2", "pwd", "secret", "apiKey", "access_key", "card_number", "pan", "phone", "tel", "Bearer",
    "basic", "https://u", "hunter2!x", "a1B2c3D4e5F6g7H8", "4111111111111111", "030 901820", "a@b.co", "-u x", "sig",
]  # fmt: skip


def _letters_escaped(value: object) -> str:
    """Any letter may come as \\u, in capitals too, as some encoders do for characters they distrust."""
    plain = json.dumps(value, ensure_ascii=False)
    return re.sub(r"(?<!\\)[<>&'=@k]", lambda found: f"\\u{ord(found[0]):04X}", plain)


ENCODERS: dict[str, Callable[[object], str]] = {
    "plain": lambda value: json.dumps(value, ensure_ascii=False),
    "compact": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "ascii": json.dumps,
    "slashes": lambda value: json.dumps(value).replace("/", "\\/"),
    "html": _letters_escaped,
    "msgspec": lambda value: msgspec.json.encode(value).decode(),
    "spaced": lambda value: json.dumps(value, separators=(" ,\t", "\t: ")),
}


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Pieces of secrets with everything around and inside them that encoders escape."""
    parts = draw(st.lists(st.sampled_from(GLUE + WORDS + EXAMPLES), min_size=1, max_size=8))
    text = "".join(parts)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 2))
        text = text[:at] + draw(st.sampled_from(GLUE)) + text[at + cut :]
    return text


def assert_sound(key: str, value: str, encode: Callable[[object], str]) -> None:
    line = encode({"a": [value], key: value}).encode()
    is_looked_at = ESCAPED.search(line) is not None
    for pattern, tight, wide in zip(PATTERNS, TIGHT, WIDE, strict=True):
        if pattern.is_field:
            found = (
                value
                and tight.search(key)
                and pattern.check
                and pattern.check(value.encode(), 0, len(value.encode()))
            )
        else:
            found = tight.search(value) or tight.search(key)
        if found:
            assert is_looked_at or wide.search(line), (pattern.kind, pattern.tight, line)
            assert wide.search(joined(line)), (pattern.kind, pattern.tight, line)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_a_tight_form_finds_its_wide_form_finds_in_the_line(encoder: str) -> None:
    """Whatever the encoder, a line that is not looked at holds nothing."""

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(key=texts(), value=texts())
    def law(key: str, value: str) -> None:
        assert_sound(key, value, ENCODERS[encoder])

    law()


def test_every_pattern_is_found_next_to_every_escape_by_every_encoder() -> None:
    """The cases on which a plain search of the raw line misses a third."""
    rng = random.Random(4)
    redactor = Redactor(secret=b"s", kinds={p.kind for p in PATTERNS})
    missed = []
    for index, text in examples():
        pattern = PATTERNS[index]
        for before in ("", "\n", "\t", '"', "\\", "/", "é", '{"x":"\n', "\x1b[31m"):
            for encode in ENCODERS.values():
                inner = before + text + rng.choice(("", "\n", '"', " é"))
                redacted = redactor.redact(encode({"n": 1, "a": inner}).encode())
                if redacted is None or not redacted.counts:
                    missed.append((pattern.kind, before, text))
    assert not missed


def test_a_field_is_found_under_its_key() -> None:
    """A value counts as secret because of its key, where that is written in any case and style."""
    redactor = Redactor(secret=b"s")
    for key in ("password", "DB_PASSWORD", "userPassword", "clientSecret", "api-key", "x_api_key2"):
        for encode in ENCODERS.values():
            redacted = redactor.redact(encode({key: "tr0ub4dor&3-horse"}).encode())
            assert redacted is not None, key
            assert json.loads(redacted.line)[key].startswith("[SECRET:")
