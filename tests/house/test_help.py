"""Every command is described in the same form, and the same option in the same words."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from honed.cli.app import app

SAME = {"--config", "--json", "--yes", "--dry-run"}
"""What means the same wherever it is; `--force` and `--file` are each command's own."""
OF_A_RUN = "Config of a stand-alone run, TOML or JSON."
"""Where `--config` names this instead of the daemon's config."""
VERBS = {
    "apply",
    "ask",
    "bring",
    "check",
    "clear",
    "delete",
    "go",
    "install",
    "list",
    "look",
    "measure",
    "print",
    "put",
    "remove",
    "run",
    "say",
    "show",
    "start",
    "stop",
    "store",
    "write",
}


def _commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command and group below, by what is typed."""
    for name, each in getattr(command, "commands", {}).items():
        yield " ".join((*path, name)), each
        yield from _commands(each, *path, name)


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_every_command_begins_with_a_sentence_that_says_what_it_does() -> None:
    """A verb first, a full stop last."""
    lines = {name: (each.help or "").strip().splitlines()[0] for name, each in COMMANDS.items()}
    assert len(lines) > 20
    odd = {
        name: line
        for name, line in lines.items()
        if line.split()[0].lower() not in VERBS or not line.endswith(".")
    }
    assert not odd


def test_the_same_option_is_the_same_everywhere() -> None:
    """Its names and its words."""
    told = defaultdict(set)
    for each in COMMANDS.values():
        for option in each.params:
            if SAME & set(option.opts) and option.help != OF_A_RUN:
                told[option.opts[0]].add((tuple(option.opts), option.help))
    assert told.keys() == SAME
    assert all(len(words) == 1 for words in told.values()), told


@pytest.mark.parametrize("name", ["run", "serve", "up", "health"])
def test_what_starts_without_typer_is_described_as_listed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`honed --help` and the command's own help agree, also on --config."""
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        _main(name)(["--help"])
    said = out.getvalue()
    own = said.split("\n\n")[1].strip().rstrip(".")
    assert COMMANDS[name].help.startswith(own)
    (config,) = [o for o in COMMANDS["status"].params if "--config" in o.opts]
    assert config.help.rstrip(".") in said


def _main(name: str) -> Any:
    from honed.cli.health import main as health
    from honed.cli.up import main as up
    from honed.daemon import main as run
    from honed.serve import main as serve

    return {"run": run, "serve": serve, "up": up, "health": health}[name]
