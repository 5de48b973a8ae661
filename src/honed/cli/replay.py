"""`honed trigger replay`: when a rule would have fired on what the store holds, and on how many episodes."""

import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from msgspec import Struct
from rich.table import Table

from honed.cli.asking import AsJson, ConfigFile, config_from, leave, print_json, with_store
from honed.cli.printing import add_row, say, show
from honed.cli.replay_plot import Course, bars, svg
from honed.domain.times import iso_utc, now_ms
from honed.errors import HonedError, NotFoundError
from honed.stores import SqlStore
from honed.triggers import TrainTrigger, parse
from honed.triggers.duration import format_duration, parse_duration, whole_seconds
from honed.triggers.past import PastEvent
from honed.triggers.replay import Firing, Replay

_SHOWN: Final = 40
"""Firings in the table; all of them are in the JSON."""
_HOUR: Final = timedelta(hours=1)
_RUNS: Final = 100
"""Newest runs that tell how long a training takes."""


class Fired(Struct, frozen=True, kw_only=True):
    """One firing, as JSON."""

    at: str
    new: int
    """Episodes that no training had seen."""
    changed: int
    """Trained ones whose outcome was another by then."""
    success_rate: float | None
    """Of the new ones with a known outcome."""
    verdict: str


class Replayed(Struct, frozen=True, kw_only=True):
    """What `honed trigger replay --json` prints."""

    scenario: str
    rule: str
    since: str
    until: str
    run_time_s: float
    """How long each training was taken to last."""
    episodes: int
    firings: list[Fired]
    waiting: int
    """Episodes that would wait to be learned from at the end."""


class _Tried(NamedTuple):
    firings: list[Firing]
    course: Course
    since_ms: int
    until_ms: int
    run_time: timedelta
    episodes: int
    waiting: int


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    trigger = typer.Typer(help="Look at what rules would have done.", no_args_is_help=True)

    @trigger.callback()
    def group() -> None:
        """Look at what rules would have done."""

    trigger.command()(replay)
    app.add_typer(trigger, name="trigger", rich_help_panel="Looking")


