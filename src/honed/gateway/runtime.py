"""The adapters of a llama-server that runs: what it can do with them is asked of it, not assumed.

`POST /lora-adapters` sets the scales of adapters that were named at its start (`--lora`). llama.cpp's pull request
22061 adds `POST /lora-adapters/load` ({"path", "scale"} -> {"id", "scale"}) and `/unload` ({"id"}); a server that has
them says 400 to a load without a path, any other 404. A router (llama-server without a model) is a program that starts
servers itself: `router` is for it.

Both ways leave prompt caches behind that were computed with the former adapter. Those of the slots are overwritten
(`forget`); the cache in the host's memory (`--cache-ram`) cannot be, so a server that has one is found out by asking
the same prompts again (`find_stale`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from honed.domain.fingerprint import Fingerprint
from honed.errors import ApplyError, ProbeFailedError
from honed.gateway import probe
from honed.gateway.upstream import Address, UpstreamError, fetch

_NOISE: Final = 0.02
"""Nats, root mean square: how far the same prompt may differ with and without the cache, for the shape of batches."""
_STALE: Final = 0.25
"""Of the way from the former adapter's answers to the new one's: more is a cache of the former."""
_TIMEOUT_S: Final = 60.0
"""An adapter is read from disk."""


class KeyRefusedError(ApplyError):
    """The server wants a key that it is not shown."""


class Listed(Struct, frozen=True):
    """An adapter that the server has."""

    id: int
    path: str
    scale: float


class _Props(Struct):
    total_slots: int = 1


class _Models(Struct):
    data: list[dict[str, Any]] = []


class _Loaded(Struct):
    id: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running server, and what it said of itself."""

    address: Address
    adapters: tuple[Listed, ...]
    num_slots: int
    can_load: bool
    """Whether it loads adapters while it runs."""
    is_router: bool

    @property
    def applied(self) -> list[str]:
        """Paths of the adapters that it answers with."""
        return [each.path for each in self.adapters if each.scale != 0]

    def has(self, adapter: Path | None) -> bool:
        """Whether it could answer with this adapter alone; None is the bare base."""
        return not self.is_router and (
            adapter is None or self.can_load or self._id_of(adapter) is not None
        )

    def check(self, adapter: Path | None) -> None:
        """See that it could.

        Raises:
            ApplyError: it could not; why, and what to do.
        """
        if self.is_router:
            raise ApplyError(
                f"the server at {self.address} is a router, which starts servers by itself",
                advice="set serve.external_kind to llama_router, or name a llama-server with a model",
            )
        if not self.has(adapter):
            listed = ", ".join(each.path for each in self.adapters) or "none"
            raise ApplyError(
                f"the server at {self.address} does not have {adapter}, and cannot load adapters while it runs; "
                f"it has {listed}",
                advice="start it anew with `--lora FILE --lora-init-without-apply --cache-ram 0`, or leave starting it"
                " to honed (serve.strategy auto, no serve.external_url)",
            )

    def _id_of(self, adapter: Path) -> int | None:
        return next((each.id for each in self.adapters if each.path == str(adapter)), None)

    async def put(self, adapter: Path | None) -> "Runtime":
        """Answer with this adapter alone from now on; the slots forget. Nothing may be in flight.

        Raises:
            ApplyError: it did not do it.
        """
        number = None
        if adapter is not None:
            number = await self._load(adapter) if self.can_load else self._id_of(adapter)
        await self._scale(number)
        now = await ask(self.address)
        wanted = [str(adapter)] if adapter is not None else []
        if now.applied != wanted:
            raise ApplyError(f"{self.address} should answer with {wanted}, but has {now.applied}")
        return now

    async def restore(self) -> None:
        """Go back to the scales of when it was asked; the slots forget.

        Raises:
            ApplyError: it did not do it.
        """
        applied = [each.id for each in self.adapters if each.scale != 0]
        await self._scale(*applied)

    async def unload(self, adapter: Path | None) -> None:
        """Have it drop an adapter that no longer answers, where it can."""
        number = self._id_of(adapter) if adapter is not None else None
        if self.can_load and number is not None:
            await _post(self.address, "/lora-adapters/unload", {"id": number})

    async def _load(self, adapter: Path) -> int:
        # Always anew: one that was dropped stays in the list.
        body = await _post(
            self.address, "/lora-adapters/load", {"path": str(adapter), "scale": 0.0}
        )
        try:
            return msgspec.json.decode(body, type=_Loaded).id
        except msgspec.DecodeError as error:
            raise ApplyError(f"POST {self.address}/lora-adapters/load: {error}") from error

    async def _scale(self, *numbers: int | None) -> None:
        scales = [{"id": number, "scale": 1.0} for number in numbers if number is not None]
        await _post(self.address, "/lora-adapters", scales)  # what is not named gets 0
        await forget(self.address, self.num_slots)


