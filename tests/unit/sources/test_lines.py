"""Cutting a stream into lines."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.sources.lines import LineCutter, LineTooLongError

TEXT = st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"."))


@given(lines=st.lists(TEXT), cuts=st.lists(st.integers(0, 200)))
def test_chunks_cut_anywhere_give_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    """Only newlines separate; blank lines are left out."""
    stream = b"".join(line + b"\n" for line in lines)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    cutter = LineCutter(100)
    found = []
    for start, end in itertools.pairwise(edges):
        cutter.feed(stream[start:end])
        found += cutter.take()
    assert found == [line for line in lines if line.strip()]
    assert not cutter.has_half_line


def test_a_line_over_the_limit_is_refused_after_those_before_it() -> None:
    """Whether its end has come or not."""
    for long in (b"x" * 11 + b"\n", b"x" * 11):
        cutter = LineCutter(10)
        with pytest.raises(LineTooLongError):
            cutter.feed(b"good\n" + long)
        assert cutter.take() == [b"good"]


def test_a_line_of_just_the_limit_passes() -> None:
    """The newline is not counted."""
    cutter = LineCutter(10)
    cutter.feed(b"x" * 10)
    cutter.feed(b"\n")
    assert cutter.take() == [b"x" * 10]
