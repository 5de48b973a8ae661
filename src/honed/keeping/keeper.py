"""Keeps one data folder: forgets on request, clears away what is old once a day."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Final

import anyio
from msgspec.structs import replace

from honed import log
from honed.config import Config
from honed.domain.times import now_ms
from honed.errors import ConfigError, ControlError, StoreError
from honed.keeping.cleanup import Cleaned, Cleanup, KeepFor
from honed.keeping.forgetting import Forgetting, Forgotten, as_it_is
from honed.keeping.waiting import Door, WaitingCalls
from honed.ports import Keeping, Store, Whose

_FIRST_S: Final = 600.0
"""A daemon that has just started has events to catch up with."""
_EVERY_S: Final = 86_400.0
_LOOK_S: Final = 600.0
"""How often it is looked whether the data take too much room."""
_TOLD_S: Final = 10.0
"""How often at most the log says how far a cleaning is."""


class Keeper:
    """Forgetting and cleaning up for one scenario.

    Args:
        config: its places and its section `keep`.
        store: where episodes, runs and models are.
        keeping: what takes rows out of it.
        at_rest: holds trainings off while something is forgotten.
        sink: what events come through; before something is looked for, calls that the gateway has captured and kept do.
        door: lets in what the gateway sends; by default it is open.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        keeping: Keeping,
        *,
        at_rest: Callable[[], AbstractContextManager[None]] = nullcontext,
        sink: Door | None = None,
        door: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    ) -> None:
        forms = sink.forms if sink is not None else as_it_is
        self._waiting = WaitingCalls(config, sink.ingest, door=door) if sink is not None else None
        self._log = log.get(scenario=config.scenario)
        self._at_rest = at_rest
        self._forgetting = Forgetting(keeping, runs_dir=config.runs_dir, forms=forms)
        keep = config.keep
        if keep.max_size and not config.database.startswith("sqlite"):
            raise ConfigError(
                "keep.max_size cannot be kept: only a SQLite database tells how much room its data take",
                advice="leave it 0, and limit the data by age",
            )
        self._told_s = 0.0
        self._keep: Mapping[str, Any] = keep.model_dump(mode="json")
        self._cleanup = Cleanup(
            store,
            keeping,
            scenario=config.scenario,
            keep_for=KeepFor(
                loose_ms=_ms(keep.loose),
                unlabelled_ms=_ms(keep.unlabelled),
                seen_ms=_ms(keep.trained),
                unseen_ms=_ms(keep.untrained),
                runs_ms=_ms(keep.runs),
                rejected_ms=_ms(keep.rejected),
                max_bytes=keep.max_size or 0,
                max_bytes_untrained=keep.max_size_untrained,
            ),
            runs_dir=config.runs_dir,
            adapters_dir=config.adapters_dir,
            on_step=self._on_step,
        )

    async def run(self) -> None:
        """Clear away what is old, once a day, and when the data take too much room; until cancelled."""
        await anyio.sleep(_FIRST_S)
        due_s = time.monotonic()
        while True:
            try:
                if time.monotonic() >= due_s or await self._cleanup.is_over():
                    due_s = time.monotonic() + _EVERY_S
                    await self.cleanup(dry=False)
            except StoreError as error:
                self._log.error(log.CLEANUP_FAILED, error=str(error), advice=error.advice)
            await anyio.sleep(_LOOK_S)

    async def forget(self, whose: Whose, *, dry: bool) -> Forgotten:
        """Take all of somebody's data out, or only look at it; what waits in the gateway is taken in first."""
        unsearched = await self._waiting.take_in() if self._waiting is not None else None
        if dry:
            return replace(await self._forgetting.look(whose), unsearched=unsearched)
        with self._at_rest():
            forgotten = replace(await self._forgetting.forget(whose), unsearched=unsearched)
        self._log.info(
            log.DATA_FORGOTTEN,
            kind=whose.kind,
            records=forgotten.records,
            episodes=forgotten.episodes,
            adapters=sorted(forgotten.adapters),
        )
        return forgotten

    async def cleanup(self, *, dry: bool, expected: Mapping[str, Any] | None = None) -> Cleaned:
        """Clear away what is old, or only look at it.

        Args:
            dry: only look.
            expected: the section `keep`, as JSON, of whoever asks; None takes it as it is here.

        Raises:
            ControlError: what is expected differs, and would be cleaned by other limits than were asked for.
        """
        self._check(self._keep if expected is None else expected)
        cleaned = await self._cleanup.clean(now_ms=now_ms(), dry=dry)
        if not dry:
            self._log.info(
                log.DATA_CLEANED,
                records=cleaned.records,
                episodes=cleaned.episodes,
                runs=len(cleaned.runs),
                adapters=list(cleaned.adapters),
                given_back_bytes=cleaned.given_back_bytes,
            )
            if cleaned.over_bytes:
                self._log.warning(log.STORE_TOO_LARGE, over_bytes=cleaned.over_bytes)
        return cleaned

    def _check(self, expected: Mapping[str, Any]) -> None:
        keys = dict.fromkeys([*self._keep, *expected])
        if other := [key for key in keys if self._keep.get(key) != expected.get(key)]:
            raise ControlError(
                f"the daemon was started with another {', '.join(f'keep.{key}' for key in other)} than the config says"
                " now: nothing was looked at or cleaned",
                advice="restart the daemon, which then keeps to it; or stop it, and clean up without it",
            )

    def _on_step(self, used_bytes: int, episodes: int) -> None:
        """Log how far a cleaning is."""
        if time.monotonic() - self._told_s >= _TOLD_S:
            self._told_s = time.monotonic()
            self._log.info(log.CLEANUP_PROGRESSED, used_bytes=used_bytes, episodes=episodes)


def _ms(age: timedelta) -> int:
    return round(age.total_seconds() * 1000)
