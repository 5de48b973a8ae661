"""The section of a GPU that training shares with others: the server, other programs, and the room that it stands in."""

from datetime import timedelta

from pydantic import Field

from honed.config.sections import Section
from honed.config.values import Duration, Size


class GpuSection(Section):
    """What a run asks of NVIDIA's GPUs; they are read with nvidia-ml-py (extra `gpu`)."""

    free: Size | None = Field(None, examples=["20GiB"])
    """Memory of one card that must be free before a run begins. The server has made room by then
    (`serve.while_training`).
    """
    wait: Duration = timedelta(minutes=10)
    """How long a run waits for that; then it fails, and is tried again after its back-off."""
    max_celsius: int | None = Field(None, ge=30, examples=[83])
    """A run is paused while a card is hotter, and goes on from its checkpoint when all are 10 degrees below."""
    max_watts: int | None = Field(None, ge=1, examples=[600])
    """A run is paused when a card takes more; it goes on after 5 minutes at the earliest."""
