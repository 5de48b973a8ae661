"""Commands that change what a running daemon does: train-now, cancel, reload, apply, rollback."""

import time
from typing import Annotated, Any, Final, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from honed.cli.asking import (
    EXIT_FAILED,
    AsJson,
    ConfigFile,
    ask_daemon,
    ask_unless_busy,
    config_from,
    leave,
    print_json,
)
from honed.cli.endings import ending
from honed.cli.figures import naming
from honed.cli.printing import say
from honed.config import Config
from honed.domain.times import now_ms
from honed.errors import ControlError

_PANEL: Final = "Learning"
_LOOK_S: Final = 0.3
_LOST_S: Final = 60.0
"""From when on a run that is neither in progress nor written down is not waited for; the disk may be full."""


_TAKEN_S: Final = 10.0
"""Until when it is waited for what becomes of an order; another learn model's run may be before it."""
_TAKEN_LOOK_S: Final = 0.05
_REVIEW: Final = "`honed review{which}` shows what it would learn from, `honed review approve{which}` lets it run"

_PAUSED: Final = "it goes on by itself when its rule allows it; `honed cancel` ends it"

Became = Literal["started", "waits", "ordered"]
_BECAME: Final[dict[Became, str]] = {
    "started": "started",
    "waits": f"waits for a review ({_REVIEW})",
    "ordered": "is ordered; `honed status` shows when it begins",
}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command("train-now", rich_help_panel=_PANEL)(train_now)
    app.command(rich_help_panel=_PANEL)(cancel)
    app.command(rich_help_panel=_PANEL)(reload)
    app.command(rich_help_panel=_PANEL)(apply)
    app.command(rich_help_panel=_PANEL)(rollback)


def train_now(
    config: ConfigFile = None,
    as_json: AsJson = False,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind", help="Train a control without looking at outcomes; never served by itself."
        ),
    ] = False,
    against_base: Annotated[
        bool, typer.Option("--against-base", help="Judge it against the bare base model.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Show progress until the run has ended; one that is in progress is waited for first.",
        ),
    ] = False,
    learn_model: Annotated[
        str | None,
        typer.Option(help="Which one trains, where learn.model names several; default: the first."),
    ] = None,
) -> None:
    """Start a training run past the trigger.

    With `learn.review = true` it waits for a review first: `honed review`.

    Exit status: 0 started, or waits for a review (with --wait: done), 1 another run is in progress or waits (with
    --wait: it failed, was skipped, was stopped or waits), 3 no daemon runs.
    """
    found = config_from(config)
    order = {
        "selection": "blind" if blind else "successes",
        "against": "base" if against_base else "incumbent",
    } | ({"learn_model": learn_model} if learn_model else {})
    if not wait:
        answer = ask_daemon(found, "POST", "/v1/train-now", order)
        became = _became(found, answer["run_id"])
        words = _BECAME[became].format(which=naming(learn_model) if learn_model else "")
        _show(answer | {"became": became}, f"run {answer['run_id']} {words}", as_json)
        return
    run = _followed(found, _started(found, order, quiet=as_json), quiet=as_json)
    _show(run, f"run {ending(run, now_ms())}", as_json)
    raise typer.Exit(0 if run["state"] == "done" else EXIT_FAILED)


