"""`honed run`: opens the rooms that the config names in order, closes them in reverse.

This, `rooms` and `serve` are the only modules that name implementations. No training stack is loaded here, nor typer
or rich.
"""

import contextlib
import os
import socket
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

import honed
from honed import log, process
from honed.activation import passed_unix
from honed.api import EventStream, canary_routes, control_app, review_routes
from honed.config import Config, changed_keys
from honed.domain.episode import Episode
from honed.domain.times import iso_utc
from honed.domain.trained_model import Selection
from honed.errors import ConfigError, ControlError, StoreError, TriggerError
from honed.in_process import InProcess
from honed.keeping import Keeper
from honed.learn_models.learn_model import LearnModel
from honed.listen import claim_unix_path, serving, told_the_end
from honed.loop import CanaryWatch, InService, Lines, TrainingRuns, TriggerLoop
from honed.loop.in_service import AppliedNow
from honed.loop.orders import TrainingNow
from honed.ports import Applier, Gate, Processor, Store
from honed.process import Surroundings, only_one, resident_mb, running
from honed.processors import LocalProcessor
from honed.rewards import Jury, jury_of
from honed.rooms import (
    applier_of,
    approval_of,
    base_of,
    canaries_of,
    check_start,
    gate_of,
    in_service_of,
    learn_models_of,
    lines_of,
    processor_of,
    runs_of,
    sink_of,
    store_of,
)
from honed.sink import Sink
from honed.sources import EventBus, OtherSource, SocketSource, chosen_sources
from honed.stores import SqlStore
from honed.training_sets import load_or_make_secret

_STATUS_EVERY_S: Final = 15.0
_SOCKETS: Final = {"feed": (socket.AF_UNIX,), "control": (socket.AF_UNIX,)}
"""What a supervisor may pass."""


