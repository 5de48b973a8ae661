"""`honed why`: what the trigger says now, with its figures, and when it will fire if things go on like this."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import typer
from msgspec import Struct

from honed.cli.asking import (
    AsJson,
    ConfigFile,
    ask_if_running,
    config_from,
    leave,
    print_json,
    with_store,
)
from honed.cli.printing import say
from honed.config import Config
from honed.domain.times import now_ms
from honed.errors import TriggerError, TriggerSyntaxError
from honed.ports import EpisodeFilter
from honed.stores import SqlStore
from honed.triggers import TrainTrigger, TriggerContext, Verdict, parse
from honed.triggers.duration import format_duration, whole_seconds
from honed.triggers.forecast import Forecast, forecast

_PACE_OF: Final = 1_000
"""Newest episodes that tell how fast they come in."""
_MOMENT: Final = timedelta(seconds=1)


class Pace(Struct, frozen=True, kw_only=True):
    """How fast episodes came in lately."""

    per_hour: float
    episodes: int
    """The newest ones, that it was measured on."""
    hours: float
    """How long they took until now."""


class VerdictTree(Struct, frozen=True, kw_only=True):
    """A verdict as JSON."""

    rule: str
    fires: bool
    detail: str
    parts: list["VerdictTree"]


class Why(Struct, frozen=True, kw_only=True):
    """What `honed why --json` prints."""

    scenario: str
    running: bool
    """Whether a daemon judges it."""
    verdict: VerdictTree
    waits_for: list[str]
    """What beside the rule keeps a training from starting."""
    pace: Pace | None
    """None with too few episodes to tell."""
    prospect: str
    """`now`, `later`, `open` (outcomes decide it) or `not` (within a year at this pace)."""
    fires_at: str | None
    in_s: float | None
    as_they_stand: list[str]
    """Conditions that were taken as they stand, for the forecast."""


class _Found(NamedTuple):
    facts: TriggerContext
    pace: Pace | None


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel="Looking")(why)


def why(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show why it trains or does not, with the figures, and when it will at the present rate."""
    found = config_from(config)
    status: dict[str, Any] | None = ask_if_running(found, "/v1/status")
    trigger = _rule(found, status)
    facts, pace = with_store(found, partial(_look, found, trigger))
    backoff_ms = (status or {}).get("backoff_until_ms")
    not_before = datetime.fromtimestamp(backoff_ms / 1000, UTC) if backoff_ms else None
    when = forecast(trigger, facts, per_hour=pace.per_hour if pace else 0.0, not_before=not_before)
    answer = Why(
        scenario=found.scenario,
        running=status is not None,
        verdict=_tree(trigger.judge(facts)),
        waits_for=list(_waits_for(facts, status)),
        pace=pace,
        prospect=when.prospect,
        fires_at=when.at.isoformat(timespec="seconds") if when.at else None,
        in_s=(when.at - facts.now).total_seconds() if when.at else None,
        as_they_stand=[str(condition) for condition in when.as_they_stand],
    )
    if as_json:
        print_json(answer)
        return
    for line in trigger.judge(facts).lines():
        say(line)
    say()
    for line in _sentences(answer, when, facts.now):
        say(line)


def _rule(config: Config, status: dict[str, Any] | None) -> TrainTrigger:
    """What the daemon judges by, which may be older than the file; else what the file says."""
    text = status["trigger"]["text"] if status else str(config.trigger)
    try:
        return config.trigger if text == str(config.trigger) else parse(text)
    except TriggerSyntaxError as error:  # a table too long to be read as text
        advice = "the file has another rule than the daemon: `honed reload`"
        leave(TriggerSyntaxError(str(error), advice=advice))


async def _look(config: Config, trigger: TrainTrigger, store: SqlStore) -> _Found:
    learn_model, now = config.learn.models()[0].name, now_ms()
    try:
        facts = await store.trigger_context(
            config.scenario, learn_model, now_ms=now, needs=trigger.needs
        )
    except TriggerError as error:
        raise TriggerError(str(error), advice="`honed up` or `honed run` starts it") from error
    newest = EpisodeFilter(
        scenario=config.scenario, learn_model=learn_model, newest_first=True, limit=_PACE_OF
    )
    made = [episode.created_at_ms for episode in await store.list_episodes(newest)]
    if len(made) < 2 or min(made) >= now:
        return _Found(facts, None)
    hours = (now - min(made)) / 3_600_000
    return _Found(facts, Pace(per_hour=len(made) / hours, episodes=len(made), hours=hours))


def _tree(verdict: Verdict) -> VerdictTree:
    return VerdictTree(
        rule=str(verdict.trigger),
        fires=verdict.fires,
        detail=verdict.detail,
        parts=[_tree(part) for part in verdict.parts],
    )


def _waits_for(facts: TriggerContext, status: dict[str, Any] | None) -> Iterator[str]:
    if status is None:
        yield "the daemon does not run: `honed up` or `honed run` starts it"
    else:
        if status["training"]:
            yield f"run {status['training']['run_id']} is in progress"
        for review in status.get("reviews") or ():
            if not review["approved_by"]:
                yield f"run {review['run_id']} waits for a review: `honed review`"
        if status["base_model"] is None:
            yield "no base_model is configured: nothing can train"
        if status["base_problem"]:
            yield f"the base model is not the one that is served: {status['base_problem']}"
        if (until := status["backoff_until_ms"]) and until > now_ms():
            yield f"the last run failed: the next try is at {_time(datetime.fromtimestamp(until / 1000, UTC))}"
    if not facts.count:
        yield "nothing is new since the last training: the next episode, or another outcome"


def _sentences(answer: Why, when: Forecast, now: datetime) -> Iterator[str]:
    for what in answer.waits_for:
        yield f"waits for  {what}"
    pace = answer.pace
    if pace is None:
        yield "pace       unknown: fewer than two episodes"
    else:
        span = format_duration(whole_seconds(timedelta(hours=pace.hours)))
        yield f"pace       {pace.per_hour:.3g} episodes an hour (the last {pace.episodes}, in {span})"
    yield f"fires      {_prospect(when, now, knows_pace=pace is not None)}"
    for condition in answer.as_they_stand:
        yield f"           {condition} is taken as it stands: outcomes change it, no rate tells when"


def _prospect(when: Forecast, now: datetime, *, knows_pace: bool) -> str:
    match when.prospect:
        case "now":
            return "now"
        case "later":
            assert when.at is not None
            left = whole_seconds(when.at - now + _MOMENT)
            return f"in {format_duration(left)}, at {_time(when.at)}, if it goes on like this"
        case "open":
            return "unknown: it depends on how episodes end"
    if not knows_pace:
        return "unknown: nobody can say yet how fast episodes come in"
    return "not at the present rate, within a year"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
