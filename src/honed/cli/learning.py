"""Commands that change what a running daemon does: train-now, cancel, apply, rollback."""

from typing import Annotated

import typer

from honed.cli.asking import EXIT_FAILED, AsJson, ConfigFile, ask_daemon, config_from, print_json

_PANEL = "Learning"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command("train-now", rich_help_panel=_PANEL)(train_now)
    app.command(rich_help_panel=_PANEL)(cancel)
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
) -> None:
    """Start a training run past the trigger."""
    answer = ask_daemon(
        config_from(config),
        "POST",
        "/v1/train-now",
        {
            "selection": "blind" if blind else "successes",
            "against": "base" if against_base else "incumbent",
        },
    )
    _show(answer, f"run {answer['run_id']} started", as_json)


def cancel(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Stop the run in progress."""
    answer = ask_daemon(config_from(config), "POST", "/v1/cancel", {})
    run_id = answer["run_id"]
    _show(answer, f"run {run_id} is being stopped" if run_id else "nothing trains", as_json)


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
        _show(answer, f"{model} not applied: {reason}", as_json)
        raise typer.Exit(0 if reason == "it is in service already" else EXIT_FAILED)
    previous = answer["previous_model_id"] or "the base model"
    _show(answer, f"{model} is in service (before: {previous})", as_json)


def rollback(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Go back to what served before the current adapter."""
    answer = ask_daemon(config_from(config), "POST", "/v1/rollback", {})
    _show(answer, f"{answer['model_id'] or 'the base model'} is in service", as_json)


def _show(answer: object, text: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        typer.echo(text)
