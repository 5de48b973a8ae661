"""Puts adapters into service through the gateway: asks `honed serve` over its socket to switch."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import anyio
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from honed.domain.serving import (
    CODES,
    PROTOCOL,
    CanaryOrder,
    CandidateOrder,
    CandidateStatus,
    LaneStatus,
    Refusal,
    Registration,
    Serving,
    Switched,
    SwitchOrder,
    TrainingNotice,
)
from honed.domain.trained_model import TrainedModel
from honed.errors import (
    AdapterNotFoundError,
    ApplyError,
    BaseMismatchError,
    ParityError,
    TrainingError,
)
from honed.lean import without_colour

with without_colour():
    import httpx

T = TypeVar("T", bound=Struct)

_ASK_TIMEOUT_S: Final = 10.0
_SWITCH_TIMEOUT_S: Final = 600.0
"""More than startup, probe and drain together may take by default; the gateway bounds each of them
itself.
"""


class LlamaServerApplier:
    """An Applier for one scenario, over the gateway's `serve.sock`.

    It registers its scenario whenever it speaks to the gateway, so it does not matter which of the
    two was started first or again.
    """

    def __init__(
        self,
        serve_socket: Path,
        *,
        scenario: str,
        feed_socket: Path,
        make_base: Callable[[], Awaitable[tuple[Path, Path | None]]] | None = None,
        switch_timeout_s: float = _SWITCH_TIMEOUT_S,
    ) -> None:
        """`make_base` gives the base model as GGUF, and its facts; asked until it does, before registering."""
        self._serve_socket = serve_socket
        self._make_base = make_base
        self._scenario = scenario
        self._registration = Registration(feed_socket=str(feed_socket))
        self._switch_timeout_s = switch_timeout_s

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Serve the model (None: the bare base); true afterwards, proved by the gateway's probe.

        Raises:
            AdapterNotFoundError: the model's files are not where its record says; the gateway was
                not asked.
            ServerStartError, HealthTimeoutError, ProbeFailedError: see their names; `previous`
                still serves.
            ApplyError: the gateway does not run, or refused.
        """
        if model is not None:
            await _see_that_it_is_there(model)
        await self._register()
        order = SwitchOrder(
            model_id=model.id if model else None,
            adapter_path=model.adapter_path if model else None,
            digest=model.digest if model else None,
            previous_path=previous.adapter_path if previous else None,
        )
        path = f"{self._path}/switch"
        await self._ask("POST", path, Switched, order, timeout_s=self._switch_timeout_s)

    async def current(self) -> str | None:
        """Id of the adapter that answers; None for the bare base.

        Raises:
            BaseMismatchError: nothing is served, because it would not be the base model that is
                trained on.
            ApplyError: the gateway does not answer, or nothing is served yet.
        """
        lane = await self._register()
        if not lane.is_serving and lane.base_problem:
            raise BaseMismatchError(f"{self._scenario}: nothing is served: {lane.base_problem}")
        if not lane.is_serving:
            raise ApplyError(
                f"{self._scenario}: nothing is served yet, the lane is {lane.state}"
                f"{f': {lane.error}' if lane.error else ''}"
            )
        return lane.model_id

    async def lane(self) -> LaneStatus:
        """What answers now, and what is tried beside it; raises ApplyError."""
        return await self._register()

    async def canary(self, model: TrainedModel, *, share: float, is_shadow: bool) -> None:
        """Give a model its share of the tasks, proved by the gateway's probe; the same again changes the share.

        Raises:
            ApplyError: it has none, as with `apply`; what is in service answers everything.
        """
        await _see_that_it_is_there(model)
        await self._register()
        order = CanaryOrder(
            model_id=model.id,
            adapter_path=model.adapter_path,
            digest=model.digest,
            share=share,
            is_shadow=is_shadow,
        )
        path = f"{self._path}/canary"
        await self._ask("POST", path, CandidateStatus, order, timeout_s=self._switch_timeout_s)

    async def promote(self, model: TrainedModel) -> None:
        """Have the model that is tried answer everything; raises ApplyError: nothing has changed."""
        path, order = f"{self._path}/promote", CandidateOrder(model_id=model.id)
        await self._ask("POST", path, Switched, order, timeout_s=self._switch_timeout_s)

    async def withdraw(self, model: TrainedModel) -> None:
        """Have what is in service answer everything; nothing where this model is not tried."""
        candidate = (await self._register()).candidate
        if candidate is None or candidate.model_id != model.id:
            return
        path, order = f"{self._path}/withdraw", CandidateOrder(model_id=model.id)
        await self._ask("POST", path, Switched, order, timeout_s=self._switch_timeout_s)

    async def make_room(self, lasts_s: float) -> None:
        """Have the server make room for a training run (`serve.while_training`); 0: the run has ended.

        Raises:
            ApplyError: the gateway does not run, or its server stays as it is.
        """
        path, notice = f"{self._path}/training", TrainingNotice(lasts_s=lasts_s)
        await self._ask("POST", path, Switched, notice, timeout_s=self._switch_timeout_s)

    async def serving(self) -> Serving:
        """Everything that the gateway serves.

        Raises:
            ApplyError: the gateway does not answer, or speaks another version of the protocol.
        """
        serving = await self._ask("GET", "/v1/serving", Serving)
        if serving.protocol != PROTOCOL:
            raise ApplyError(
                f"the gateway speaks protocol {serving.protocol}, this daemon {PROTOCOL}",
                advice="restart the older of the two",
            )
        return serving

    @property
    def _path(self) -> str:
        return f"/v1/scenarios/{quote(self._scenario, safe='')}"

    async def _register(self) -> LaneStatus:
        if self._make_base is not None:
            try:
                gguf, facts = await self._make_base()
            except ParityError as error:
                raise BaseMismatchError(str(error), advice=error.advice) from error
            except TrainingError as error:
                raise ApplyError(f"{self._scenario}: {error}", advice=error.advice) from error
            self._registration = replace(
                self._registration, base_gguf=str(gguf), base_facts=str(facts) if facts else None
            )
            self._make_base = None
        return await self._introduce()

    async def _introduce(self) -> LaneStatus:
        try:
            return await self._ask("PUT", self._path, LaneStatus, self._registration)
        except ApplyError as error:
            if self._registration.base_facts is None or "`base_facts`" not in str(error):
                raise
            # A gateway from before facts were known; it compares nothing.
            self._registration = replace(self._registration, base_facts=None)
            return await self._ask("PUT", self._path, LaneStatus, self._registration)

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Struct | None = None,
        *,
        timeout_s: float = _ASK_TIMEOUT_S,
    ) -> T:
        transport = httpx.AsyncHTTPTransport(verify=False, uds=str(self._serve_socket))
        content = msgspec.json.encode(body) if body is not None else None
        try:
            async with httpx.AsyncClient(transport=transport, timeout=timeout_s) as client:
                response = await client.request(method, f"http://honed{path}", content=content)
            if response.is_success:
                return msgspec.json.decode(response.content, type=answer)
            raise _error(msgspec.json.decode(response.content, type=Refusal))
        except httpx.ConnectError as error:
            raise ApplyError(
                f"no gateway listens on {self._serve_socket}", advice="start `honed serve`"
            ) from error
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise ApplyError(f"{method} {path} at the gateway failed: {error!r}") from error


async def _see_that_it_is_there(model: TrainedModel) -> None:
    if not await anyio.Path(model.adapter_path).is_dir():
        raise AdapterNotFoundError(
            f"{model.id}: its folder {model.adapter_path} does not exist",
            advice="`honed adapters` lists what there is",
        )


def _error(refusal: Refusal) -> ApplyError:
    cls: type[Any] = CODES.get(refusal.code, ApplyError)
    error: ApplyError = cls(refusal.message, advice=refusal.advice)
    return error