class LearningDaemon(InProcess):
    """One scenario's learning: intake, store, loop, control API.

    The parts that the config chooses can be replaced by keyword; `buses` are heard beside the sources that it names. A
    `store` is open already and not closed here. Raises ConfigError when a part that `processor_mode` needs is missing.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: SqlStore | None = None,
        learn_model: LearnModel | None = None,
        processor: Processor | None = None,
        applier: Applier | None = None,
        gate: Gate | None = None,
        buses: Sequence[EventBus] = (),
        surroundings: Surroundings | None = None,
    ) -> None:
        check_start(config)
        self.config = config
        self._given_store = store
        self._surroundings = surroundings or Surroundings()
        self._buses = tuple(buses)
        self._learn_models = [learn_model] if learn_model else learn_models_of(config)
        self._base = base_of(config)
        self._applier = applier or applier_of(config, self._base)
        self._processor = processor or processor_of(config, self._applier)
        self._gate = gate or gate_of(config)
        self._events = EventStream()
        self._started_at = datetime.now(UTC)
        self._store: SqlStore | None = None
        self._sink: Sink | None = None
        self._feed: SocketSource | None = None
        self._others: list[OtherSource] = []
        self._runs: list[TrainingRuns] = []
        self._loop: Lines | None = None
        self._in_service: InService | None = None
        self._canaries: CanaryWatch | None = None
        self._jury: Jury | None = None

    async def run(self, *, ready: Callable[[], None] | None = None) -> None:
        """Learn until `request_stop`; everything acknowledged is committed when this returns.

        Args:
            ready: called once events are accepted and the control API answers.

        Raises:
            HonedError: the daemon cannot go on (config, another daemon, store).
        """
        config, supervisor = self.config, self._surroundings.supervisor
        sockets = self._surroundings.sockets
        async with AsyncExitStack() as rooms:
            rooms.enter_context(self._running_here())
            rooms.enter_context(only_daemon_of(config.data_dir))
            store = self._given_store
            if store is None:
                store = await rooms.enter_async_context(store_of(config))
            self._store, self._at_start = store, await store.stats()
            may_make = not await store.has_records()
            if isinstance(self._processor, LocalProcessor):
                rooms.push_async_callback(self._processor.give_back)
            secret = load_or_make_secret(config.data_dir / "secret.key", may_make=may_make)
            await rooms.enter_async_context(running(store.watch))
            sink = self._sink = sink_of(config, self._learn_models, store, secret, self._on_episode)
            await rooms.enter_async_context(running(sink.run))
            in_service = self._in_service = in_service_of(
                config, self._applier, store, self._events.publish
            )
            await rooms.enter_async_context(running(in_service.follow))
            canaries = self._canaries = canaries_of(
                config, self._applier, store, in_service, self._events.publish
            )
            await rooms.enter_async_context(running(canaries.run))
            self._runs = runs_of(
                config,
                self._learn_models,
                store,
                secret,
                in_service,
                processor=self._processor,
                gate=self._gate,
                base=self._base,
                announce=self._events.publish,
            )
            loop = self._loop = lines_of(
                config,
                self._learn_models,
                store,
                self._runs,
                [
                    approval_of(config, model, store, secret, self._events.publish)
                    for model in self._learn_models
                ],
                self._events.publish,
            )
            # The first start is written down now: `honed status` need not write, on a full disk.
            await loop.state()
            await rooms.enter_async_context(running(loop.run))
            self._jury = jury_of(config, self._learn_models, store, sink, self._events.publish)
            await rooms.enter_async_context(running(self._jury.run))
            control = passed_unix(sockets.get("control"), config.control_socket)
            if control is None:
                control = claim_unix_path(config.control_socket)
                rooms.callback(config.control_socket.unlink, missing_ok=True)
            keeper = Keeper(config, store, store.keeping, at_rest=loop.at_rest, sink=sink)
            await rooms.enter_async_context(running(keeper.run))
            feed = self._feed = SocketSource(
                config.feed_socket,
                sink,
                scenario=config.scenario,
                line_max=config.events.line_max,
                listener=passed_unix(sockets.get("feed"), config.feed_socket),
                allow_uids=config.events.allow_uids,
            )
            alive = {"store's writer": store.beat, "trigger loop": loop.beat}
            more = [*review_routes(loop), *canary_routes(canaries)]
            app = told_the_end(control_app(self, self._events, keeper, alive, more))
            await rooms.enter_async_context(serving(app, control, drain_s=1))
            await rooms.enter_async_context(feed.open())
            self._others = chosen_sources(config.events, sink, store, self._buses)
            for other in self._others:
                await rooms.enter_async_context(other.open())
            log.get(scenario=config.scenario).info(
                log.DAEMON_STARTED, pid=os.getpid(), feed=str(config.feed_socket)
            )
            if ready is not None:
                ready()
            supervisor.ready()
            if (hangups := self._surroundings.hangups) is not None:
                await rooms.enter_async_context(running(partial(self._reload_on, hangups)))
            if supervisor.listens:
                await rooms.enter_async_context(running(partial(supervisor.watch, alive)))
                await rooms.enter_async_context(running(self._tell_status))
            await self._surroundings.stop.wait()
        log.get(scenario=config.scenario).info(log.DAEMON_STOPPED)

    async def _tell_status(self) -> None:
        """Keep the supervisor's one line about this daemon up to date."""
        store, _, in_service = self._opened
        while True:
            with contextlib.suppress(StoreError):
                counts = await store.stats()
                model = await in_service.current()
                now = self._training_now
                self._surroundings.supervisor.status(
                    f"{self.config.scenario}: {counts.num_episodes} episodes, "
                    f"{f'training {now.run_id}' if now else 'no training'}, "
                    f"{model.id if model else 'the base model'} in service"
                )
            await anyio.sleep(_STATUS_EVERY_S)

    async def _reload_on(self, hangups: AsyncIterable[None]) -> None:
        async for _ in hangups:
            with contextlib.suppress(ConfigError):  # the log says it
                await self.reload()

    # ------------------------------------------------------------ what the control API offers

    async def reload(self) -> dict[str, Any]:
        """Read the config anew and judge by its trigger; what else has changed waits for a restart.

        Raises:
            ConfigError: it cannot be used, and nothing changes.
            ControlError: the config came from no file.
        """
        _, loop, _ = self._opened
        if self._surroundings.reread is None:
            raise ControlError("nothing can be read anew: the config of this daemon is no file's")
        logger = log.get(scenario=self.config.scenario)
        try:
            config = await anyio.to_thread.run_sync(self._surroundings.reread)
            if config.scenario != self.config.scenario:
                raise ConfigError(
                    f"the config is that of scenario {config.scenario}; "
                    f"this daemon learns {self.config.scenario}"
                )
        except ConfigError as error:
            logger.error(log.CONFIG_REFUSED, error=str(error), advice=error.advice)
            raise
        taken = {"trigger": config.trigger, "check_interval": config.check_interval}
        self.config = self.config.model_copy(update=taken)
        loop.follow(config.trigger, check_interval=config.check_interval)
        told = {"trigger": str(config.trigger), "wait": changed_keys(self.config, config)}
        logger.info(log.CONFIG_RELOADED, **told)
        return told

    async def status(self) -> dict[str, Any]:
        """The daemon's state as `honed status --json` prints it."""
        store, loop, in_service = self._opened
        assert self._sink is not None
        assert self._feed is not None
        counts, unused = await store.stats(), self._sink.counts()
        state = await loop.state()
        runs = await store.list_runs(self.config.scenario, limit=1)
        current = await in_service.current()
        now = self._training_now
        return {
            "version": honed.__version__,
            "scenario": self.config.scenario,
            "learn_model": self._learn_models[0].name,
            "base_model": self.config.base_model,
            "processor_mode": str(self.config.mode),
            "data_dir": str(self.config.data_dir),
            "pid": os.getpid(),
            "started_at": iso_utc(self._started_at),
            "rss_mb": resident_mb(),
            "records": counts.num_records,
            "episodes": counts.num_episodes,
            "duplicates": counts.num_duplicates,
            "conflicts": counts.num_conflicts,
            "late_records": counts.num_late,
            **msgspec.to_builtins(unused),
            **self._feed.status(),
            "store_problem": self._sink.problem,
            "sources": {source.name: source.status() for source in self._others},
            "open_groups": counts.open_groups,
            "queue_depth": counts.queue_depth,
            "unlabelled": state.episode_count - state.known_count,
            "success_rate": state.success_count / state.known_count if state.known_count else None,
            "trigger": await self._verdict(loop.of(None)),
            "last_train_at_ms": state.last_train_at_ms,
            "backoff_until_ms": state.backoff_until_ms,
            "training": now.told() if now else None,
            "paused": loop.paused,
            "reviews": loop.reviews,
            "last_run": msgspec.to_builtins(runs[0]) if runs else None,
            "rewards": await self._jury.status() if self._jury else None,
            "gateway_problem": in_service.problem,
            "base_problem": in_service.base_problem,
            "current_model": current.id if current else None,
            "canary": await self._canaries.told() if self._canaries else None,
            "lines": [await self._line(line) for line in loop.loops] if loop.loops[1:] else [],
            "history": msgspec.to_builtins(await store.history(self.config.scenario)),
        }

    async def runs(self) -> list[Any]:
        """Runs, newest first."""
        return list(await self._opened[0].list_runs(self.config.scenario))

    async def models(self) -> list[Any]:
        """Models, newest first."""
        return list(await self._opened[0].list_models(self.config.scenario))

    def suspicions(self) -> list[str]:
        """Alarms: successes that are not what they were."""
        return list(self._jury.alarms) if self._jury else []

    def train_now(
        self,
        *,
        selection: Selection = "successes",
        against_base: bool = False,
        learn_model: str | None = None,
    ) -> str:
        """Start a run past trigger and back-off; returns its id."""
        return self._opened[1].train_now(
            selection=selection, against_base=against_base, learn_model=learn_model
        )

    def cancel(self) -> str | None:
        """Stop the run in progress; returns its id."""
        return self._opened[1].cancel()

    async def apply(self, model_id: str, *, force: bool = False) -> dict[str, Any]:
        """Put a model into service, whatever `apply.mode` says."""
        result = await self._opened[2].apply(model_id, force=force)
        if isinstance(result, AppliedNow):
            return {"model_id": result.model_id, "previous_model_id": result.previous_model_id}
        return {"model_id": result.model_id, "skipped": result.reason}

    async def rollback(self) -> str | None:
        """Go back one adapter; returns the id now in service, None for the bare base."""
        return await self._opened[2].rollback()

    async def feedback(self, outcomes: Sequence[dict[str, Any]]) -> list[Any]:
        """Store what is said about attempts; what became of each."""
        assert self._sink is not None
        return [await self._sink.feedback(outcome) for outcome in outcomes]

    # ------------------------------------------------------------ building

    @property
    def _opened(self) -> tuple[Store, Lines, InService]:
        assert self._store is not None
        assert self._loop is not None
        assert self._in_service is not None
        return self._store, self._loop, self._in_service

    @property
    def _training_now(self) -> TrainingNow | None:
        return next((runs.now for runs in self._runs if runs.now), None)

    async def _line(self, loop: TriggerLoop) -> dict[str, Any]:
        """What one of several learn models has come to."""
        _, _, in_service = self._opened
        state, current = await loop.state(), await in_service.current(loop.learn_model)
        return {
            "learn_model": loop.learn_model,
            "episodes": state.episode_count,
            "unlabelled": state.episode_count - state.known_count,
            "trigger": await self._verdict(loop),
            "last_train_at_ms": state.last_train_at_ms,
            "current_model": current.id if current else None,
        }

    async def _verdict(self, loop: TriggerLoop) -> dict[str, Any]:
        try:
            verdict = await loop.verdict()
        except TriggerError as error:
            return {"text": str(self.config.trigger), "fires": None, "explain": str(error)}
        return {"text": str(self.config.trigger), "fires": verdict.fires, "explain": str(verdict)}

    def _on_episode(self, episode: Episode) -> None:
        outcome = type(episode.outcome).__name__.lower()
        self._events.publish(log.EPISODE_CREATED, {"episode_id": episode.id, "outcome": outcome})
        for waiting in (self._loop, self._jury):
            if waiting is not None:
                waiting.notify()


def only_daemon_of(data_dir: Path) -> AbstractContextManager[None]:
    """Hold the data folder's lock; raises ConfigError when another daemon does."""
    return only_one(data_dir / "daemon.lock", key="data_dir", what="daemon")


async def learn(config: Config, surroundings: Surroundings) -> None:
    """Run the config's daemon until it is told to stop; what was acknowledged is committed then."""
    await LearningDaemon(config, surroundings=surroundings).run()


def main(argv: list[str] | None = None) -> int:
    """`honed run [--config FILE]`; returns the exit status."""
    return process.main(
        "run", "Run the learning daemon.", learn, argv, sockets=_SOCKETS, reloads=True
    )
