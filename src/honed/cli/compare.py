"""`honed compare`: two runs side by side."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct
from rich.table import Table

from honed.cli.asking import AsJson, ConfigFile, config_from, print_json, with_store
from honed.cli.curve_plot import curves
from honed.cli.printing import add_row, say, show
from honed.cli.run_folder import curve_of, find_run, notes_of, settings_of
from honed.domain.run import Run
from honed.domain.trained_model import Interval, TrainedModel
from honed.errors import NotFoundError
from honed.stores import SqlStore

_ABSENT = "-"


class Side(Struct, frozen=True, kw_only=True):
    """What there is of one run."""

    run: Run
    model: TrainedModel | None
    """Its adapter; None where it made none, or it is deleted."""
    settings: dict[str, Any]
    """As the run was done; empty where its files are gone."""
    loss: tuple[tuple[int, float], ...]
    """Step and loss, in order."""
    validation_loss: tuple[tuple[int, float], ...]
    notes: list[str]


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Looking")(compare)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Its id, or its adapter's.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other one.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show two runs side by side: settings, data, losses over the steps, verdicts."""
    found = config_from(config)

    async def read(store: SqlStore) -> list[Side]:
        return [
            await _side(store, found.scenario, name, found.runs_dir) for name in (first, second)
        ]

    sides = with_store(found, read)
    differing = differences(*(side.settings for side in sides))
    common = len(set.intersection(*(_episodes(side) for side in sides)))
    if as_json:
        told = {"runs": sides, "settings_that_differ": differing, "common_episodes": common}
        print_json(told)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", *(f"{n}  {side.run.id}" for n, side in enumerate(sides, 1))):
        table.add_column(name, overflow="fold")
    figures = [_figures(side) for side in sides]
    for name in figures[0]:
        add_row(table, name, *(each[name] for each in figures))
    for name, values in differing.items():
        add_row(table, name, *(_shown(value) for value in values))
    show(table)
    say(f"\n{_same(sides, differing, common)}")
    _plot(sides)


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same, by name; None where one does not have it."""
    return {
        name: (first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    }


async def _side(store: SqlStore, scenario: str, name: str, runs_dir: Path) -> Side:
    run, folder_name = await find_run(store, scenario, name)
    folder = runs_dir / folder_name
    model = None
    if run.model_id is not None:
        try:
            model = await store.get_model(run.model_id)
        except NotFoundError:  # deleted, or the run failed before it was registered
            model = None
    curve = curve_of(folder)
    return Side(
        run=run,
        model=model,
        settings=settings_of(folder, model),
        loss=curve.loss,
        validation_loss=curve.validation_loss,
        notes=notes_of(folder),
    )


def _episodes(side: Side) -> set[str]:
    return set(side.model.episode_ids) if side.model else set()


def _figures(side: Side) -> dict[str, str]:
    """What is shown of every run, by name."""
    run, model = side.run, side.model
    metrics = model.metrics if model else None
    gate = model.gate if model else None
    seconds = (run.ended_at_ms - run.started_at_ms) / 1000 if run.ended_at_ms else None

    def figure(of: Any, name: str, form: str) -> str:
        value = getattr(of, name, None)
        return _ABSENT if value is None else f"{value:{form}}"

    validation = min((value for _, value in side.validation_loss), default=None)
    return {
        "state": run.state,
        "adapter": run.model_id or _ABSENT,
        "method": run.method or _ABSENT,
        "rows": str(model.sample_count) if model else _ABSENT,
        "episodes": str(run.num_episodes) if run.num_episodes is not None else _ABSENT,
        "steps": figure(metrics, "num_steps", "d"),
        "final loss": figure(metrics, "final_loss", ".4f"),
        "mean loss": figure(metrics, "mean_loss", ".4f"),
        "best validation loss": _ABSENT if validation is None else f"{validation:.4f}",
        "KL from the base": figure(metrics, "probe_kl", ".4f"),
        "run, s": _ABSENT if seconds is None else f"{seconds:.1f}",
        "training, s": figure(metrics, "training_time_secs", ".1f"),
        "GPU memory, MB": figure(metrics, "gpu_memory_mb", ".0f"),
        "peak memory, MB": figure(metrics, "peak_rss_mb", ".0f"),
        "verdict": gate.decision.replace("_", " ") if gate else "not judged",
        "proof": gate.proof if gate else _ABSENT,
        "measured against": (gate.incumbent_id or "the base model") if gate else _ABSENT,
        "task success": _interval(gate.success_gain if gate else None),
        "outcome contrast": _interval(gate.contrast if gate else None),
        "gain on successes": _interval(gate.gain_on_successes if gate else None),
        "p": figure(gate, "p_value", ".4f"),
        "held-out loss": figure(gate, "held_out_loss_after", ".4f"),
        "held-out accuracy": figure(gate, "accuracy_after", ".3f"),
        "notes": "; ".join(side.notes) or _ABSENT,
    }


def _interval(found: Interval | None) -> str:
    if found is None:
        return _ABSENT
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _shown(value: Any) -> str:
    return _ABSENT if value is None else msgspec.json.encode(value).decode().strip('"')


def _same(sides: list[Side], differing: dict[str, Any], common: int) -> str:
    """A sentence on settings and data."""
    if not all(side.settings for side in sides):
        settings = "The settings of a run are gone with its files."
    else:
        settings = "" if differing else "The settings are the same. "
    if not all(side.model for side in sides):
        return f"{settings} Of a run without an adapter the data are not known.".strip()
    digests = {side.model.data_digest for side in sides if side.model}
    data = (
        "They learned from the same rows."
        if len(digests) == 1
        else f"{common} episodes are common to both, "
        + " and ".join(f"{len(_episodes(side)) - common}" for side in sides)
        + " are in one alone."
    )
    return f"{settings}{data}"


def _plot(sides: list[Side]) -> None:
    for y_name in ("loss", "validation loss"):
        field = y_name.replace(" ", "_")
        found = {str(n): getattr(side, field) for n, side in enumerate(sides, 1)}
        lines = list(curves(found, y_name=f"{y_name} of 1 and 2, * where they meet"))
        if lines:
            say()
        for line in lines:
            say(line)
