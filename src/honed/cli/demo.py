"""`honed demo`: the whole loop on a tiny model."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import typer

from honed.cli.asking import AsJson, leave, print_json
from honed.demo import run_demo
from honed.errors import HonedError

_PANEL = "First steps"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel=_PANEL)(demo)


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(help="Working folder, new or empty; default demo-run/TIME."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of base model, tasks and training.")] = 1,
    control: Annotated[
        bool,
        typer.Option(help="Also train a control without outcomes, which the gate must refuse."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Show the whole loop on a tiny model: a swarm works, honed learns, the swarm works better."""
    place = folder or Path("demo-run") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        result = anyio.run(lambda: run_demo(place, seed=seed, control=control, quiet=as_json))
    except HonedError as error:
        leave(error)
    if as_json:
        print_json(result)
    raise typer.Exit(0 if result.passed else 1)
