"""All that are asked for verdicts, how far they agree with the others, and the alarms: run beside the daemon."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

import anyio
import msgspec

from honed import log
from honed.errors import StoreError
from honed.ports import Counted, Opinion, Store
from honed.rewards.agreement import agreements
from honed.rewards.alarms import WINDOW, Alarm, alarms
from honed.rewards.asking import Asking

_LOOK_S: Final = 60.0
"""Between two looks for alarms."""
_VERDICTS: Final = 2_000
"""Newest verdicts of the store among which opinions are looked for: 15 ms of a look."""
_RULED: Final = 500
"""Newest episodes whose outcomes are compared with the present rule, at the start."""
_FRESH_S: Final = 2.0
"""How old what `status` shows may be: it may be asked many times a second."""


class Closes(Protocol):
    """Something that has a process to end."""

    async def aclose(self) -> None:
        """End it."""


class Jury:
    """Runs the questions of one scenario and watches what comes of them.

    Args:
        store: of the scenario.
        asking: each verifier's questions.
        scenario: of the episodes.
        learn_models: of the episodes.
        watches: whether alarms are looked for.
        figures: more of what `status` shows, by source.
        closes: processes that end with it.
        announce: told of a new alarm.
        look_s: seconds between two looks.
    """

    def __init__(
        self,
        store: Store,
        asking: Sequence[Asking] = (),
        *,
        scenario: str,
        learn_models: Sequence[str],
        watches: bool = True,
        figures: Mapping[str, Callable[[], dict[str, Any]]] | None = None,
        closes: Sequence[Closes] = (),
        announce: Callable[[str, dict[str, Any]], None] = lambda name, told: None,
        look_s: float = _LOOK_S,
    ) -> None:
        self._store = store
        self._asking = tuple(asking)
        self._scenario = scenario
        self._learn_models = tuple(learn_models)
        self._watches = watches
        self._figures = figures or {}
        self._closes = tuple(closes)
        self._announce = announce
        self._look_s = look_s
        self._log = log.get(scenario=scenario)
        self._told: set[tuple[str, str, str]] = set()
        self.alarms: list[str] = []
        """What is suspicious since the adapter in service was put there."""
        self.outdated: dict[str, dict[str, int]] = {}
        """By learn model: how many of the newest outcomes a former rule of `[rewards]` has made, and of how many."""
        self._opinions: Sequence[Opinion] = ()
        self._looked_s = -math.inf

    def notify(self) -> None:
        """Hear that there is a new episode; never blocks."""
        for asking in self._asking:
            asking.notify()

    async def run(self) -> None:
        """Ask and watch until cancelled; no child is left behind."""
        async with AsyncExitStack() as rooms:
            for each in self._closes:
                rooms.push_async_callback(each.aclose)
            async with anyio.create_task_group() as tasks:
                for asking in self._asking:
                    tasks.start_soon(asking.run)
                tasks.start_soon(self._watch)

    async def look(self) -> None:
        """Look for alarms now, and at what judges and others have said; cost does not follow the store."""
        self._looked_s = anyio.current_time()
        opinions: list[Opinion] = []
        suspected: list[str] = []
        history = await self._store.history(self._scenario) if self._watches else []
        for learn_model in self._learn_models:
            mine = (self._scenario, learn_model)
            said = await self._store.rewards.opinions(*mine, limit=_VERDICTS)
            opinions += said
            if not history:
                continue
            for alarm in await self._compared(mine, said, history[-1].applied_at_ms):
                suspected.append(str(alarm))
                self._raise(learn_model, history[-1].model_id, alarm)
        self._opinions, self.alarms = opinions, suspected

    async def _compared(
        self, mine: tuple[str, str], said: Sequence[Opinion], applied_ms: int
    ) -> list[Alarm]:
        """Alarms of one learn model's episodes, before an adapter was applied and since."""
        newest = await self._seen(mine, 10**13 - 1)
        return alarms(
            await self._seen(mine, applied_ms),
            [seen for seen in newest if seen.created_at_ms >= applied_ms],
            [each for each in said if each.created_at_ms < applied_ms],
            [each for each in said if each.created_at_ms >= applied_ms],
        )

    async def status(self) -> dict[str, Any]:
        """What `honed status` shows: questions, agreement with the others, alarms."""
        if anyio.current_time() - self._looked_s > _FRESH_S:
            await self.look()
        return {
            "asked": {self._name(asking): self._of(asking) for asking in self._asking},
            "agreement": {
                source: msgspec.to_builtins(found)
                | {"num": found.num, "share": found.share, "kappa": found.kappa}
                for source, found in agreements(self._opinions).items()
            },
            "alarms": self.alarms,
            "outdated": self.outdated,
        }

    def _name(self, asking: Asking) -> str:
        several = len(self._learn_models) > 1
        return f"{asking.source} ({asking.learn_model})" if several else asking.source

    def _of(self, asking: Asking) -> dict[str, Any]:
        more = self._figures.get(asking.source, dict)()
        counts: dict[str, Any] = msgspec.to_builtins(asking.counts)
        return counts | {"problem": asking.problem, "last_failure": asking.last_failure} | more

    async def compare_rule(self) -> None:
        """Say how many of the newest outcomes the present composition would make otherwise; it makes none anew."""
        for learn_model in self._learn_models:
            mine = (self._scenario, learn_model)
            num, of = await self._store.rewards.outdated(*mine, limit=_RULED)
            self.outdated[learn_model] = {"num": num, "of": of}
            if num:
                self._log.warning(
                    log.COMPOSITION_CHANGED, learn_model=learn_model, num_outdated=num, of=of
                )

    async def _watch(self) -> None:
        try:
            await self.compare_rule()
        except StoreError as error:
            self._log.warning(log.BATCH_FAILED, error=str(error))
        while True:
            try:
                await self.look()
            except StoreError as error:  # the store's own supervisor decides what becomes of it
                self._log.warning(log.BATCH_FAILED, error=str(error))
            await anyio.sleep(self._look_s)

    async def _seen(self, mine: tuple[str, str], before_ms: int) -> Sequence[Counted]:
        return await self._store.rewards.counted(*mine, before_ms=before_ms, limit=WINDOW)

    def _raise(self, learn_model: str, model_id: str, alarm: Alarm) -> None:
        """Say it once for each adapter and sign."""
        if (learn_model, model_id, alarm.sign) in self._told:
            return
        self._told.add((learn_model, model_id, alarm.sign))
        told: dict[str, Any] = {
            "model_id": model_id,
            "learn_model": learn_model,
            "sign": alarm.sign,
            "before": alarm.before,
            "after": alarm.after,
            "success_before": alarm.success_before,
            "success_after": alarm.success_after,
        }
        self._log.warning(log.REWARD_SUSPECTED, **told)
        self._announce(log.REWARD_SUSPECTED, told)
