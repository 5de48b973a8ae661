"""What two versions have done, out of the store, as the ruling on a canary takes it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from honed.domain.canary import Canary
from honed.ports import Counted, Done, Opinion, Store, Tasks
from honed.statistics.canary import Arm, Ruling, Sample, is_due, next_look, rule
from honed.statistics.sequential import Share, evidence

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
        found = rule(
            _arm(seen.known[0], live_errors, live),
            _arm(seen.known[1], candidate_errors, candidate),
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


def _errors(canary: Canary) -> tuple[Share, Share]:
    live, candidate = canary.live_requests, canary.candidate_requests
    return (
        Share(live.failed, live.num) if live else Share(0, 0),
        Share(candidate.failed, candidate.num),
    )


def _arm(success: Share, errors: Share, done: Sequence[Done]) -> Arm:
    return Arm(
        success=success,
        errors=errors,
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
