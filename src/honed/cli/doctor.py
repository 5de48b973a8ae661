"""`honed doctor`: everything that a scenario needs, one line each, with what to do."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from honed.cli.asking import EXIT_CONFIG, EXIT_FAILED, AsJson, ConfigFile, print_json
from honed.doctor import Finding, diagnose

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel="First steps")(doctor)


def doctor(
    config: ConfigFile = None,
    as_json: AsJson = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A warning counts as a failure.")
    ] = False,
) -> None:
    """Check all that a scenario needs: config, folders, store, training, serving, memory.

    Exit status: 0 nothing failed, 1 something did (with --strict: or warned), 78 bad config.
    """
    findings = []
    out = Console(highlight=False)
    for finding in diagnose(config):
        findings.append(finding)
        if not as_json:
            out.print(_line(finding))
    if as_json:
        print_json(findings)
    raise typer.Exit(exit_status(findings, strict=strict))


def exit_status(findings: list[Finding], *, strict: bool) -> int:
    """What a script learns from the report."""
    bad = {"fail", "warn"} if strict else {"fail"}
    if any(finding.check == "config" and finding.status == "fail" for finding in findings):
        return EXIT_CONFIG
    return EXIT_FAILED if any(finding.status in bad for finding in findings) else 0


def _line(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4)
    table.add_column(width=14)
    table.add_column(overflow="fold")
    words = Text(finding.found)
    if finding.advice:
        words.append(f"\n→ {finding.advice}", style=_STYLES[finding.status])
    table.add_row(Text(finding.status, style=_STYLES[finding.status]), Text(finding.check), words)
    return table
