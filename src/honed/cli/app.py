"""The `honed` command line: one file per group of commands."""

import typer

import honed
from honed import log
from honed.cli import (
    canary,
    checks,
    compare,
    config,
    data,
    demo,
    doctor,
    export,
    feedback,
    gate,
    ingest,
    init,
    keeping,
    learning,
    logs,
    replay,
    review,
    service,
    show,
    state,
    status,
    train,
    why,
)

app = typer.Typer(
    name="honed",
    help="A learning daemon beside a swarm of LLM agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 not running, 78 bad config.",
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """A learning daemon beside a swarm of LLM agents."""
    log.configure(level="WARNING")
    if version:
        typer.echo(honed.__version__)
        raise typer.Exit


def _process(name: str, text: str) -> None:
    """List a command that `honed.cli.main` starts itself, without typer in its process."""

    @app.command(name, help=text, rich_help_panel="Processes")
    def listed() -> None:
        raise AssertionError("dispatched in honed.cli.main")


_process("run", "Run the learning daemon.")
_process("serve", "Run the gateway: one stable OpenAI-compatible address before llama-server.")
_process("up", "Run daemon and gateway together.")
_process("health", "Ask whether the daemon or the gateway answers, for probes.")
service.add_to(app)
init.add_to(app)
doctor.add_to(app)
config.add_to(app)
demo.add_to(app)
status.add_to(app)
state.add_to(app)
logs.add_to(app)
compare.add_to(app)
why.add_to(app)
replay.add_to(app)
show.add_to(app)
learning.add_to(app)
canary.add_to(app)
review.add_to(app)
feedback.add_to(app)
data.add_to(app)
ingest.add_to(app)
export.add_to(app)
train.add_to(app)
checks.add_to(app)
gate.add_to(app)
keeping.add_to(app)
