"""Commands around a stand-alone run: validate its data, look at the machine, evaluate what it made."""

import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from honed.checks import DatasetReport, MachineFacts, PreflightCheck, RunPlan, preflight, validate
from honed.checks.files import write_json
from honed.checks.measures import DATASET, Evaluation
from honed.checks.measuring import measure_adapter
from honed.checks.run_config import plan_of
from honed.checks.run_plan import SPLITS
from honed.cli.asking import EXIT_FAILED, EXIT_USAGE, AsJson, leave, print_json, run_async
from honed.cli.printing import say, show, visible
from honed.cli.run_options import (
    METRICS,
    Adapter,
    BaseModel,
    Metrics,
    RunFile,
    TestFile,
    bar,
    plan_from,
)
from honed.domain.job import ExamineJob, ExamineResult
from honed.errors import ConfigError, HonedError, ValidationError
from honed.machine.gpus import gpus
from honed.machine.memory import memory
from honed.processors import run_job

_STYLES = {
    "pass": "green",
    "warn": "yellow",
    "fail": "bold red",
    "warning": "yellow",
    "error": "bold red",
}
_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    panel = "Stand-alone runs"
    app.command("validate", rich_help_panel=panel)(validate_)
    app.command("preflight", rich_help_panel=panel)(preflight_)
    app.command("evaluate", rich_help_panel=panel)(evaluate)


def validate_(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Data sets, JSON lines.")
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option("--splits", help="Folder of train.jsonl, val.jsonl and test.jsonl."),
    ] = None,
    config: RunFile = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            help="Tokens that a row may hold in training (default: the config's, else 2048).",
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(
            "--text-field", help="Field of preformatted rows (default: the config's, else text)."
        ),
    ] = None,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Check data sets: lines, duplicates, leakage between splits, lengths, shares.

    With --splits or --config the report is written to metrics/dataset.json, for `honed gate dataset-validated`.
    Exit status 1 with an error; warnings leave it 0.
    """
    if [bool(files), splits is not None, config is not None].count(True) != 1:
        leave(HonedError("name files, a folder by --splits, or a config by --config"), EXIT_USAGE)
    plan = plan_from(config)
    try:
        named = {_name(path): path for path in files or ()}
        if files and len(named) < len(files):
            named = {str(path): path for path in files}
        if splits is not None:
            named = _in_folder(splits)
        elif config is not None:
            named = _of_run(plan)
        report = validate(
            named,
            max_length=max_length or plan.max_length,
            text_field=text_field or plan.text_field,
        )
        if not files:
            write_json(metrics / DATASET, report)
    except ValidationError as error:
        leave(error)
    if as_json:
        print_json(report)
    else:
        _show_report(report)
    raise typer.Exit(0 if report.passed else EXIT_FAILED)


def _in_folder(folder: Path) -> dict[str, Path]:
    """The files of the splits that are there; others in the folder are not looked at."""
    found = {_name(path): path for path in sorted(folder.glob("*.jsonl"))}
    named: dict[str, Path] = {name: found[name] for name in SPLITS if name in found}
    if not named:
        raise ValidationError(
            f"{folder} has none of train.jsonl, val.jsonl, test.jsonl",
            advice="name the files instead",
        )
    return named


def _of_run(plan: RunPlan) -> dict[str, Path]:
    """The files of a run's splits; the training file must be there."""
    train = plan.splits["train"]
    return {name: path for name, path in plan.splits.items() if path == train or path.is_file()}


def _name(path: Path) -> str:
    return _NAMES.get(path.stem, path.stem)


def _show_report(report: DatasetReport) -> None:
    for name, split in report.splits.items():
        say(f"{name}: {split.num_rows} rows ({split.share:.0%}) of {split.path}")
    _show_lines([(each.level, each.kind, each.text, each.advice) for each in report.findings])
    say("fit to use" if report.passed else "not fit to use")


def preflight_(
    config: RunFile = None,
    base_model: BaseModel = None,
    metrics: Metrics = METRICS,
    without_baseline: Annotated[
        bool, typer.Option("--without-baseline", help="A missing baseline only warns.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check in nine lines what a stand-alone run needs: data, GPU, config, model, baseline.

    Exit status 1 when one of them fails.
    """
    plan, faults = _plan_or_faults(config)
    plan = replace(plan, metrics_dir=metrics, base_model=base_model or plan.base_model)
    found = preflight(plan, _machine(), config_faults=faults, needs_baseline=not without_baseline)
    if as_json:
        print_json(found)
    else:
        _show_lines([(each.status, each.check, each.found, each.advice) for each in found])
    raise typer.Exit(EXIT_FAILED if any(_has_failed(each) for each in found) else 0)


def _has_failed(check: PreflightCheck) -> bool:
    return check.status == "fail"


def _plan_or_faults(config: Path | None) -> tuple[RunPlan, tuple[str, ...]]:
    """A config that cannot be used is one of the things that are reported; the defaults stand in."""
    try:
        return plan_of(config), ()
    except ConfigError as error:
        return RunPlan(config_path=config), error.faults or (str(error),)


def _machine() -> MachineFacts:
    has_stack = find_spec("torch") is not None and find_spec("transformers") is not None
    return MachineFacts(gpus(), memory(), run_async(_examined) if has_stack else None)


async def _examined() -> ExamineResult:
    with tempfile.TemporaryDirectory(prefix="honed-preflight-") as scratch:
        job = ExamineJob(base_model=None, result_path=str(Path(scratch) / "result.json"))
        found = await run_job(job, Path(scratch), python=sys.executable)
    assert isinstance(found, ExamineResult)
    return found


def evaluate(
    config: RunFile = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    test: TestFile = None,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure the adapter on the test set of the baseline, and compare.

    Writes metrics/evaluation.json, for `honed gate model-performance`. Exit status 0 when it was
    measured, whatever it is.
    """
    plan = plan_from(config, metrics, base_model=base_model, test=test, adapter=adapter)
    with bar("measuring the adapter", quiet=as_json) as on_step:

        async def measured() -> Evaluation:
            return await measure_adapter(plan, on_step=on_step)

        found = run_async(measured)
    if as_json:
        print_json(found)
    else:
        _show_evaluation(found)


def _show_evaluation(found: Evaluation) -> None:
    sure = ""
    if found.improvement_low is not None:
        sure = f" (95 %: {found.improvement_low:+.1f} to {found.improvement_high:+.1f})"
    say(f"adapter  {found.score:.1f} of 100, {found.num_tokens} tokens")
    say(f"baseline {found.baseline_score:.1f}")
    say(f"improvement {found.improvement:+.1f} points{sure}")
    verdict = "reached" if found.passed else "not reached"
    say(f"target {found.target:.1f}: {verdict}")


def _show_lines(lines: list[tuple[str, str, str, str | None]]) -> None:
    """Status, name, what was found and what to do."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    for status, name, found, advice in lines:
        words = Text(visible(found))
        if advice:
            words.append(visible(f"\n→ {advice}"), style=_STYLES[status])
        table.add_row(Text(status, style=_STYLES[status]), Text(name), words)
    show(table)
