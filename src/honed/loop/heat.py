"""GPUs that are too hot, or take too much power, for a run to go on."""

import time
from collections.abc import Callable
from typing import Final

from anyio import to_thread

from honed import log
from honed.config import GpuSection
from honed.machine.nvidia import Card, Reading, cards

COOLER: Final = 10
"""Degrees below the limit from which on a run goes on."""
LEAST_REST_S: Final = 300.0
"""A card whose run has been paused takes little power at once: that alone is no reason to go on."""


class Heat:
    """Whether runs should rest; remembers since when they do."""

    def __init__(
        self,
        section: GpuSection,
        *,
        reading: Reading = cards,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_celsius = section.max_celsius
        self._max_watts = section.max_watts
        self._reading = reading
        self._clock = clock
        self._since_s: float | None = None

    async def is_over(self) -> bool:
        """Whether a card is over a limit now, or has not recovered from that yet."""
        if self._max_celsius is None and self._max_watts is None:
            return False
        found = await to_thread.run_sync(self._reading)
        if self._since_s is None and (over := next(filter(self._exceeds, found), None)):
            self._since_s = self._clock()
            log.get(gpu=over.index).warning(
                log.GPU_OVER_LIMIT, celsius=over.celsius, watts=over.watts
            )
        elif self._since_s is not None and self._has_recovered(found):
            rested_s = self._clock() - self._since_s
            self._since_s = None
            log.get().info(log.GPU_RECOVERED, seconds=round(rested_s))
        return self._since_s is not None

    def _exceeds(self, card: Card) -> bool:
        is_hot = self._max_celsius and card.celsius is not None and card.celsius > self._max_celsius
        takes = self._max_watts and card.watts is not None and card.watts > self._max_watts
        return bool(is_hot or takes)

    def _has_recovered(self, found: tuple[Card, ...]) -> bool:
        assert self._since_s is not None
        if self._clock() - self._since_s < LEAST_REST_S or any(map(self._exceeds, found)):
            return False
        limit = self._max_celsius
        return limit is None or all((card.celsius or 0) <= limit - COOLER for card in found)
