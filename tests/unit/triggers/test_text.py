"""A rule is the same value as text, as table and in code."""

from datetime import timedelta

import pytest

from honed.errors import TriggerSyntaxError
from honed.triggers import (
    Count,
    Every,
    Manual,
    Never,
    Quality,
    all_of,
    any_of,
    default_watch,
    from_table,
    parse,
)
from honed.triggers.text import MAX_TEXT


@pytest.mark.feature("SE-101")
def test_and_binds_tighter_than_or() -> None:
    """Brackets are needed for an `or` inside an `and` only."""
    a, b, c = Count(1), Manual(), Never()
    assert parse("count(1) | manual() & never()") == a | (b & c)
    assert str((a | b) & c) == "(count(1) | manual()) & never()"
    assert str(~(a & b)) == "~(count(1) & manual())"


@pytest.mark.feature("SE-100", "SE-101")
def test_a_nested_rule_is_the_flat_one() -> None:
    """Chains of one operator flatten, as code, text and table."""
    a, b, c = Count(1), Count(2), Count(3)
    assert a | (b | c) == (a | b) | c == any_of([a, b, c])
    assert a & (b & c) == (a & b) & c == all_of([a, b, c])
    nested = {"any": [{"count": 1}, {"any": [{"count": 2}, {"count": 3}]}]}
    assert from_table(nested) == parse("count(1) | count(2) | count(3)")


@pytest.mark.feature("SE-100", "SE-101")
def test_an_empty_rule_never_fires() -> None:
    """No parts is no."""
    assert any_of([]) == all_of([]) == from_table({"any": []}) == Never()


def test_a_table_may_hold_text() -> None:
    """A part of a table can be written as text."""
    assert from_table({"all": ["count(20)", {"quality": {"below": 0.5}}]}) == Count(20) & Quality(
        0.5
    )


@pytest.mark.feature("SE-105")
def test_every_condition_has_a_short_form() -> None:
    """As people write it; UTC is the zone of what names none."""
    short = {
        "quiet('600')": 'quiet("10m")',
        "window('22:00-24:00')": 'window("22:00-24:00")',
        "window('01:00-06:00', 'Europe/Berlin')": 'window("01:00-06:00", tz="Europe/Berlin")',
        "cron(' 0  3 * * mon-fri', tz='UTC')": 'cron("0 3 * * mon-fri")',
        "cooldown(90)": 'cooldown("1m30s")',
        "budget(gpu_hours=2, per='1d')": 'budget(gpu_hours=2.0, per="1d")',
        "budget(per='24h', runs=4)": 'budget(runs=4, per="1d")',
        "failures(3)": "failures(below=3)",
    }
    assert {text: str(parse(text)) for text in short} == short
    assert from_table({"window": "01:00-06:00"}) == parse('window("01:00-06:00")')
    assert from_table({"budget": {"runs": 4, "per": 3600}}) == parse('budget(runs=4, per="1h")')


