"""`honed why` on a store that no daemon works on."""

import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from honed.cli.app import app
from honed.stores import open_store


@pytest.mark.parametrize(
    ("rule", "fires"),
    [
        ("never() & ~manual()", "never by itself: `honed train-now` trains"),
        ("count(3)", "unknown: nobody can say yet how fast episodes come in"),
    ],
)
def test_a_rule_that_never_fires_is_told_from_one_that_waits(
    tmp_path: Path, rule: str, fires: str
) -> None:
    """Of the one it is said what trains all the same."""
    config = tmp_path / "honed.toml"
    config.write_text(
        f'scenario = "airline"\ndata_dir = "{tmp_path}"\nbase_model = "any/model"\n'
        f"trigger = '{rule}'\n"
    )

    async def start() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            await store.start_scenario("airline", "chat", now_ms=1)

    anyio.run(start)
    command = [sys.executable, "-m", "honed", "why", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"fires      {fires}" in done.stdout


def test_a_feedback_says_what_about_what(tmp_path: Path) -> None:
    """One object, and at least one thing about it; both are asked for in the options' words."""
    config = tmp_path / "honed.toml"
    config.write_text(f'scenario = "airline"\ndata_dir = "{tmp_path}"\n')

    def refused(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["feedback", *arguments, "--config", str(config)])
        assert done.exit_code == 2
        return done.output

    assert "or --file; found none of them" in refused("--success")
    assert "found 2 of them" in refused("--task", "t", "--episode", "e", "--success")
    assert "expected --success, --failure, --score, --comment or --answer" in refused("--task", "t")
