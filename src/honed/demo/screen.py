"""What the demo shows while it runs: live bars on a terminal, plain lines elsewhere, nothing when quiet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_LINE_EVERY_S: Final = 5.0


class Phase:
    """One phase under way; tell it how far it is."""

    def __init__(self, screen: "Screen", name: str) -> None:
        self._screen = screen
        self._name = name
        self._spoke_at = time.monotonic()
        self._task: TaskID | None = None
        if screen.bars is not None:
            self._task = screen.bars.add_task(name, total=None, note="")

    def update(self, done: float | None, total: float | None, note: str = "") -> None:
        """How far it is; `None` where nobody knows."""
        if self._screen.bars is not None and self._task is not None:
            self._screen.bars.update(self._task, completed=done or 0, total=total, note=note)
        elif time.monotonic() - self._spoke_at >= _LINE_EVERY_S:
            self._spoke_at = time.monotonic()
            part = f" {done:g} of {total:g}" if done is not None and total else ""
            self._screen.line(f"    ...{part} {note}".rstrip())

    def end(self) -> None:
        """Take the bar away."""
        if self._screen.bars is not None and self._task is not None:
            self._screen.bars.remove_task(self._task)
            self._screen.bars.refresh()


class Screen:
    """Lines and phases, with the seconds that each phase took."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._started = time.monotonic()
        self.seconds: dict[str, float] = {}
        """Phase to duration, in order."""
        self.bars: Progress | None = None

    @contextmanager
    def open(self) -> Iterator["Screen"]:
        """Show bars while the context is open, if this is a terminal."""
        if not self._console.is_terminal or self._console.quiet:
            yield self
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as self.bars:
            yield self
        self.bars = None

    def line(self, text: str = "") -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """A phase: announced, timed, and its duration kept."""
        started = time.monotonic()
        self.line(f"[{started - self._started:5.1f} s] {name}")
        phase = Phase(self, name)
        try:
            yield phase
        finally:
            phase.end()
            self.seconds[name] = time.monotonic() - started

    @property
    def total_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started