def cancel(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Stop the run in progress."""
    answer = ask_daemon(config_from(config), "POST", "/v1/cancel", {})
    run_id = answer["run_id"]
    _show(answer, f"run {run_id} is being stopped" if run_id else "nothing trains", as_json)


def reload(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Put the trigger of the changed config into a running daemon; what it remembers stays.

    Exit status: 0 taken, 1 the daemon has refused it, 3 no daemon runs, 78 the config cannot be used.
    """
    answer = ask_daemon(config_from(config), "POST", "/v1/reload", {})
    waits = f"; these wait for a restart: {', '.join(answer['wait'])}" if answer["wait"] else ""
    _show(answer, f"trigger: {answer['trigger']}{waits}", as_json)


def apply(
    model: Annotated[str, typer.Argument(help="Adapter id, SCENARIO@NUMBER.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", help="Serve it even if the gate has not passed it.")
    ] = False,
) -> None:
    """Put an adapter into service that the gate has passed."""
    answer = ask_daemon(
        config_from(config), "POST", "/v1/apply", {"model_id": model, "force": force}
    )
    if reason := answer.get("skipped"):
        is_there = reason == "it is in service already"
        if as_json or is_there:
            _show(answer, f"{model}: {reason}", as_json)
        else:
            say(f"honed: {model} not applied: {reason} (--force serves it all the same)", err=True)
        raise typer.Exit(0 if is_there else EXIT_FAILED)
    previous = answer["previous_model_id"] or "the base model"
    _show(answer, f"{model} is in service (before: {previous})", as_json)


def rollback(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Go back to what served before the current adapter."""
    answer = ask_daemon(config_from(config), "POST", "/v1/rollback", {})
    _show(answer, f"{answer['model_id'] or 'the base model'} is in service", as_json)


def _became(config: Config, run_id: str) -> Became:
    """What the daemon has made of an order by now."""
    until_s = time.monotonic() + _TAKEN_S
    while time.monotonic() < until_s:
        status = ask_daemon(config, "GET", "/v1/status")
        if _waiting(status, run_id):
            return "waits"
        if any(run and run_id in run.values() for run in (status["training"], status["last_run"])):
            return "started"
        time.sleep(_TAKEN_LOOK_S)
    return "ordered"


def _waiting(status: dict[str, Any], run_id: str) -> dict[str, Any] | None:
    """The run's review, while nobody has let it begin."""
    reviews = status.get("reviews") or ()
    return next((r for r in reviews if r["run_id"] == run_id and not r["approved_by"]), None)


def _started(config: Config, order: dict[str, str], *, quiet: bool) -> str:
    """The id of the run that was ordered, once those that were in progress have ended."""
    while (answer := ask_unless_busy(config, "POST", "/v1/train-now", order)) is None:
        status = ask_daemon(config, "GET", "/v1/status")
        now = status["training"]
        for paused in status.get("paused") or ():
            leave(
                ControlError(
                    f"run {paused} is paused until its rule allows it again", advice=_PAUSED
                )
            )
        if now is None:  # it begins or ends just now
            time.sleep(_LOOK_S)
            continue
        say(f"run {now['run_id']} is in progress; the new one starts when it has ended", err=True)
        run = _followed(config, now["run_id"], quiet=quiet)
        say(f"run {ending(run, now_ms())}; now the new one", err=True)
    started: str = answer["run_id"]
    return started


def _followed(config: Config, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Show a run's progress; returns the run once it has ended."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), disable=quiet
    ) as bar:
        task = bar.add_task("waiting", total=None)
        lost_s = time.monotonic() + _LOST_S
        while True:
            status = ask_daemon(config, "GET", "/v1/status")
            now = status["training"]
            if review := _waiting(status, run_id):
                which = naming(review["learn_model"]) if status.get("lines") else ""
                advice = _REVIEW.format(which=which)
                leave(ControlError(f"run {run_id} waits for a review", advice=advice))
            if now is None or now["run_id"] != run_id:
                runs: list[dict[str, Any]] = ask_daemon(config, "GET", "/v1/runs")["runs"]
                ended = [run for run in runs if run["id"] == run_id and run["state"] != "running"]
                if ended:
                    return ended[0]
                if run_id in (status.get("paused") or ()):
                    leave(ControlError(f"run {run_id} is paused", advice=_PAUSED))
                if time.monotonic() > lost_s:
                    advice = "`honed runs` shows what there is, the daemon's log what happened"
                    leave(ControlError(f"run {run_id} was never written down", advice=advice))
            else:
                lost_s = time.monotonic() + _LOST_S
                loss = f", loss {now['loss']:.3f}" if now.get("loss") is not None else ""
                bar.update(
                    task,
                    description=f"{now['phase']}{loss}",
                    total=now.get("total_steps"),
                    completed=now.get("step") or 0,
                )
            time.sleep(_LOOK_S)


def _show(answer: object, text: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(text)
