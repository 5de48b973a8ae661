"""No server to tell: the history in the store is all there is."""

from honed.domain.trained_model import TrainedModel


class NoApplier:
    """Accepts every model and changes nothing; remembers the last one while the process lives."""

    def __init__(self) -> None:
        self._current: str | None = None

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Take note of the model."""
        self._current = model.id if model else None

    async def current(self) -> str | None:
        """Id of the model accepted last; None for the bare base."""
        return self._current
