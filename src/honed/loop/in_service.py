"""Which adapter is in service, and how it changes: forward with a verdict, back by hand.

The history in the store is the truth; the gateway is asked to follow it. A model is written into the history only
after the server serves it, and only if the adapter it was measured against is still the one in service.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio

from honed import log
from honed.domain.run import Applied
from honed.domain.times import now_ms
from honed.domain.trained_model import TrainedModel
from honed.errors import (
    ApplyError,
    BaseMismatchError,
    ForeignAdapterError,
    NoPreviousModelError,
    NotFoundError,
    StoreError,
)
from honed.ports import Applier, Store

Announce = Callable[[str, dict[str, Any]], None]
"""Publishes an event on the daemon's stream; never blocks."""

_FIRST_LOOK_S = 1.0
_LOOK_S = 15.0
"""How often the gateway is asked what it serves; sooner after a change, and after an order that has failed."""
_IS_CONTROL = "it is a control, trained without looking at outcomes"


class AppliedNow(NamedTuple):
    """A model went into service."""

    model_id: str
    previous_model_id: str | None


class Skipped(NamedTuple):
    """A model did not go into service, and why."""

    model_id: str
    reason: str


class InService:
    """The adapter line of one scenario."""

    def __init__(
        self,
        store: Store,
        applier: Applier,
        *,
        scenario: str,
        max_history: int,
        auto: bool,
        announce: Announce,
        has_lines: bool = False,
    ) -> None:
        """With `has_lines` each learn model has an adapter line of its own, and adapters are only written down."""
        self._store = store
        self._has_lines = has_lines
        self._applier = applier
        self._scenario = scenario
        self._max_history = max_history
        self._auto = auto
        self._announce = announce
        self._lock = anyio.Lock()
        self._is_in_doubt = anyio.Event()
        self._log = log.get(scenario=scenario)
        self.problem: str | None = None
        """Why the gateway does not serve what it should; None when it does."""
        self.base_problem: str | None = None
        """Why what is trained on would not be what is served; None when nothing is known against it."""
        self.try_first: Callable[[TrainedModel], Awaitable[Skipped]] | None = None
        """What gets a model that may go live by itself, to be tried before (`canary_watch`)."""

    async def current(self, learn_model: str | None = None) -> TrainedModel | None:
        """The adapter in service, of the learn model's line where there are several; None is the bare base model."""
        for entry in reversed(await self._store.history(self._scenario)):
            model = await self._store.get_model(entry.model_id)
            if not self._has_lines or learn_model in (None, model.learn_model):
                return model
        return None

    async def offer(self, model: TrainedModel) -> AppliedNow | Skipped:
        """A run has finished a model: apply it if the mode is `auto` and the gate has passed it."""
        if reason := self._reason_to_wait(model):
            self._announce(log.MODEL_READY, {"model_id": model.id, "reason": reason})
            self._log.info(log.MODEL_READY, model_id=model.id, reason=reason)
            return Skipped(model.id, reason)
        if self.try_first is not None:
            return await self.try_first(model)
        return await self.apply(model.id)

    def _reason_to_wait(self, model: TrainedModel) -> str | None:
        if model.gate is not None and not model.gate.passed:
            return f"gate: {model.gate.decision}: {model.gate.reason}"
        if model.selection == "blind":
            return _IS_CONTROL
        if not self._auto:
            return f"apply.mode is manual: `honed apply {model.id}` puts it into service"
        return None

    async def apply(self, model_id: str, *, force: bool = False) -> AppliedNow | Skipped:
        """Put a model into service.

        Args:
            model_id: a registered model.
            force: serve it even if the gate has not passed it, or has measured it against another incumbent.

        Raises:
            NotFoundError: no such model.
            ApplyError: it could not be served; what served before still does.
        """
        async with self._lock:
            model = await self._store.get_model(model_id)
            if model.scenario != self._scenario:
                raise ApplyError(
                    f"{model_id} belongs to scenario {model.scenario}, not {self._scenario}"
                )
            previous = await self.current(model.learn_model)
            previous_id = previous.id if previous else None
            newest = await self.current()
            if previous_id == model_id:
                await self._applier.apply(
                    model, previous=None
                )  # nothing, unless the gateway forgot
                return Skipped(model_id, "it is in service already")
            if not force and (reason := unproved(model, previous_id)):
                self._announce(log.MODEL_REFUSED, {"model_id": model_id, "reason": reason})
                return Skipped(model_id, reason)
            # From here on the switch is finished even if the daemon stops: half of it would leave the
            # history behind what the gateway serves.
            with anyio.CancelScope(shield=True), self._doubting():
                await self._applier.apply(model, previous=previous)
                pushed = await self._store.push_applied(
                    self._scenario,
                    model_id,
                    expected=newest.id if newest else None,
                    max_history=self._max_history,
                    now_ms=now_ms(),
                )
                assert pushed, "only this object, under its lock, changes the history"
        return self._applied(model_id, previous_id)

    async def promote(
        self, model: TrainedModel, *, over: str | None, switch: Callable[[], Awaitable[None]]
    ) -> AppliedNow | Skipped:
        """Put a model into service by `switch`, which raises ApplyError, if `over` still serves."""
        async with self._lock:
            current = await self.current()
            current_id = current.id if current else None
            if current_id != over:
                return Skipped(model.id, f"{current_id or 'the base model'} is in service now")
            with anyio.CancelScope(shield=True), self._doubting():
                await switch()
                pushed = await self._store.push_applied(
                    self._scenario,
                    model.id,
                    expected=over,
                    max_history=self._max_history,
                    now_ms=now_ms(),
                )
                assert pushed, "only this object, under its lock, changes the history"
        return self._applied(model.id, over)

    def _applied(self, model_id: str, previous_id: str | None) -> AppliedNow:
        self._announce(log.MODEL_APPLIED, {"model_id": model_id, "previous_model_id": previous_id})
        self._log.info(log.MODEL_APPLIED, model_id=model_id, previous_model_id=previous_id)
        return AppliedNow(model_id, previous_id)

    async def rollback(self) -> str | None:
        """Serve what served before the current adapter; returns its id, None for the bare base model.

        Adapters that were trained on another base model are passed over: they cannot be served.

        Raises:
            NoPreviousModelError: the base model is in service; there is nothing before it.
            ApplyError: there are several lines, or the former one could not be served; the current one still is.
        """
        if self._has_lines:
            raise ApplyError(
                f"{self._scenario} has several adapter lines: expected to be told which goes back",
                advice="`honed apply ADAPTER --force` with the former adapter of that line",
            )
        async with self._lock:
            history = await self._store.history(self._scenario)
            if not history:
                raise NoPreviousModelError(
                    f"{self._scenario}: the base model is in service, there is nothing to go back to"
                )
            current = await self._store.get_model(history[-1].model_id)
            with anyio.CancelScope(shield=True), self._doubting():
                former, given_up = await self._apply_former(history, current)
                for model_id in given_up:
                    popped = await self._store.pop_applied(self._scenario, expected=model_id)
                    assert popped, "only this object, under its lock, changes the history"
        former_id = former.id if former else None
        details = {"model_id": former_id, "previous_model_id": current.id}
        self._announce(log.MODEL_ROLLED_BACK, details)
        self._log.info(log.MODEL_ROLLED_BACK, **details)
        return former_id

    async def _apply_former(
        self, history: Sequence[Applied], current: TrainedModel
    ) -> tuple[TrainedModel | None, list[str]]:
        """What serves now, and the ids above it in the history, newest first."""
        given_up = [current.id]
        for entry in reversed(history[:-1]):
            former = await self._store.get_model(entry.model_id)
            try:
                await self._applier.apply(former, previous=current)
            except ForeignAdapterError as error:
                self._log.warning(log.MODEL_REFUSED, model_id=former.id, reason=str(error))
                given_up.append(former.id)
            else:
                return former, given_up
        await self._applier.apply(None, previous=current)
        return None, given_up

    async def follow(self) -> None:
        """Keep the gateway at what the history says, whichever of the two is started again; until cancelled."""
        wait_s = _FIRST_LOOK_S
        while True:
            before, self._is_in_doubt = self.problem, anyio.Event()
            try:
                await self.reconcile()
                self.problem = self.base_problem = None
            except (ApplyError, StoreError) as error:
                if self.problem != str(error):  # told once, not every time
                    self._log.warning(log.GATEWAY_AWAITED, error=str(error), advice=error.advice)
                self.problem = str(error)
                if isinstance(error, BaseMismatchError):
                    self.base_problem = str(error)
                elif isinstance(error, ForeignAdapterError):
                    self.base_problem = None  # the gateway has this base; the adapter is of another
            is_news = (before is None) != (self.problem is None)
            wait_s = _FIRST_LOOK_S if is_news else min(_LOOK_S, wait_s * 2)
            with anyio.move_on_after(wait_s):
                await self._is_in_doubt.wait()
                wait_s = _FIRST_LOOK_S

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Look at once at what the gateway has made of an order that failed: one that died may serve it when it is
        back, although nobody was told.
        """
        try:
            yield
        except ApplyError:
            self._is_in_doubt.set()
            raise

    async def reconcile(self) -> None:
        """Have the gateway serve what the history says.

        Raises:
            ApplyError: it does not answer, or cannot serve it.
        """
        async with self._lock:
            model = await self.current()
            serving = await self._applier.current()
            if serving != (model.id if model else None):
                with anyio.CancelScope(shield=True):
                    await self._applier.apply(model, previous=await self._known(serving))
                self._log.info(log.MODEL_APPLIED, model_id=model.id if model else None)

    async def _known(self, model_id: str | None) -> TrainedModel | None:
        if model_id is None:
            return None
        try:
            return await self._store.get_model(model_id)
        except NotFoundError:
            return None


def unproved(model: TrainedModel, serving_id: str | None) -> str | None:
    """Why the verdict on the model does not allow the swap; None when it does (compare-and-swap)."""
    if model.gate is None:
        return "the gate has not judged it"
    if not model.gate.passed:
        return f"gate: {model.gate.decision}: {model.gate.reason}"
    if model.selection == "blind":
        return _IS_CONTROL
    if model.gate.incumbent_id != serving_id:
        return (
            f"it was measured against {model.gate.incumbent_id or 'the base model'}, "
            f"but {serving_id or 'the base model'} is in service now"
        )
    return None
