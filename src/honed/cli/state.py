"""Commands that list: runs, adapters, episodes."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from honed.cli.asking import (
    AsJson,
    ConfigFile,
    config_from,
    print_json,
    with_store,
)
from honed.cli.printing import add_row, say, show
from honed.cli.run_folder import notes_of
from honed.config import Config
from honed.domain.outcome import Outcome, Unknown, score
from honed.domain.trained_model import GateResult, TrainedModel
from honed.ports import EpisodeFilter

_PANEL = "Looking"


class OutcomeName(StrEnum):
    """How an episode may have ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel=_PANEL)(runs)
    app.command(rich_help_panel=_PANEL)(adapters)
    app.command(rich_help_panel=_PANEL)(episodes)


def runs(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List training runs, newest first."""
    found = config_from(config)
    rows = with_store(found, lambda store: store.list_runs(found.scenario))
    if as_json:
        print_json(rows)
        return
    models = {
        model.id: model
        for model in with_store(found, lambda store: store.list_models(found.scenario))
    }
    for run in rows:
        seconds = (run.ended_at_ms - run.started_at_ms) / 1000 if run.ended_at_ms else None
        facts = [
            run.id,
            run.state,
            f"{_time(run.started_at_ms)} UTC",
            f"{seconds:.1f} s" if seconds is not None else "",
            run.method or "",
            _learned(models.get(run.model_id or "")),
            f"{run.num_episodes} episodes" if run.num_episodes else "",
            f"{run.num_new} new" if run.num_new else "",
            f"{run.num_changed} changed" if run.num_changed else "",
            f"{run.num_near_duplicates} near-duplicates" if run.num_near_duplicates else "",
            "blind" if run.selection == "blind" else "",
            run.model_id or "",
        ]
        say("  ".join(filter(None, facts)))
        if words := run.message or run.reason:
            say(f"    {words}")
        if run.method and run.method_reason:
            say(f"    {run.method}: {run.method_reason}")
        for note in notes_of(found.runs_dir / run.id):
            say(f"    {note}")
        if run.left_out:
            left_out = sorted(run.left_out.items(), key=lambda found: -found[1])
            say(f"    left out: {', '.join(f'{count} {why}' for why, count in left_out)}")
        if run.forks:
            forks = sorted(run.forks.items(), key=lambda found: -found[1])
            told = ", ".join(f"{count} {why}" for why, count in forks)
            say(f"    conversations besides the longest of an attempt: {told}")


def _learned(model: TrainedModel | None) -> str:
    """Loss and steps of the adapter that a run made."""
    metrics = model.metrics if model else None
    if metrics is None or metrics.final_loss is None:
        return ""
    steps = f" after {metrics.num_steps} steps" if metrics.num_steps else ""
    return f"loss {metrics.final_loss:.3f}{steps}"


def adapters(
    adapter: Annotated[str | None, typer.Argument(help="Only this one, in full.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Take this one out of the list; its files stay.")
    ] = False,
    files: Annotated[bool, typer.Option("--files", help="With --delete: they go too.")] = False,
) -> None:
    """List trained adapters with their verdicts, newest first; `*` marks the one in service, -1 what it replaced.

    `honed rollback` goes to -1, once more to -2, and in the end to the base model.
    """
    found = config_from(config)
    if delete or files:
        _delete_adapter(found, adapter if delete else None, files=files, as_json=as_json)
        return
    if adapter is not None:
        model = with_store(found, lambda store: store.get_model(adapter))
        if as_json:
            print_json(model)
        else:
            _show_adapter(model)
        return
    models = with_store(found, lambda store: store.list_models(found.scenario))
    history = with_store(found, lambda store: store.history(found.scenario))
    back = {entry.model_id: steps for steps, entry in reversed(list(enumerate(reversed(history))))}
    if as_json:
        shown: list[dict[str, Any]] = [
            msgspec.to_builtins(model)
            | {"in_service": back.get(model.id) == 0, "rollbacks": back.get(model.id)}
            for model in models
        ]
        print_json(shown)
        return
    table = _table("adapter", "", "kind", "trained", "episodes", "loss", "verdict")
    for model in models:
        add_row(
            table,
            model.id,
            _mark(back.get(model.id)),
            model.selection,
            _time(model.created_at_ms),
            str(len(model.episode_ids)),
            _loss(model),
            _verdict(model),
        )
    show(table)


def _mark(steps: int | None) -> str:
    """How many rollbacks away an adapter is; it may have been in service more than once."""
    return "" if steps is None else f"-{steps}" if steps else "*"


def _delete_adapter(config: Config, adapter: str | None, *, files: bool, as_json: bool) -> None:
    if adapter is None:
        raise typer.BadParameter("say which adapter to --delete", param_hint="ADAPTER")
    model = with_store(config, lambda store: store.get_model(adapter))
    with_store(config, lambda store: store.delete_model(adapter, files=files))
    if as_json:
        print_json({"deleted": adapter, "adapter_path": model.adapter_path, "files": files})
        return
    where = "its files too" if files else f"its files stay in {model.adapter_path}"
    say(f"{adapter} is out of the list, {where}")


def _verdict(model: TrainedModel) -> str:
    """The gate's decision with its figure; the whole reason is shown with one adapter."""
    gate = model.gate
    if gate is None:
        return "not judged"
    decision = gate.decision.replace("_", " ")
    if gate.proof == "verified" and gate.success_gain is not None:
        return f"{decision}, success {gate.success_gain.value:+.1%}, p {gate.p_value or 0:.3f}"
    if gate.contrast is None:
        return f"{decision} ({gate.proof})"
    chance = "" if gate.p_value is None else f", p {gate.p_value:.3f}"
    return f"{decision}, contrast {gate.contrast.value:+.3f}{chance}"


def _proof(gate: GateResult) -> str:
    """What the verdict proves, and what was measured beside what decided."""
    told: list[str] = [gate.proof]
    for name, before, after in (
        ("loss", gate.held_out_loss_before, gate.held_out_loss_after),
        ("accuracy", gate.accuracy_before, gate.accuracy_after),
    ):
        if before is not None and after is not None:
            told.append(f"{name} on held-out successes {before:.3f} to {after:.3f}")
    if gate.detectable is not None:
        told.append(f"{gate.detectable:.3f} would have been found in 80 % of cases")
    return "; ".join(told)


def _forgetting(model: TrainedModel) -> str:
    kl = model.metrics.probe_kl if model.metrics else None
    return (
        "not measured" if kl is None else f"{kl:.3f} nats per token from the base on the probe set"
    )


def _show_adapter(model: TrainedModel) -> None:
    rows = {
        "adapter": model.id,
        "trained": f"{_time(model.created_at_ms)} UTC, {model.method} on {len(model.episode_ids)} episodes "
        f"({model.selection})",
        "run": model.run_id,
        "base model": model.base_model,
        "parent": model.parent_id or "the base model",
        "method": f"{model.method}: {model.method_reason}" if model.method_reason else model.method,
        "began with": model.started_from or "the base model",
        "loss": _loss(model),
        "forgetting": _forgetting(model),
        "verdict": f"{model.gate.decision.replace('_', ' ')}: {model.gate.reason}"
        if model.gate
        else "not judged",
        "proof": _proof(model.gate) if model.gate else "none",
        "folder": model.adapter_path,
        "digest": model.digest,
        "data digest": model.data_digest,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        add_row(table, name, value)
    show(table)


def episodes(
    config: ConfigFile = None,
    as_json: AsJson = False,
    outcome: Annotated[OutcomeName | None, typer.Option(help="Only those.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many; default 50, with --json all.")
    ] = None,
) -> None:
    """List episodes, newest first."""
    found = config_from(config)
    wanted = EpisodeFilter(
        scenario=found.scenario,
        outcomes=frozenset([outcome.value]) if outcome else None,
        limit=limit or (None if as_json else 50),
        newest_first=True,
    )
    rows = with_store(found, lambda store: store.list_episodes(wanted))
    if as_json:
        print_json(rows)
        return
    table = _table("episode", "task", "group", "outcome", "score", "records", "made by")
    for row in rows:
        add_row(
            table,
            row.id,
            row.task_id or "",
            row.group_id or "",
            *_outcome(row.outcome),
            str(row.num_records),
            row.adapter_id or "-",
        )
    show(table)


def _outcome(outcome: Outcome) -> tuple[str, str]:
    """Its name and its score; nobody has said one of an unknown outcome."""
    is_scored = not isinstance(outcome, Unknown)
    return type(outcome).__name__.lower(), f"{score(outcome):.2f}" if is_scored else ""


def _loss(model: TrainedModel) -> str:
    loss = model.metrics.final_loss if model.metrics else None
    return "" if loss is None else f"{loss:.3f}"


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(names):
        # an id is copied, so it is never broken
        table.add_column(name, overflow="fold", no_wrap=i == 0)
    return table


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
