"""`honed why`: what the trigger says now, with its figures, and when it will fire if things go on like this."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

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
from honed.cli.figures import naming, plain
from honed.cli.printing import say
from honed.config import Config
from honed.domain.processing import OFFLINE_IS_MISSING, ProcessorMode
from honed.domain.times import now_ms
from honed.errors import HonedError, TriggerError, TriggerSyntaxError
from honed.ports import EpisodeFilter, Review
from honed.stores import SqlStore
from honed.triggers import Manual, Never, TrainTrigger, TriggerContext, Verdict, parse
from honed.triggers.duration import format_duration, whole_seconds
from honed.triggers.forecast import Forecast, forecast, leaves

_PACE_OF: Final = 1_000
"""Newest episodes that tell how fast they come in."""
_RUNS: Final = 20
"""Newest runs among which the one in progress is."""
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


class Line(Struct, frozen=True, kw_only=True):
    """What one learn model waits for."""

    learn_model: str
    verdict: VerdictTree
    waits_for: list[str]
    """What beside the rule keeps a training from starting."""
    pace: Pace | None
    """None with too few episodes to tell."""
    prospect: str
    """`now`, `later`, `open` (outcomes decide it), `not` (within a year at this pace), `unforeseen` (the rule has too
    many parts to look a year ahead), or `held`: a run waits for a review or is in progress, and the rule is not asked
    before it has ended."""
    fires_at: str | None
    in_s: float | None
    as_they_stand: list[str]
    """Conditions that were taken as they stand, for the forecast."""


class Why(Line, frozen=True, kw_only=True):
    """What `honed why --json` prints: the learn model that was asked about, else the first."""

    scenario: str
    running: bool
    """Whether a daemon judges it."""
    others: list[Line]
    """The other learn models, where there are several and none was asked about."""


class _Found(NamedTuple):
    facts: TriggerContext
    pace: Pace | None
    review: Review | None
    """The run that waits, where no daemon could tell."""
    run_id: str | None
    """The run of this learn model that is in progress."""


class _Told(NamedTuple):
    line: Line
    verdict: Verdict
    when: Forecast
    now: datetime
    held: str | None
    is_idle: bool
    """Whether nothing is trained whatever the rule says."""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel="Looking")(why)


def why(
    config: ConfigFile = None,
    as_json: AsJson = False,
    learn_model: Annotated[
        str | None,
        typer.Option(help="Only this one, where learn.model names several; default: all of them."),
    ] = None,
) -> None:
    """Show why it trains or does not, with the figures, and when it will at the present rate."""
    found = config_from(config)
    names = _names(found, learn_model)
    status: dict[str, Any] | None = ask_if_running(found, "/v1/status")
    trigger = _rule(found, status)
    told = [_tell(found, name, trigger, status) for name in names]
    if as_json:
        print_json(_why(found, status, [each.line for each in told]))
        return
    for number, each in enumerate(told):
        if len(told) > 1:
            say(f"{'' if number == 0 else chr(10)}learn model {each.line.learn_model}")
        for line in (*each.verdict.lines(), "", *_sentences(each)):
            say(line)


def _names(config: Config, wanted: str | None) -> list[str]:
    names = [model.name for model in config.learn.models()]
    if wanted is None:
        return names
    if wanted not in names:
        advice = f"expected one of: {', '.join(names)} (`learn.model` in the config)"
        leave(HonedError(f"nothing learns by {wanted!r} here", advice=advice))
    return [wanted]


def _why(config: Config, status: dict[str, Any] | None, lines: list[Line]) -> Why:
    first, *others = lines
    fields = {name: getattr(first, name) for name in Line.__struct_fields__}
    return Why(scenario=config.scenario, running=status is not None, others=others, **fields)


def _tell(config: Config, name: str, trigger: TrainTrigger, status: dict[str, Any] | None) -> _Told:
    """Judge, and say when it fires, for one learn model."""
    facts, pace, review, run_id = with_store(config, partial(_look, config, name, trigger, status))
    held = _held(name, review, run_id, status, several=len(config.learn.names) > 1)
    backoff_ms = (status or {}).get("backoff_until_ms")
    not_before = datetime.fromtimestamp(backoff_ms / 1000, UTC) if backoff_ms else None
    when = forecast(trigger, facts, per_hour=pace.per_hour if pace else 0.0, not_before=not_before)
    at = None if held else when.at
    verdict = trigger.judge(facts)
    line = Line(
        learn_model=name,
        verdict=_tree(verdict),
        waits_for=list(_waits_for(config, facts, held, status)),
        pace=pace,
        prospect="held" if held else when.prospect,
        fires_at=at.isoformat(timespec="seconds") if at else None,
        in_s=(at - facts.now).total_seconds() if at else None,
        as_they_stand=[] if held else [str(condition) for condition in when.as_they_stand],
    )
    is_idle = config.base_model is None or config.mode is ProcessorMode.OFFLINE
    return _Told(line, verdict, when, facts.now, held, is_idle)


def _rule(config: Config, status: dict[str, Any] | None) -> TrainTrigger:
    """What the daemon judges by, which may be older than the file; else what the file says."""
    text = status["trigger"]["text"] if status else str(config.trigger)
    try:
        return config.trigger if text == str(config.trigger) else parse(text)
    except TriggerSyntaxError as error:  # a table too long to be read as text
        advice = "the file has another rule than the daemon: `honed reload`"
        leave(TriggerSyntaxError(str(error), advice=advice))


async def _look(
    config: Config,
    learn_model: str,
    trigger: TrainTrigger,
    status: dict[str, Any] | None,
    store: SqlStore,
) -> _Found:
    now = now_ms()
    try:
        facts = await store.trigger_context(
            config.scenario, learn_model, now_ms=now, needs=trigger.needs
        )
    except TriggerError as error:
        raise TriggerError(str(error), advice="`honed up` or `honed run` starts it") from error
    # without `learn.review` a daemon forgets what waits when it starts
    is_asked = status is None and config.learn.review
    review = await store.reviews.waiting(config.scenario, learn_model) if is_asked else None
    training = ((status or {}).get("training") or {}).get("run_id")
    runs = await store.list_runs(config.scenario, limit=_RUNS) if training else ()
    mine = next((r.id for r in runs if r.id == training and r.learn_model == learn_model), None)
    newest = EpisodeFilter(
        scenario=config.scenario, learn_model=learn_model, newest_first=True, limit=_PACE_OF
    )
    made = [episode.created_at_ms for episode in await store.list_episodes(newest)]
    if len(made) < 2 or min(made) >= now:
        return _Found(facts, None, review, mine)
    hours = (now - min(made)) / 3_600_000
    pace = Pace(per_hour=len(made) / hours, episodes=len(made), hours=hours)
    return _Found(facts, pace, review, mine)


def _tree(verdict: Verdict) -> VerdictTree:
    return VerdictTree(
        rule=str(verdict.trigger),
        fires=verdict.fires,
        detail=verdict.detail,
        parts=[_tree(part) for part in verdict.parts],
    )


def _held(
    learn_model: str,
    review: Review | None,
    run_id: str | None,
    status: dict[str, Any] | None,
    *,
    several: bool,
) -> str | None:
    """The run of this learn model that must end before its rule is asked again, and what it waits for."""
    if run_id:
        return f"run {run_id} is in progress"
    waiting = [(review.learn_model, review.id, review.approved_by)] if review else []
    reviews = (status or {}).get("reviews") or ()
    waiting += [(each["learn_model"], each["run_id"], each["approved_by"]) for each in reviews]
    for name, waits, approved_by in waiting:
        if name == learn_model and not approved_by:
            which = naming(name) if several else ""
            return f"run {waits} waits for a review: `honed review{which}`"
        if name == learn_model:
            return f"run {waits} was approved by {approved_by} and has not ended"
    return None


def _waits_for(
    config: Config, facts: TriggerContext, held: str | None, status: dict[str, Any] | None
) -> Iterator[str]:
    if held:
        yield held
    if status is None:
        yield "the daemon does not run: `honed up` or `honed run` starts it"
    elif (
        status["training"]
        and (told := f"run {status['training']['run_id']} is in progress") != held
    ):
        yield told
    base_model = status["base_model"] if status else config.base_model
    mode = status["processor_mode"] if status else str(config.mode)
    if config.processor_mode is not None and mode == str(ProcessorMode.OFFLINE):
        yield f"processor_mode is offline: nothing is trained, and {OFFLINE_IS_MISSING}"
    elif base_model is None:
        yield "no base_model is configured: nothing can train"
    if status is not None:
        if status["base_problem"]:
            yield f"the base model is not the one that is served: {status['base_problem']}"
        if (until := status["backoff_until_ms"]) and until > now_ms():
            at = _time(datetime.fromtimestamp(until / 1000, UTC))
            yield f"the last run failed: the next try is at {at}"
    if not facts.count and not held:
        yield "nothing is new since the last training: the next episode, or another outcome"


def _sentences(told: _Told) -> Iterator[str]:
    for what in told.line.waits_for:
        yield f"waits for  {what}"
    pace = told.line.pace
    if pace is None:
        yield "pace       unknown: fewer than two episodes"
    else:
        span = format_duration(whole_seconds(timedelta(hours=pace.hours)))
        rate = f"{plain(pace.per_hour)} episodes an hour"
        yield f"pace       {rate} (the last {pace.episodes}, in {span})"
    if told.held:
        yield "fires      not before that run has ended; what comes in meanwhile is the next one's"
        return
    constant = all(isinstance(leaf, (Manual, Never)) for leaf in leaves(told.verdict.trigger))
    if constant and not told.verdict.fires:
        yield "fires      never by itself: `honed train-now` trains"
        return
    idle = "; nothing is trained then, see above" if told.is_idle else ""
    yield f"fires      {_prospect(told.when, told.now, knows_pace=pace is not None)}{idle}"
    for condition in told.line.as_they_stand:
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
        case "unforeseen":
            assert when.until is not None
            return f"not before {_time(when.until)}; the rule has too many parts to look further"
    if not knows_pace:
        return "unknown: nobody can say yet how fast episodes come in"
    return "not at the present rate, within a year"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
