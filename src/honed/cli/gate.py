"""`honed gate`: eight gates that read measured values, and the commands that measure them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from honed.checks import GATES, Gate, GateResult, judge
from honed.checks.deployment import measure_deployment
from honed.checks.files import write_json
from honed.checks.measures import (
    ANNOTATIONS,
    RAW_DATA,
    SOURCES,
    Annotations,
    Baseline,
    Deployment,
    Quantization,
)
from honed.checks.measuring import IMPROVEMENT, measure_baseline
from honed.checks.quantization import NUM_TOKENS, measure_quantization
from honed.checks.raw_data import agreement, count_raw
from honed.cli.asking import EXIT_FAILED, EXIT_USAGE, AsJson, leave, print_json, run_async
from honed.cli.printing import say
from honed.cli.run_options import (
    METRICS,
    Adapter,
    BaseModel,
    LlamaServer,
    Merged,
    Metrics,
    RunFile,
    TestFile,
    bar,
    plan_from,
    serve_section,
)
from honed.errors import ValidationError

Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="METRIC=NUMBER", help="Another limit, for example leakage=1."),
]

_group = typer.Typer(
    no_args_is_help=True,
    help="Check measured values against the limits of a gate, or measure them.",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for gate in GATES.values():
        _group.command(gate.name, help=_help(gate), rich_help_panel="Gates")(_judging(gate))
    for name, measure in (
        ("raw-data", raw_data),
        ("annotations", annotations),
        ("baseline", baseline),
        ("quantization", quantization),
        ("deployment", deployment),
    ):
        _group.command(name, rich_help_panel="Measuring")(measure)
    app.add_typer(_group, name="gate", rich_help_panel="Stand-alone runs")


def _help(gate: Gate) -> str:
    wanted = ", ".join(map(str, gate.criteria))
    return f"Check {wanted}.\n\nReads metrics/{gate.file}. Exit status 0 passed, 1 not."


def _judging(gate: Gate) -> Callable[..., None]:
    """The command of one gate."""

    def judging(
        config: RunFile = None,
        test: TestFile = None,
        metrics: Metrics = METRICS,
        limit: Limits = None,
        as_json: AsJson = False,
    ) -> None:
        plan = plan_from(config, metrics, test=test)
        try:
            limited = gate.limited(_limits(limit or []))
        except ValidationError as error:
            leave(error, EXIT_USAGE)
        result = judge(limited, plan)
        if as_json:
            print_json(result)
        else:
            _show(limited, result)
        raise typer.Exit(0 if result.passed else EXIT_FAILED)

    return judging


def _limits(given: list[str]) -> dict[str, float]:
    limits = {}
    for each in given:
        metric, _, number = each.partition("=")
        try:
            limits[metric] = float(number)
        except ValueError:
            raise ValidationError(
                f"{each!r} is no limit", advice="write METRIC=NUMBER, for example improvement=10"
            ) from None
    return limits


def _show(gate: Gate, result: GateResult) -> None:
    say(f"{result.gate_id}: {'passed' if result.passed else 'not passed'}")
    for criterion in gate.criteria:
        value = result.metrics[criterion.metric]
        told = "absent" if value is None else f"{value:g}"
        say(f"  {criterion.metric} {told} ({criterion.wanted})")
    for blocker in result.blockers:
        say(f"  blocked: {blocker}")
    for warning in result.warnings:
        say(f"  warning: {warning}")


def raw_data(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Raw rows, JSON lines.")],
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="CATEGORY", help="A category the data should cover."),
    ] = None,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure raw rows: how many, from how many sources, of which categories.

    Rows are told by their fields (or their metadata's) `source` and `category`. Writes metrics/sources.json and
    metrics/raw-data.json. Without --expect the coverage is absent.
    """
    try:
        sources, raw = count_raw(files, expected=expect or ())
        write_json(metrics / SOURCES, sources)
        write_json(metrics / RAW_DATA, raw)
    except ValidationError as error:
        leave(error)
    if as_json:
        print_json({"sources": sources, "raw_data": raw})
        return
    covered = "not known without --expect" if raw.coverage is None else f"{raw.coverage:.0f} %"
    say(
        f"{raw.samples} rows from {sources.source_count} sources, {sources.untold} without a source"
    )
    say(f"{raw.diversity} categories, coverage {covered}")


