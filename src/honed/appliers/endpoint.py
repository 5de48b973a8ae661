"""The file that says where a scenario is served and under which name; replaced whole, never written into."""

import os
from pathlib import Path

import msgspec
from anyio import to_thread
from msgspec import Struct

from honed.errors import ApplyError


class Endpoint(Struct, frozen=True, kw_only=True):
    """What `endpoint.json` holds."""

    scenario: str
    url: str
    """Of the server, without `/v1`."""
    model: str
    """What requests put into `model`."""
    model_id: str | None = None
    """The adapter in service; None is the bare base model."""
    former_id: str | None = None
    """The adapter that served before and still answers by its name; None where there is none."""


class EndpointFile:
    """`endpoint.json` of one scenario."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self) -> Endpoint | None:
        """What was written last; None when nothing was, or when it cannot be read.

        What cannot be read is written anew with the next switch, so it is no error.
        """
        try:
            return msgspec.json.decode(
                await to_thread.run_sync(self.path.read_bytes), type=Endpoint
            )
        except (OSError, msgspec.DecodeError):
            return None

    async def write(self, endpoint: Endpoint) -> None:
        """Say so from now on.

        Raises:
            ApplyError: it cannot be written; what was said before still stands there.
        """
        try:
            await to_thread.run_sync(self._write, msgspec.json.encode(endpoint))
        except OSError as error:
            raise ApplyError(
                f"{self.path} cannot be written: {error.strerror}",
                advice="make room on the disk, or give the folder back to honed's user",
            ) from error

    def _write(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.new")
        with aside.open("wb") as file:
            os.fchmod(
                file.fileno(), 0o644
            )  # it is for agents, who may be other users, and holds no secret
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)
