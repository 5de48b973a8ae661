"""Text for a terminal: what strangers wrote is shown, never acted on.

Task ids, outcomes, errors and rows hold what agents and their users sent. A terminal would act on
escape codes in it, and rich on square brackets.
"""

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def visible(text: str) -> str:
    """The text without what a terminal would act on; new lines and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else ascii(c)[1:-1] for c in text)


def say(text: object = "", *, err: bool = False) -> None:
    """Print one text, to stderr where asked."""
    typer.echo(visible(str(text)), err=err)


def add_row(table: Table, *cells: str) -> None:
    """A row of texts, taken as they are."""
    table.add_row(*(Text(visible(cell)) for cell in cells))


def show(table: Table) -> None:
    """Print a table."""
    Console(highlight=False).print(table)
