"""`honed adapters`: the list, and one of them in full."""

import json
from pathlib import Path

import anyio
import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from honed.adapter_files import ADAPTER_CONFIG
from honed.cli.app import app
from honed.domain.trained_model import GateResult, Interval, TrainingMetrics
from honed.stores import open_store
from tests.contract.test_store import model

REASON = "successes gained over failures: contrast +0.5527 [+0.2996, +0.8266], p 0.003 against 0.01"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A scenario with two adapters: one that passed, one that was not judged."""
    (tmp_path / "honed.toml").write_text(f'scenario = "airline"\ndata_dir = "{tmp_path}"\n')
    gate = GateResult(
        decision="pass",
        proof="outcome",
        incumbent_id=None,
        reason=REASON,
        num_successes=14,
        num_failures=88,
        contrast=Interval(value=0.5527, low=0.2996, high=0.8266),
        p_value=0.003,
        held_out_loss_before=1.25,
        held_out_loss_after=1.125,
        accuracy_before=0.5,
        accuracy_after=0.625,
        detectable=0.21,
    )

    async def fill() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            first = msgspec.structs.replace(
                model(1),
                gate=gate,
                method="kto",
                method_reason="the data are 40 labelled answers",
                metrics=TrainingMetrics(probe_kl=0.1234),
            )
            await store.add_model(first)
            await store.add_model(model(2))

    anyio.run(fill)
    return str(tmp_path / "honed.toml")


def test_the_list_says_each_verdict_in_one_line(config: str) -> None:
    """Decision and figure; an adapter without a verdict says so."""
    shown = CliRunner().invoke(app, ["adapters", "--config", config]).stdout
    assert "pass, contrast" in " ".join(shown.split())
    assert "not judged" in " ".join(shown.split())
    assert REASON not in shown


def test_one_adapter_is_shown_in_full(config: str) -> None:
    """With the gate's whole reason, its run and its digests; as JSON it is the stored value."""
    shown = CliRunner().invoke(app, ["adapters", "airline@1", "--config", config])
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.split())
    assert "p 0.003 against 0.01" in words
    assert "outcome; loss on held-out successes 1.250 to 1.125" in words
    assert "accuracy on held-out successes 0.500 to 0.625" in words
    assert "0.210 would have been found in 80 % of cases" in words
    assert "kto on 2 episodes (successes)" in words
    as_json = CliRunner().invoke(app, ["adapters", "airline@1", "--config", config, "--json"])
    assert json.loads(as_json.stdout)["gate"]["reason"] == REASON


def test_an_adapter_says_how_it_learned_and_what_it_moved(config: str) -> None:
    """Method with its reason, what it began with, and its divergence on the probe set, where it was measured."""
    for adapter, *expected in (
        (
            "airline@1",
            "kto: the data are 40 labelled answers",
            "0.123 nats per token from the base",
        ),
        ("airline@2", "sft", "not measured"),
    ):
        shown = CliRunner().invoke(app, ["adapters", adapter, "--config", config]).stdout
        words = " ".join(shown.split())
        assert all(each in words for each in expected), words
        assert "began with the base model" in words


def test_an_adapter_that_is_not_there_is_named(config: str) -> None:
    """Exit status 1 and one line."""
    shown = CliRunner().invoke(app, ["adapters", "airline@7", "--config", config])
    assert shown.exit_code == 1
    assert "airline@7" in shown.stderr


def test_an_adapter_is_taken_out_of_the_list(config: str, tmp_path: Path) -> None:
    """Its files stay unless they are asked to go too; one that serves stays in the list."""
    folder = tmp_path / "airline@3"
    folder.mkdir()
    (folder / ADAPTER_CONFIG).write_text("{}")

    async def fill() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            await store.add_model(msgspec.structs.replace(model(3), adapter_path=str(folder)))
            await store.push_applied("airline", "airline@1", expected=None, max_history=5, now_ms=1)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["adapters", *arguments, "--config", config])

    anyio.run(fill)
    assert "its files stay in /x" in run("airline@2", "--delete").stdout
    shown = run("airline@1", "--delete", "--files")
    assert (shown.exit_code, "airline@1 serves" in shown.stderr) == (1, True)
    assert folder.exists()
    gone = json.loads(run("airline@3", "--delete", "--files", "--json").stdout)
    assert (gone["deleted"], folder.exists()) == ("airline@3", False)
    assert [listed["id"] for listed in json.loads(run("--json").stdout)] == ["airline@1"]
    assert run("airline@3", "--delete").exit_code == 1
    assert (run("--delete").exit_code, run("airline@1", "--files").exit_code) == (2, 2)


@pytest.mark.feature("SE-153")
def test_the_list_says_what_a_rollback_goes_to(config: str, tmp_path: Path) -> None:
    """An adapter that was in service twice stands at the nearer place; one that never was, at none."""

    async def fill() -> None:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            await store.add_model(model(3))
            former = None
            for number in (1, 2, 1):
                assert await store.push_applied(
                    "airline", f"airline@{number}", expected=former, max_history=5, now_ms=1
                )
                former = f"airline@{number}"

    anyio.run(fill)
    shown = CliRunner().invoke(app, ["adapters", "--config", config])
    marks = [line.split()[:2] for line in shown.stdout.splitlines() if "airline@" in line]
    assert marks[1:] == [["airline@2", "-1"], ["airline@1", "*"]]
    as_json = json.loads(CliRunner().invoke(app, ["adapters", "--config", config, "--json"]).stdout)
    assert [(each["id"], each["in_service"], each["rollbacks"]) for each in as_json] == [
        ("airline@3", False, None),
        ("airline@2", False, 1),
        ("airline@1", True, 0),
    ]
