"""What two versions have done, out of the store, as the ruling on a canary takes it."""

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from honed.domain.canary import Canary, Requests
from honed.domain.serving import LaneStatus
from honed.ports import Counted, Done, Opinion, Store, Tasks
from honed.statistics.canary import Arm, Ruling, Sample, deciding, is_due, next_look, rule
from honed.statistics.sequential import Share, evidence
from honed.triggers.duration import format_duration, whole_seconds

_VERDICTS: Final = 2_000
"""Newest verdicts of the store among which opinions are looked for."""

Suspect = Callable[
    [Sequence[Counted], Sequence[Counted], Sequence[Opinion], Sequence[Opinion]], Sequence[object]
]
"""Alarms about the attempts of two versions, and what judges and others have said of them (`rewards.alarms`)."""


class _Seen(NamedTuple):
    """Numbers of both versions."""

    live: Tasks
    candidate: Tasks

    @property
    def known(self) -> tuple[Share, Share]:
        """Tasks done, of those with an outcome."""
        live, candidate = self
        return Share(live.successes, live.known), Share(candidate.successes, candidate.known)


class Evidence:
    """Reads what is compared; the numbers each time, how the work was done only when there is something to rule on."""

    def __init__(self, store: Store, suspect: Suspect) -> None:
        self._store = store
        self._suspect = suspect
        self._too_few = (0, 0)
        """Which canary, and how many copies it must have before they are read again: some are lost on their way, and
        reading is dear."""

    async def ruling(self, canary: Canary) -> Ruling | None:
        """What is to become of it; None when nothing is due."""
        seen = await self._seen(canary)
        live_errors, candidate_errors = _errors(canary)
        most = canary.max_tasks  # newest attempts of each that are read
        tasks = evidence(
            Share(0, min(most, seen.live.num)), Share(0, min(most, seen.candidate.num))
        )
        due = is_due(
            canary.looks,
            known=evidence(*seen.known),
            tasks=self._copies(canary) if canary.is_shadow else tasks,
            requests=evidence(live_errors, candidate_errors),
            max_tasks=canary.max_tasks,
            is_shadow=canary.is_shadow,
        )
        if not due:
            return None
        live, candidate = await self._done(canary)
        is_graded = any(0 < (each.score or 0) < 1 for each in (*live, *candidate))
        found = rule(
            _arm(seen.live, live_errors, live, is_graded=is_graded),
            _arm(seen.candidate, candidate_errors, candidate, is_graded=is_graded),
            canary.looks,
            max_tasks=canary.max_tasks,
            is_shadow=canary.is_shadow,
        )
        if canary.is_shadow and found.looks == canary.looks:
            self._too_few = (canary.started_at_ms, 5 * candidate_errors.num // 4)
        if found.decision != "promote":
            return found
        alarms = await self._alarms(canary, live, candidate)
        if not alarms:
            return found
        return found._replace(decision="hold", reason="; but ".join((found.reason, *alarms)))

    async def lacking(self, canary: Canary) -> str:
        """What was waited for in vain."""
        span = format_duration(whole_seconds(timedelta(seconds=canary.waited_s)))
        at = next_look(canary.looks, max_tasks=canary.max_tasks, is_shadow=canary.is_shadow)
        if canary.is_shadow:
            num = canary.candidate_requests.num
            few = f"only {num} copies were answered" if num else "no copies were answered"
            return f"{few} in {span}" + (f", where {at} are looked at" if num and at else "")
        seen = await self._seen(canary)
        if not (seen.live.known or seen.candidate.known):
            tasks = f"of {seen.candidate.num} tasks of {canary.model_id}"
            return f"no verdicts came in {span}: not {tasks}, nor of {seen.live.num} others"
        candidate, live = (f"{each.known} of {each.num}" for each in (seen.candidate, seen.live))
        told = f"{candidate} tasks of {canary.model_id}, {live} others"
        return f"too few verdicts came in {span}: {told}" + (
            f"; it is looked at next at {at} of each" if at else ""
        )

    def _copies(self, canary: Canary) -> int:
        """Copies that are worth reading."""
        num = canary.candidate_requests.num
        begun, at = self._too_few
        return 0 if begun == canary.started_at_ms and num < at else min(canary.max_tasks, num)

    async def told(self, canary: Canary) -> dict[str, Any]:
        """The canary and its numbers, as JSON has them."""
        seen = await self._seen(canary)
        at = next_look(canary.looks, max_tasks=canary.max_tasks, is_shadow=canary.is_shadow)
        shown: dict[str, Any] = msgspec.to_builtins(canary)
        names = ("model_id", "incumbent_id", "share", "started_at_ms", "max_tasks")
        return {name: shown.get(name, getattr(canary, name)) for name in names} | {
            "state": canary.state,
            "reason": canary.reason,
            "waited_s": canary.waited_s,
            "is_shadow": canary.is_shadow,
            "looks": msgspec.to_builtins(canary.looks),
            "tasks_per_arm": evidence(*seen.known),
            "next_look": at,
            "live": _numbers(seen.live, canary.live_requests),
            "candidate": _numbers(seen.candidate, canary.candidate_requests),
        }

    async def _seen(self, canary: Canary) -> _Seen:
        by_version = await self._store.canaries.tasks(canary)
        versions = canary.incumbent_id, canary.model_id
        return _Seen(*(by_version.get(version, Tasks()) for version in versions))

    async def _done(self, canary: Canary) -> tuple[Sequence[Done], Sequence[Done]]:
        canaries = self._store.canaries
        if canary.is_shadow:
            copies, originals = await canaries.copies(canary, limit=canary.max_tasks)
            return originals, copies
        live = await canaries.done(canary, canary.incumbent_id, limit=canary.max_tasks)
        return live, await canaries.done(canary, canary.model_id, limit=canary.max_tasks)

    async def _alarms(
        self, canary: Canary, live: Sequence[Done], candidate: Sequence[Done]
    ) -> list[str]:
        said = await self._store.rewards.opinions(
            canary.scenario, canary.learn_model, limit=_VERDICTS
        )
        now = [each for each in said if each.created_at_ms >= canary.started_at_ms]
        alarms = self._suspect(
            [_as_counted(each) for each in live],
            [_as_counted(each) for each in candidate],
            [each for each in now if each.adapter_id == canary.incumbent_id],
            [each for each in now if each.adapter_id == canary.model_id],
        )
        return [str(alarm) for alarm in alarms]


def counted(canary: Canary, lane: LaneStatus) -> Canary:
    """With the requests that the gateway has counted since."""
    candidate = lane.candidate
    if candidate is None:
        return canary
    # in shadow the lane's counts are without the copies
    part = (0, 0) if canary.is_shadow else (candidate.requests, candidate.failed)
    live = lane.requests - part[0], lane.failed - part[1]
    before = canary.live_requests
    if before is None:
        before = Requests(seen_num=live[0], seen_failed=live[1])
    tried, tried_before = (candidate.requests, candidate.failed), canary.candidate_requests
    is_new_gateway = before.is_behind(*live)
    is_new = is_new_gateway or tried_before.is_behind(*tried)
    return replace(
        canary,
        live_requests=before.told(*live, is_new=is_new_gateway),
        candidate_requests=tried_before.told(*tried, is_new=is_new),
    )


def waited(canary: Canary, ruling: Ruling | None, elapsed_s: float) -> Canary:
    """With the time that it waits for what decides: so much longer, or anew where there was enough to look at."""
    family = deciding(is_shadow=canary.is_shadow)
    before = canary.looks.get(family, ())
    is_looked_at = ruling is not None and len(ruling.looks.get(family, ())) > len(before)
    return replace(canary, waited_s=0.0 if is_looked_at else canary.waited_s + elapsed_s)


def _errors(canary: Canary) -> tuple[Share, Share]:
    live, candidate = canary.live_requests, canary.candidate_requests
    return (
        Share(live.failed, live.num) if live else Share(0, 0),
        Share(candidate.failed, candidate.num),
    )


def _arm(seen: Tasks, errors: Share, done: Sequence[Done], *, is_graded: bool) -> Arm:
    scores = [each.score for each in done if each.score is not None]
    return Arm(
        success=Share(seen.successes, seen.known),
        told=Share(seen.known, seen.num),
        errors=errors,
        scores=Sample.of(scores if is_graded else ()),
        latency=Sample.of([math.log(each.latency_ms / 1000) for each in done if each.latency_ms]),
        length=Sample.of(
            [math.log1p(each.answer_chars) for each in done if each.answer_chars is not None]
        ),
        tools=Sample.of([each.num_tool_calls for each in done if each.num_tool_calls is not None]),
    )


def _as_counted(done: Done) -> Counted:
    return Counted(done.created_at_ms, done.is_success, done.num_tool_calls, done.answer_chars)


def _numbers(tasks: Tasks, requests: Any) -> dict[str, Any]:
    return {
        "tasks": tasks.num,
        "known": tasks.known,
        "successes": tasks.successes,
        "requests": requests.num if requests else 0,
        "failed": requests.failed if requests else 0,
    }
