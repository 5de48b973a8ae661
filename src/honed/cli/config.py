"""`honed config`: what holds and where it comes from, every key there is, the schema for editors."""

import sys
from typing import Annotated

import typer

from honed.cli.asking import EXIT_CONFIG, AsJson, ConfigFile, config_from, leave, print_json
from honed.cli.printing import say
from honed.config.load import find_config
from honed.config.origins import Setting, places, settings
from honed.config.reference import reference, schema, toml_value
from honed.errors import ConfigError

_group = typer.Typer(
    help="Print the settings: show what holds, reference of every key, schema for editors.",
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    _group.command()(show)
    _group.command("reference")(show_reference)
    _group.command("schema")(show_schema)
    app.add_typer(_group, name="config", rich_help_panel="First steps")


def show(
    config: ConfigFile = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also where each value comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings as they hold: file, environment and defaults together; secrets are not shown."""
    found = config_from(config)
    try:
        file = find_config(config)
        rows = settings(found, file)
    except ConfigError as error:
        leave(error, EXIT_CONFIG)
    if as_json:
        shown = {row.key: row if sources else row.value for row in rows}
        print_json({"file": file and str(file), "settings": shown, "places": places(found)})
        return
    # one line each, never wrapped: what is shown is searched and copied
    say(f"file  {file or 'none'}\n")
    _print_columns([_cells(row, sources=sources) for row in rows])
    say("\nplaces")
    _print_columns([[f"  {name}", path] for name, path in places(found).items()])


def show_reference() -> None:
    """Print every key with its default and its meaning, as a config file."""
    sys.stdout.write(reference())


def show_schema() -> None:
    """Print the JSON schema of the config file, for editors."""
    print_json(schema())


def _cells(row: Setting, *, sources: bool) -> list[str]:
    value = "-" if row.value is None else toml_value(row.value)
    return [row.key, value, row.source] if sources else [row.key, value]


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip())
