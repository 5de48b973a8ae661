"""The models of llama-server's router: listed, loaded, unloaded, over its HTTP routes.

Source: tools/server/README.md of llama.cpp b11434, "Using multiple models".
"""

from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

import anyio
import msgspec
from msgspec import Struct

from honed.errors import ApplyError, HealthTimeoutError, ServerStartError
from honed.gateway.upstream import Address, UnreachableError, UpstreamError, fetch

T = TypeVar("T")

_POLL_EVERY_S: Final = 0.05
_ANSWER_S: Final = 30.0
_STOP_S: Final = 30.0
"""How long a model's process may take to end; the router kills it after ten seconds, unless it was told otherwise."""
_RUNS: Final = frozenset(("loaded", "sleeping", "loading"))


class LeftError(ApplyError):
    """Nobody answers there, or only to another key."""


class Status(Struct):
    """How a model is."""

    value: str
    failed: bool = False
    exit_code: int | None = None

    @property
    def runs(self) -> bool:
        """Whether it has a process."""
        return self.value in _RUNS

    def __str__(self) -> str:
        return self.value + (f" with status {self.exit_code}" if self.failed else "")


class Lora(Struct):
    """An adapter of a model, and how strongly it answers."""

    path: str
    scale: float


class _Model(Struct):
    id: str
    status: Status | None = None


class _Models(Struct):
    data: list[_Model]


class _Props(Struct):
    max_instances: int = 0
    """0 is no limit; not every router tells it."""


class RouterModels(NamedTuple):
    """What a router at this address has."""

    address: Address

    async def listed(self, *, reload: bool = False) -> dict[str, Status]:
        """Its models by name; `reload` has it read its presets file first.

        Raises:
            LeftError: nobody answers.
            ServerStartError: it is no router.
            ApplyError: it does not tell.
        """
        path = "/models?reload=1" if reload else "/models"
        models = await self._get(path, _Models)
        if any(model.status is None for model in models.data):
            raise ServerStartError(
                f"the server at {self.address} is no router: GET /models tells no status",
                advice="start llama-server without a model and with --models-preset, or leave serve.external_kind out",
            )
        return {model.id: model.status for model in models.data if model.status is not None}

    async def loras(self, name: str) -> list[Lora]:
        """The adapters of a model that is loaded; raises ApplyError."""
        return await self._get(f"/lora-adapters?model={quote(name, safe='')}", list[Lora])

    async def see_room(self) -> None:
        """See that it need not unload a model for one more; raises ApplyError."""
        room = (await self._get("/props", _Props)).max_instances
        running = sorted(name for name, status in (await self.listed()).items() if status.runs)
        if room and len(running) >= room:
            raise ApplyError(
                f"the router at {self.address} has {len(running)} models loaded, {', '.join(running)}, and takes "
                f"{room}: for one more it would unload another",
                advice="start it with a higher --models-max; a switch has two versions loaded, three with a candidate",
            )

    async def load(self, name: str, *, within_s: float) -> None:
        """Have it load a model, and wait until it has.

        Raises:
            ServerStartError: it could not.
            HealthTimeoutError: not in time.
            ApplyError: it refused.
        """
        await self._post("/models/load", {"model": name})
        try:
            with anyio.fail_after(within_s):
                while True:
                    status = (await self.listed()).get(name)
                    if status is None or status.value != "loading":
                        break
                    await anyio.sleep(_POLL_EVERY_S)
        except TimeoutError:
            raise HealthTimeoutError(
                f"the router at {self.address} has not loaded {name} within {within_s:.0f} s",
                advice="raise serve.startup_timeout for a large model",
            ) from None
        if status is None or not status.runs:
            raise ServerStartError(
                f"the router at {self.address} did not load {name}: it is {status or 'not listed'}",
                advice="see the router's log",
            )

    async def unload(self, name: str) -> None:
        """End a model's process, where it has one, and wait for that; raises ApplyError."""
        if not await self._runs(name):
            return
        await self._post("/models/unload", {"model": name})
        with anyio.move_on_after(_STOP_S):
            while True:
                if not await self._runs(name):
                    return
                await anyio.sleep(_POLL_EVERY_S)
        raise ApplyError(
            f"the router at {self.address} has not unloaded {name} within {_STOP_S:.0f} s",
            advice="see the router's log",
        )

    async def _runs(self, name: str) -> bool:
        status = (await self.listed()).get(name)
        return status is not None and status.runs

    async def _get(self, path: str, type: type[T]) -> T:
        body = await self._ask("GET", path)
        try:
            return msgspec.json.decode(body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApplyError(f"GET {path} of the router at {self.address}: {error}") from error

    async def _post(self, path: str, order: object) -> None:
        await self._ask("POST", path, msgspec.json.encode(order))

    async def _ask(self, method: str, path: str, order: bytes = b"") -> bytes:
        asked = f"{method} {path} {order.decode()}".strip()
        try:
            status, body = await fetch(self.address, method, path, order, timeout_s=_ANSWER_S)
        except UpstreamError as error:
            kind = LeftError if isinstance(error, UnreachableError) else ApplyError
            raise kind(f"the router at {self.address}: {error}", advice="see its log") from error
        if status == 200:
            return body
        told = f"the router at {self.address} answered {asked} with {status}: {body[:300].decode(errors='replace')}"
        if status in (401, 403):
            raise LeftError(
                told, advice="put its key into HONED_SERVER_KEY (or the credential server-key)"
            )
        raise ApplyError(told, advice="see the router's log")
