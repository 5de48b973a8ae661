"""Runs of a daemon that trains nothing: each ends skipped and says why.

Counters stay where they are, so that the episodes are still new to the first run of a daemon that trains.
"""

from honed import log
from honed.domain.ids import run_id
from honed.domain.processing import OFFLINE_IS_MISSING
from honed.domain.run import Run
from honed.loop.in_service import Announce
from honed.loop.orders import RunOrder, Stop
from honed.loop.skipped_run import skipped_run
from honed.ports import Store


class OfflineRuns:
    """Executes run orders in the mode `offline`, whose analysis is not built yet."""

    def __init__(
        self, store: Store, *, scenario: str, learn_model: str, announce: Announce
    ) -> None:
        self._store = store
        self._scenario = scenario
        self._learn_model = learn_model
        self._announce = announce

    def new_id(self) -> str:
        """An id for the next run."""
        return run_id(self._learn_model, "offline")

    async def execute(self, order: RunOrder, stop: Stop | None = None) -> Run:
        """Write down that nothing was done, and why."""
        run = skipped_run(
            order,
            scenario=self._scenario,
            learn_model=self._learn_model,
            message=f"processor_mode is offline, and {OFFLINE_IS_MISSING}",
        )
        await self._store.skip_run(run)
        details = {"run_id": run.id, "model_id": None, "message": run.message}
        self._announce(log.TRAINING_SKIPPED, details)
        log.get(scenario=self._scenario).info(log.TRAINING_SKIPPED, **details)
        return run