def replay(
    rule: Annotated[
        str | None, typer.Argument(help="The rule (default: the config's trigger).")
    ] = None,
    since: Annotated[str, typer.Option(help="How far back, for example 30d or 12h.")] = "30d",
    scenario: Annotated[
        str | None, typer.Option(help="Of the same store (default: the config's).")
    ] = None,
    run_time: Annotated[
        str | None,
        typer.Option(help="How long a training takes (default: as the stored ones did)."),
    ] = None,
    learn_model: Annotated[
        str | None,
        typer.Option(help="Whose episodes, where learn.model names several; default: the first."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the plot as SVG, too.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a rule over the stored history: when it would have fired, and on how many episodes."""
    found = config_from(config)
    name = scenario or found.scenario
    try:
        trigger = found.trigger if rule is None else parse(rule)
    except HonedError as error:
        raise typer.BadParameter(str(error), param_hint="RULE") from None
    span = _span(since, "--since")
    if not span:
        problem = f"{since!r} is no time at all: expected how far back, for example 30d or 12h"
        raise typer.BadParameter(problem, param_hint="--since")
    took = None if run_time is None else _span(run_time, "--run-time")
    model = learn_model or found.learn.names[0]
    if model not in found.learn.names:
        names = ", ".join(found.learn.names)
        leave(HonedError(f"nothing learns by {model!r} here", advice=f"expected one of: {names}"))
    tried = with_store(found, partial(_try, name, model, trigger, span, took))
    if plot is not None:
        _write(plot, svg(tried.course, [f.at_ms for f in tried.firings], title=str(trigger)))
    answer = _answer(name, trigger, tried)
    if as_json:
        print_json(answer)
        return
    for line in bars(tried.course, [firing.at_ms for firing in tried.firings]):
        say(line)
    say()
    if tried.firings:
        show(_table(tried.firings))
        say()
    for line in _summary(answer, tried):
        say(line)


def _span(text: str, option: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


async def _try(
    scenario: str,
    learn_model: str,
    trigger: TrainTrigger,
    span: timedelta,
    run_time: timedelta | None,
    store: SqlStore,
) -> _Tried:
    until_ms = now_ms()
    first_ms = await store.past.first_ms(scenario, learn_model)
    if first_ms is None:
        raise NotFoundError(
            f"no episode of scenario {scenario} with learn model {learn_model} is stored",
            advice="`honed episodes` lists those that are",
        )
    since_ms = min(max(until_ms - round(span.total_seconds() * 1000), first_ms), until_ms)
    took = await _mean_run_time(store, scenario) if run_time is None else run_time
    trial = Replay(trigger, started_at_ms=since_ms, run_time=took)
    course, firings = Course(since_ms, until_ms), list[Firing]()

    def take(events: Sequence[PastEvent]) -> None:
        for event in events:
            for firing in trial.take(event):
                firings.append(firing)
                course.add(firing.at_ms, firing.num_new + firing.num_changed)
                course.add(firing.at_ms, 0)
            course.add(event.at_ms, trial.waiting)

    await store.past.events(scenario, learn_model, since_ms=since_ms, take=take)
    firings += trial.end(until_ms)
    course.add(until_ms, trial.waiting)
    return _Tried(firings, course, since_ms, until_ms, took, trial.num_episodes, trial.waiting)


async def _mean_run_time(store: SqlStore, scenario: str) -> timedelta:
    """Of the runs that were done; nothing where none was."""
    done = [
        run.ended_at_ms - run.started_at_ms
        for run in await store.list_runs(scenario, limit=_RUNS)
        if run.state == "done" and run.ended_at_ms is not None
    ]
    return timedelta(milliseconds=max(0, round(statistics.mean(done)))) if done else timedelta()


def _answer(scenario: str, trigger: TrainTrigger, tried: _Tried) -> Replayed:
    return Replayed(
        scenario=scenario,
        rule=str(trigger),
        since=iso_utc(_at(tried.since_ms)),
        until=iso_utc(_at(tried.until_ms)),
        run_time_s=tried.run_time.total_seconds(),
        episodes=tried.episodes,
        firings=[
            Fired(
                at=iso_utc(_at(firing.at_ms)),
                new=firing.num_new,
                changed=firing.num_changed,
                success_rate=firing.success_rate,
                verdict=str(firing.verdict),
            )
            for firing in tried.firings
        ],
        waiting=tried.waiting,
    )


def _table(firings: Sequence[Firing]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "fires (UTC)", "after", "new", "changed", "succeeded", "because of"):
        is_number = name in ("", "new", "changed", "succeeded")
        table.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=name != "because of",
        )
    skipped = max(0, len(firings) - _SHOWN)
    for number, firing in list(enumerate(firings, 1))[skipped:]:
        before = firings[number - 2].at_ms if number > 1 else None
        after = None if before is None else timedelta(milliseconds=firing.at_ms - before)
        add_row(
            table,
            str(number),
            f"{_at(firing.at_ms):%Y-%m-%d %H:%M:%S}",
            "" if after is None else _rough(after),
            str(firing.num_new),
            str(firing.num_changed),
            "" if firing.success_rate is None else f"{firing.success_rate:.0%}",
            "; ".join(_reasons(firing)),
        )
    return table


def _rough(span: timedelta) -> str:
    """To the minute where it is hours."""
    whole = whole_seconds(span)
    return format_duration(whole - whole % timedelta(minutes=1) if whole >= _HOUR else whole)


def _reasons(firing: Firing) -> Iterator[str]:
    """The parts of the rule that said yes, or the rule itself when it has none."""
    verdict = firing.verdict
    for part in verdict.parts or (verdict,):
        if part.fires:
            yield f"{part.trigger.name}: {part.detail}" if part.detail else str(part.trigger)


def _summary(answer: Replayed, tried: _Tried) -> Iterator[str]:
    span = format_duration(whole_seconds(timedelta(milliseconds=tried.until_ms - tried.since_ms)))
    counts = [firing.num_new + firing.num_changed for firing in tried.firings]
    some = "time" if len(counts) == 1 else "times"
    dates = f"{_at(tried.since_ms):%Y-%m-%d %H:%M} to {_at(tried.until_ms):%Y-%m-%d %H:%M} UTC"
    yield f"{answer.rule}"
    yield f"would have fired {len(counts)} {some} in {span} ({dates}), on {answer.episodes} episodes"
    if len(counts) > _SHOWN:
        yield f"the table shows the last {_SHOWN}; --json has all"
    if counts:
        yield f"each on {_spread(counts)}"
    yield f"{answer.waiting} would wait now"
    took = format_duration(whole_seconds(tried.run_time))
    last = f"lasts {took}" if tried.run_time else "takes no time (--run-time sets another)"
    yield f"assumed: each training {last}, and none fails"


def _spread(counts: Sequence[int]) -> str:
    if min(counts) == max(counts):
        return f"{counts[0]} episode{'' if counts[0] == 1 else 's'}"
    return f"{statistics.median(counts):g} episodes (median), {min(counts)} to {max(counts)}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        leave(HonedError(f"{path} cannot be written: {error.strerror}"))


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
