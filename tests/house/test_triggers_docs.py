"""docs/triggers.md says what every condition means, in rules that are rules."""

import re
import tomllib
from pathlib import Path

from honed.triggers import from_table, parse
from honed.triggers.text import CONDITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "triggers.md").read_text()


def test_every_rule_in_it_parses() -> None:
    """Those of the samples, and those of the table."""
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    samples = [tomllib.loads(line)["trigger"] for line in block.splitlines()]
    assert len(samples) >= 4
    for sample in samples:
        parse(sample) if isinstance(sample, str) else from_table(sample)
    for rule in _conditions():
        parse(rule)


def test_every_condition_is_in_it() -> None:
    """A new one is explained where the others are."""
    assert {parse(rule).name for rule in _conditions()} == CONDITIONS.keys()


def _conditions() -> list[str]:
    """The first column, with a number in the place of `n`."""
    rows = re.findall(r"^\| (`[a-z]+\(.*?)\|", PAGE.partition("## Conditions")[2], re.MULTILINE)
    return [rule.replace("(n)", "(9)") for row in rows for rule in re.findall(r"`([^`]+)`", row)]
