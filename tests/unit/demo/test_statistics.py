"""Wilson intervals and quantiles, against known values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.demo.statistics import quantile, wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(hits: int, total: int, low: float, high: float) -> None:
    """The interval is Wilson's score interval without continuity correction."""
    share = wilson(hits, total)
    assert share.low == pytest.approx(low, abs=5e-5)
    assert share.high == pytest.approx(high, abs=5e-5)


@given(st.integers(0, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_share_lies_in_its_interval(counts: tuple[int, int]) -> None:
    """Whatever is counted, 0 <= low <= value <= high <= 1, and the mirror image is mirrored."""
    hits, total = counts
    share, mirror = wilson(hits, total), wilson(total - hits, total)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.low == pytest.approx(1 - mirror.high)


def test_nothing_counted_is_nothing_known() -> None:
    """Of no attempts, every share is possible."""
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_more_hits_than_attempts_are_refused() -> None:
    """A count that cannot be is the caller's mistake."""
    with pytest.raises(ValueError, match="5 hits of 4"):
        wilson(5, 4)


def test_a_share_reads_as_percent() -> None:
    """As it is printed in the demo and its report."""
    assert str(wilson(44, 200)) == "22.0 % [16.8, 28.2]"


def test_quantiles_are_values_that_occurred() -> None:
    """Nearest rank; of nothing, not a number."""
    values = [float(i) for i in range(1, 101)]
    assert [quantile(values, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert quantile([7.0], 0.99) == 7.0
    assert math.isnan(quantile([], 0.5))
