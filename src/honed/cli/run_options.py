"""Options of the commands around a stand-alone run, and the plan that they give together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from honed.checks import RunPlan
from honed.checks.measuring import Step
from honed.checks.run_config import plan_of
from honed.cli.asking import EXIT_CONFIG, leave
from honed.config import ServeSection
from honed.errors import ConfigError

RunFile = Annotated[
    Path | None,
    typer.Option("--config", help="Config of a stand-alone run, TOML or JSON."),
]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Hub id or folder (default: model.name).")
]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", help="Test set (default: test.jsonl beside the train file)."),
]
Metrics = Annotated[Path, typer.Option("--metrics", help="Folder of the measured values.")]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="Adapter's folder (default: save.lora_path).")
]
LlamaServer = Annotated[
    Path | None, typer.Option("--llama-server", help="Executable (default: the bundled one).")
]
Merged = Annotated[
    bool, typer.Option("--merged", help="The adapter is part of the model: none is loaded beside.")
]
METRICS = Path("metrics")


def plan_from(
    config: Path | None,
    metrics: Path = METRICS,
    *,
    base_model: str | None = None,
    test: Path | None = None,
    adapter: Path | None = None,
) -> RunPlan:
    """The config's plan with what was named instead; leaves with status 78 where the file cannot be read."""
    try:
        plan = plan_of(config)
    except ConfigError as error:
        leave(error, EXIT_CONFIG)
    return replace(
        plan,
        metrics_dir=metrics,
        base_model=base_model or plan.base_model,
        test_path=test or plan.test_path,
        adapter_path=adapter or plan.adapter_path,
    )


def serve_section(llama_server: Path | None) -> ServeSection:
    """How the server is run that is measured: one slot, all else as by default."""
    return ServeSection(llama_server=llama_server, parallel=1)


@contextmanager
def bar(what: str, *, quiet: bool) -> Iterator[Step]:
    """A progress bar on stderr where that is a terminal, gone when the body ends."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
