"""Hostile text: eight times as long takes about eight times as long, whatever it is made of."""

import json
import time

import pytest

from honed.redaction import KINDS, Redactor

REDACTOR = Redactor(secret=b"s", kinds=KINDS)
KIB = 1024
PARTS = [
    "a", "a@", "a@a.", "a@a.bc ", "eyJ", "eyJabcdefghijkl.a", "://a:", "a://b:c@d ", "a://b:your_x@",
    "password=", "password=))))", "token is ", "token: 'a1B2c3D4e5F6", "\"", "\\", "\\n", "\\u0041", "/",
    "4111 ", "4111 1111 1111 1111 ", "41111111111111112", "DE89 ", "DE89DE89DE89DE89", "+49 1",
    "+49 30 1234567,", "415-", "sk-", "AKIA", "[SECRET:email:1]", "[SECRET:email:",
    "-----BEGIN PRIVATE " + "KEY-----", "-----BEGIN PRIVATE " + "KEY-----\naaaaaaaaaaaaaaaaa-",
    "basic aaaaaaaa ", "-u a:", "1.1.1.1", "::", "phone ", "tel 0", "\x1b[1;", "%41", "é", "{", "[",
]  # fmt: skip


def seconds(text: str) -> float:
    line = json.dumps({"password": text, "a": [text]}).encode()
    best = float("inf")
    for _ in range(3):
        started = time.thread_time()
        REDACTOR.redact(line)
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.parametrize("part", PARTS)
def test_time_grows_with_length_and_not_with_its_square(part: str) -> None:
    """Eight times the text: linear is 8, a square is 64; the bound lies between them."""
    short = max(seconds(part * (8 * KIB // len(part))), 0.0005)
    assert seconds(part * (64 * KIB // len(part))) < 32 * short


def test_a_line_of_a_mebibyte_without_a_finding_is_one_look() -> None:
    """A long log costs no more than reading it."""
    line = json.dumps({"a": "lorem ipsum " * 87_000}).encode()
    assert REDACTOR.redact(line) is None
