"""`logs/training.log`: a line for each logging step, which alone says where the run is.

    2026-03-02T09:10:00.250Z step=3/12 epoch=0.75/3 loss=2.1043 learning_rate=0.0002 eta=14 started=... checkpoint=...

Other lines have text behind the time. The last line of a run has `completed=` or `error=`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

LAST_LINES: Final = 20
_TAIL_BYTES: Final = 64 << 10
_FIELD: Final = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)')


class RunStatus(Struct, frozen=True, kw_only=True):
    """Where a run is; times are ISO 8601 in UTC."""

    running: bool
    step: int = 0
    total_steps: int = 0
    """0 until the rows are counted."""
    epoch: float = 0.0
    total_epochs: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    eta_seconds: float | None = None
    """None until a step is done."""
    started_at: str | None = None
    """Kept when a run goes on that was cut off."""
    checkpoint_at: str | None = None
    """When the last checkpoint was complete."""
    completed_at: str | None = None
    """Of a run that has done all it was to do."""
    last_updated: str = ""
    error: str | None = None


def line_of(state: RunStatus) -> str:
    """A line of the log, without its end."""
    parts = [
        state.last_updated,
        f"step={state.step}/{state.total_steps}",
        f"epoch={state.epoch:.4g}/{state.total_epochs:g}",
    ]
    figures: dict[str, Any] = {
        "loss": state.loss,
        "learning_rate": state.learning_rate,
        "eta": None if state.eta_seconds is None else round(state.eta_seconds),
    }
    parts += [f"{name}={value:.6g}" for name, value in figures.items() if value is not None]
    times = {
        "started": state.started_at,
        "checkpoint": state.checkpoint_at,
        "completed": state.completed_at,
    }
    parts += [f"{name}={value}" for name, value in times.items() if value is not None]
    if state.error is not None:
        parts.append(f"error={json.dumps(state.error)}")
    return " ".join(parts)


def last_state(path: Path) -> RunStatus | None:
    """Where the last lines of a log say that the run is, running unless they tell its end; None where no log or no
    such line is.
    """
    lines = _last_lines(path)
    return next((found for line in reversed(lines) if (found := _state_of(line))), None)


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []


def _state_of(line: str) -> RunStatus | None:
    at, _, rest = line.partition(" ")
    if not rest.startswith("step="):
        return None
    fields = dict(_fields(rest))
    try:
        step, total = fields["step"].split("/")
        epoch, epochs = fields["epoch"].split("/")
        return RunStatus(
            running=fields.keys().isdisjoint({"completed", "error"}),
            last_updated=at,
            step=int(step),
            total_steps=int(total),
            epoch=float(epoch),
            total_epochs=float(epochs),
            loss=_maybe(fields, "loss"),
            learning_rate=_maybe(fields, "learning_rate"),
            eta_seconds=_maybe(fields, "eta"),
            started_at=fields.get("started"),
            checkpoint_at=fields.get("checkpoint"),
            completed_at=fields.get("completed"),
            error=fields.get("error"),
        )
    except (KeyError, ValueError):
        return None


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _FIELD.findall(text):
        yield name, json.loads(value) if value.startswith('"') else value


def _maybe(fields: dict[str, str], name: str) -> float | None:
    return float(fields[name]) if name in fields else None