@pytest.mark.feature("SE-105")
def test_the_default_rule() -> None:
    """A scenario without a rule trains every hundred episodes or every hour."""
    assert default_watch() == Count(100) | Every(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cuont(3)", "did you mean count"),
        ("frobnicate(3)", "known are count, every"),
        ("count", "lacks its brackets"),
        ("count(0)", "1 or more"),
        ("count(-1)", "not a value"),
        ("count(1000000001)", "1000000000 at most"),
        (f"count({'9' * 900})", "count of 900 characters is out of range"),
        (f"failures(below={'9' * 900})", "1000000000 at most"),
        (f"every({'9' * 900})", "too long"),
        (f"quiet('{'9' * 900}d')", "too long"),
        ("count(True)", "1 or more"),
        ("count(1, 2)", "expected count(count)"),
        ("count()", "expected count(count)"),
        ("every('0s')", "more than 0"),
        ("every('soon')", "not a duration"),
        ("every(1e300)", "too long"),
        ("quality(below=2)", "0..1"),
        ("quality(below='x')", "not a number"),
        ("quality(below=0.5, window=5)", "never fit"),
        ("quality(0.5, windw=5)", "expected quality(below, window, min_samples)"),
        ("quality(**{'below': 0.5})", "expected name=value"),
        ("quite('10m')", "did you mean quiet"),
        ("windw('01:00-06:00')", "did you mean window"),
        ("budgett(runs=1, per='1d')", "did you mean budget"),
        ("cooldwn('2h')", "did you mean cooldown"),
        ("failure(below=3)", "did you mean failures"),
        ("corn('0 3 * * *')", "did you mean cron"),
        ("quiet('0s')", "more than 0"),
        ("cooldown('40000d')", "36500 days at most"),
        ("window('1-6')", "expected for example 01:00-06:00"),
        ("window('01:00-24:30')", "is no window"),
        ("window('00:00-24:00')", "is empty"),
        ("window(6)", "is no window"),
        ("window('01:00-06:00', tz='Europe/Berln')", "did you mean Europe/Berlin"),
        ("window('01:00-06:00', tz='/etc/passwd')", "unknown time zone"),
        ("window('01:00-06:00', tz='')", "unknown time zone"),
        ("window('01:00-06:00', tz=1)", "is no name"),
        ("cron('0 3 * *')", "has 4 fields"),
        ("cron('0 0 3 * * *')", "has 6 fields"),
        ("cron('61 3 * * *')", "Bad minute"),
        ("cron('0 0 31 feb *')", "Bad day-of-month"),
        ("cron(3)", "is no schedule"),
        ("cron('0 3 * * *', tz='Mars')", "unknown time zone"),
        ("budget(per='1d')", "a budget of nothing"),
        ("budget(runs=4)", "expected budget(runs, gpu_hours, per)"),
        ("budget(4, per='1d')", "expected budget(runs, gpu_hours, per)"),
        ("budget(runs=0, per='1d')", "1 or more"),
        ("budget(runs=1.5, per='1d')", "1 or more"),
        ("budget(gpu_hours=0, per='1d')", "hours above 0"),
        ("budget(gpu_hours='2', per='1d')", "hours above 0"),
        ("budget(runs=1, per='400d')", "366d at most"),
        ("budget(runs=1, per='0s')", "more than 0"),
        ("failures(below=0)", "1 or more"),
        ("count(1) and count(2)", "not part of a trigger"),
        ("count(1) + count(2)", "not part of a trigger"),
        ("__import__('os').system('true')", "not part of a trigger"),
        ("count(open('x'))", "not a value"),
        ("count(b'1')", "not a value"),
        ("", "is empty: expected conditions such as count"),
        (" \n", "is empty"),
        ("count(1", "cannot be read"),
        ("count(5) &", "invalid syntax: expected conditions such as count"),
        ("count(1)\0", "cannot be read"),
        ("(" * 400 + "always()" + ")" * 400, "cannot be read"),
        ("~" * 900 + "always()", "deep"),
        ("always() | " * 100, "characters"),
    ],
)
def test_a_text_that_is_no_rule(text: str, says: str) -> None:
    """Every text that is no rule is refused by name, and none is run."""
    with pytest.raises(TriggerSyntaxError) as caught:
        parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"count": 1, "every": "1h"}, "one key"),
        ({}, "one key"),
        (None, "one key"),
        ({"any": {"count": 1}}, "expected a list"),
        ({"cuont": 1}, "did you mean count"),
        ({1: 1}, "unknown condition 1"),
        ({"count": {"count": 1, "x": 2}}, "expected count(count)"),
        ({"always": False}, "expected always()"),
        ({"quality": {"below": 0.5, 3: 1}}, "expected"),
        ({"window": {"hours": "01:00-06:00", "tz": ["x"]}}, "is no name"),
        ({"any": [{"count": n} for n in range(1, 202)]}, "201 conditions: expected at most 200"),
        ({"budget": 3}, "expected budget(runs, gpu_hours, per)"),
        ({"cron": {"expression": "9" * 5_000 + " 3 * * *"}}, "cannot be read"),
    ],
)
def test_a_table_that_is_no_rule(table: object, says: str) -> None:
    """Every table that is no rule is refused by name."""
    with pytest.raises(TriggerSyntaxError) as caught:
        from_table(table)
    assert says in str(caught.value)


def test_the_longest_text_is_read() -> None:
    """The cap on the text keeps the reader's recursion inside the stack."""
    text = "|".join(["never()"] * (MAX_TEXT // 8))
    assert len(text) <= MAX_TEXT
    assert parse(text).name == "any"


def test_a_table_without_end_is_refused() -> None:
    """Nesting is limited, so that a hostile table cannot exhaust the stack."""
    table: dict[str, object] = {"count": 1}
    for _ in range(2000):
        table = {"not": table}
    with pytest.raises(TriggerSyntaxError, match="deep"):
        from_table(table)
