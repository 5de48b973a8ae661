"""Commands for the first day: init and demo."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import typer

from honed.cli.asking import AsJson, leave, print_json
from honed.demo import run_demo
from honed.domain.ids import check_scenario
from honed.errors import ConfigError, HonedError, ValidationError

_PANEL = "First steps"

STARTER = """\
# honed: settings of one scenario. Every key can also come from the environment as HONED__SECTION__KEY.

# The kind of work that is learned; names the adapters ({scenario}@1, {scenario}@2, ...).
scenario = "{scenario}"

# Folder or hub id of the model that is trained and served, in Hugging Face's format.
{base_model}

# When to learn: count(n), every("1h"), quality(below=0.6, window=50, min_samples=10), manual(), always(),
# never(), joined by & (and), | (or) and ~ (not).
trigger = 'count(100) | every("1h")'

{data_dir}

[learn]
# chat: captured conversations; worker_decision_sequence: the actions of each worker.
model = "chat"
# Episodes without an outcome: wait for one, or train as if they were successes.
unlabelled = "wait"

[train]
# TRL's and PEFT's own names.
r = 16
lora_alpha = 32
learning_rate = 2e-4
num_train_epochs = 3
max_length = 2048

[gate]
# Share of the tasks that is never trained on and decides whether an adapter is better.
held_out_fraction = 0.2

[apply]
# auto: an adapter that the gate has passed goes live by itself; manual (the default without this line): `honed apply`.
mode = "auto"

[serve]
# The stable address that agents talk to.
host = "127.0.0.1"
port = 8080
# Tokens of context per slot, and slots (requests answered at a time).
ctx_size = 4096
parallel = 4
# Executable of llama.cpp's server; without it the one bundled with `honed[serve]` (CPU) is used.
# llama_server = "/usr/local/bin/llama-server"
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel=_PANEL)(init)
    app.command(rich_help_panel=_PANEL)(demo)


def init(
    scenario: Annotated[str, typer.Argument(help="The kind of work, for example airline.")],
    file: Annotated[Path, typer.Option("--file", help="Where to write it.")] = Path("honed.toml"),
    base_model: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
) -> None:
    """Write a commented starter config."""
    try:
        check_scenario(scenario)
    except ValidationError as error:
        leave(error)
    text = STARTER.format(
        scenario=scenario,
        base_model=f"base_model = {json.dumps(base_model)}"
        if base_model
        else '# base_model = "Qwen/Qwen3-0.6B"   # Apache-2.0; without a base model nothing trains',
        data_dir=f"data_dir = {json.dumps(str(data_dir.absolute()))}"
        if data_dir
        else "# Where everything is kept; default: the user's data folder.\n# data_dir = ...",
    )
    try:
        with file.open("x") as out:
            out.write(text)
    except FileExistsError:
        leave(ConfigError(f"{file} exists already", advice="move it away, or choose --file"))
    except OSError as error:
        leave(ConfigError(f"{file} cannot be written: {error.strerror}"))
    typer.echo(f"wrote {file}; `honed up --config {file}` starts daemon and gateway")


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
    """The whole loop on a tiny model: a swarm works, honed learns, the swarm works better."""
    place = folder or Path("demo-run") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        result = anyio.run(lambda: run_demo(place, seed=seed, control=control, quiet=as_json))
    except HonedError as error:
        leave(error)
    if as_json:
        print_json(result)
    raise typer.Exit(0 if result.passed else 1)