def annotations(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help='Lines {"item", "annotator", "label"}.')
    ],
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure how far annotators agree on the items that several have labelled.

    Writes metrics/annotations.json.
    """
    try:
        found: Annotations = agreement(file)
        write_json(metrics / ANNOTATIONS, found)
    except ValidationError as error:
        leave(error)
    if as_json:
        print_json(found)
        return
    agreed = (
        "not known: no item has two labels"
        if found.agreement is None
        else f"{found.agreement:.1f} %"
    )
    alpha = "" if found.alpha is None else f", alpha {found.alpha:.2f}"
    say(f"agreement {agreed}{alpha} ({found.num_items} items, {found.num_annotators} annotators)")


def baseline(
    config: RunFile = None,
    base_model: BaseModel = None,
    test: TestFile = None,
    improvement: Annotated[
        float, typer.Option("--improvement", help="Points that an adapter must gain.")
    ] = IMPROVEMENT,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure the base model on the test set: how many of the assistant's tokens it foretells.

    Writes metrics/baseline.json with the digest of the test set and the target.
    """
    plan = plan_from(config, metrics, base_model=base_model, test=test)

    with bar("measuring the base model", quiet=as_json) as on_step:

        async def measured() -> Baseline:
            return await measure_baseline(plan, improvement=improvement, on_step=on_step)

        found = run_async(measured)
    if found.target > 100:
        say(
            f"honed: the target {found.target:.1f} cannot be reached: choose a smaller --improvement",
            err=True,
        )
    if as_json:
        print_json(found)
        return
    say(f"{found.score:.1f} of 100 on {found.num_tokens} tokens, loss {found.loss:.3f}")
    say(f"target {found.target:.1f}")


def quantization(
    config: RunFile = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    test: TestFile = None,
    quantized: Annotated[
        Path | None, typer.Option("--quantized", help="GGUF (default: converted to q8_0).")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="GGUF (default: converted to f32).")
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="How many tokens of the test set are asked.")
    ] = NUM_TOKENS,
    merged: Merged = False,
    llama_server: LlamaServer = None,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure on llama-server how much of its score the quantised model keeps.

    Writes metrics/quantization.json.
    """
    plan = plan_from(config, metrics, base_model=base_model, test=test, adapter=adapter)

    with bar("asking both models", quiet=as_json) as on_step:

        async def measured() -> Quantization:
            return await measure_quantization(
                plan,
                serve_section(llama_server),
                quantized=quantized,
                reference=reference,
                merged=merged,
                num_tokens=tokens,
                on_step=on_step,
            )

        found = run_async(measured)
    if as_json:
        print_json(found)
        return
    kept = (
        "not known: the reference scores 0"
        if found.retention is None
        else f"{found.retention:.1f} %"
    )
    say(
        f"{found.score:.1f} of 100, reference {found.reference_score:.1f}, on {found.num_tokens} tokens"
    )
    say(f"retention {kept}, the same first choice in {found.agreement:.1f} %")


def deployment(
    config: RunFile = None,
    base_model: BaseModel = None,
    adapter: Adapter = None,
    test: TestFile = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="GGUF (default: converted to q8_0).")
    ] = None,
    merged: Merged = False,
    llama_server: LlamaServer = None,
    metrics: Metrics = METRICS,
    as_json: AsJson = False,
) -> None:
    """Measure how fast llama-server answers with the model, and how much memory it takes.

    Writes metrics/deployment.json.
    """
    plan = plan_from(config, metrics, base_model=base_model, test=test, adapter=adapter)

    async def measured() -> Deployment:
        return await measure_deployment(
            plan, serve_section(llama_server), model=model, merged=merged
        )

    found = run_async(measured)
    if as_json:
        print_json(found)
        return
    on_gpu = f", {found.gpu_memory_gb:.2f} of them on GPUs" if found.gpu_memory_gb else ""
    say(f"{found.tokens_per_second:.1f} tokens/s, {found.memory_gb:.2f} GB{on_gpu}")
