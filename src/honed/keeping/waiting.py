"""Captured calls that are not in the store yet: the gateway keeps them while no daemon takes them.

They are taken in before somebody's data is looked for, by the door that all events come through. So what is found is
whole, redacted and told apart from repeats as ever, and nothing arrives later that should have been forgotten.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec
from anyio import to_thread

from honed.client.spool import Spool
from honed.config import Config
from honed.domain.serving import Drained, DrainOrder
from honed.errors import ControlError
from honed.lean import without_colour
from honed.ports import Ingested

with without_colour():
    import httpx

LIMIT_S: Final = 30.0
"""How long the gateway may take to send what waits."""
_ANSWER_S: Final = 10.0
_BATCH: Final = 100


class Door(Protocol):
    """What events come through."""

    def forms(self, value: str, /) -> Sequence[str]:
        """Under which ids something may be stored that is asked for by this one."""

    async def ingest(self, lines: Sequence[bytes], /) -> Ingested:
        """Store events; on disk when it returns."""


class WaitingCalls:
    """Those of one scenario.

    Args:
        config: of the scenario; says where the gateway is.
        ingest: what takes events into the store.
        door: open while the gateway sends. Default: it is open anyway.
    """

    def __init__(
        self,
        config: Config,
        ingest: Callable[[Sequence[bytes]], Any],
        *,
        door: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    ) -> None:
        self._gateway = config.serve_socket
        self._path = f"/v1/scenarios/{quote(config.scenario, safe='')}/drain"
        self._folder = config.llama_dir / "spool" / config.scenario
        self._ingest = ingest
        self._door = door

    async def take_in(self) -> str | None:
        """Have all of them in the store that were captured until now; why some are not, None where none is left.

        Raises:
            StoreError: they could not be stored.
        """
        try:
            drained = await self._drain(0)
            if drained.left:
                async with self._door():
                    drained = await self._drain(LIMIT_S)
        except ControlError as error:
            return await self._from_disk(error)
        if not drained.left:
            return None
        return (
            f"{drained.left} captured calls still wait in the gateway after {LIMIT_S:g} s; see its log, and forget"
            " again when `honed status` shows none"
        )

    async def _drain(self, limit_s: float) -> Drained:
        """Have the gateway send them; raises ControlError where none can be asked."""
        order = msgspec.json.encode(DrainOrder(limit_s=limit_s))
        transport = httpx.AsyncHTTPTransport(verify=False, uds=str(self._gateway))
        try:
            async with httpx.AsyncClient(
                transport=transport, timeout=limit_s + _ANSWER_S
            ) as client:
                response = await client.post(f"http://honed{self._path}", content=order)
        except httpx.HTTPError as error:
            raise ControlError(f"no gateway answers on {self._gateway}: {error!r}") from error
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=Drained)
        raise ControlError(  # it is of a version from before, or does not know the scenario
            f"POST {self._path} on {self._gateway} answered with {response.status_code}"
        )

    async def _from_disk(self, error: ControlError) -> str | None:
        """Take in what a gateway has left behind that is not there any more."""
        spool = Spool(self._folder, max_bytes=0)
        try:
            await to_thread.run_sync(spool.look)
            while lines := await to_thread.run_sync(spool.oldest):
                await self._take(spool, lines)
                await to_thread.run_sync(spool.drop_oldest)
        except OSError as fault:
            return f"captured calls in {self._folder} cannot be read: {fault.strerror}"
        finally:
            spool.close()
        if spool.others_bytes:
            return f"{spool.others_bytes} bytes of captured calls are with a gateway that cannot be asked: {error}"
        return None

    async def _take(self, spool: Spool, lines: list[bytes]) -> None:
        """Store the lines of a file; those that are no events are set aside, as the gateway does."""
        for start in range(0, len(lines), _BATCH):
            batch = lines[start : start + _BATCH]
            done: Ingested = await self._ingest([line.rstrip(b"\n") for line in batch])
            broken = [batch[each.position] for each in done.rejected if each.code == "invalid"]
            if broken:
                spool.set_apart(broken)