async def ask(address: Address) -> Runtime:
    """Ask a server what it has and what it can do; it does nothing.

    Raises:
        ApplyError: it does not answer.
    """
    is_router = any("status" in each for each in (await _models(address)).data)
    if is_router:
        return Runtime(address, (), 0, can_load=False, is_router=True)
    try:
        props = msgspec.json.decode(await _get(address, "/props"), type=_Props)
        adapters = msgspec.json.decode(await _get(address, "/lora-adapters"), type=list[Listed])
        status, _ = await fetch(address, "POST", "/lora-adapters/load", b"{}")
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ApplyError(f"the server at {address} does not tell its adapters: {error}") from error
    return Runtime(address, tuple(adapters), props.total_slots, status == 400, is_router=False)


async def applied(address: Address) -> list[str]:
    """Paths of the adapters that it answers with.

    Raises:
        UpstreamError: it does not answer.
        ApplyError: not with a list of adapters.
    """
    try:
        adapters = msgspec.json.decode(await _get(address, "/lora-adapters"), type=list[Listed])
    except msgspec.DecodeError as error:
        raise ApplyError(f"the server at {address} does not tell its adapters: {error}") from error
    return [each.path for each in adapters if each.scale != 0]


async def forget(address: Address, num_slots: int) -> None:
    """Overwrite what each slot remembers of its last prompt.

    Raises:
        ApplyError: it did not do it.
    """
    for slot in range(num_slots):
        order = {"prompt": " ", "n_predict": 1, "cache_prompt": False, "id_slot": slot}
        await _post(address, "/completion", order)


async def ask_each_slot(
    runtime: Runtime, fingerprint: Fingerprint, *, has_cache: bool = True
) -> list[probe.Answers]:
    """What each slot answers to the fingerprint, with whatever it remembers.

    Raises:
        ProbeFailedError: one does not answer.
    """
    return [
        await probe.ask(runtime.address, fingerprint, slot=slot, has_cache=has_cache)
        for slot in range(runtime.num_slots)
    ]


def find_stale(
    remembered: Sequence[probe.Answers], fresh: probe.Answers, former: probe.Answers
) -> None:
    """See that no slot answers from a cache of the former adapter.

    Args:
        remembered: what each slot answers to prompts that it has had under the former adapter.
        fresh: what the server answers to them without a cache.
        former: what it answered to them under the former adapter.

    Raises:
        ProbeFailedError: one does.
    """
    allowed = _NOISE + _STALE * probe.distance(former, fresh)
    for slot, answers in enumerate(remembered):
        if (found := probe.distance(answers, fresh)) > allowed:
            raise ProbeFailedError(
                f"slot {slot} answers from a prompt cache of the former adapter: {found:.2f} nats off, "
                f"{allowed:.2f} allowed",
                advice="start llama-server with `--cache-ram 0`; its other caches are cleared by honed",
            )


async def _models(address: Address) -> _Models:
    try:
        return msgspec.json.decode(await _get(address, "/models"), type=_Models)
    except (UpstreamError, msgspec.DecodeError, ApplyError):
        return _Models()  # not every server has the route


async def _get(address: Address, path: str) -> bytes:
    status, body = await fetch(address, "GET", path)
    if status != 200:
        raise _refused(address, "GET", path, status, body)
    return body


async def _post(address: Address, path: str, order: object) -> bytes:
    try:
        status, body = await fetch(
            address, "POST", path, msgspec.json.encode(order), timeout_s=_TIMEOUT_S
        )
    except UpstreamError as error:
        raise ApplyError(f"POST {path}: {error}") from error
    if status != 200:
        raise _refused(address, "POST", path, status, body)
    return body


def _refused(address: Address, method: str, path: str, status: int, body: bytes) -> ApplyError:
    if status == 401:
        has = (
            "the key in HONED_SERVER_KEY is none of its"
            if address.key
            else "HONED_SERVER_KEY has none"
        )
        return KeyRefusedError(
            f"the server at {address} asks for a key, and {has}: {method} {path} answered with 401",
            advice="put its key into HONED_SERVER_KEY (or the credential server-key)",
        )
    said = body[:200].decode(errors="replace")
    return ApplyError(f"{method} {address}{path} answered with {status}: {said}")
