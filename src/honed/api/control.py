"""The control API: what CLI, dashboard and agents ask of a running daemon (HTTP over `control.sock`, JSON).

    GET  /v1/status                       counters, trigger with its verdict, training, model in service
    GET  /v1/health                       {alive}: the parts that the daemon cannot do without, once each has answered
    GET  /v1/runs  /v1/models             newest first
    GET  /v1/events                       server-sent events from now on
    POST /v1/train-now {selection, against}   -> {run_id}; 409 with code BUSY while one runs
    POST /v1/cancel                       stop the run in progress
    POST /v1/reload                       read the config anew -> {trigger, wait}: keys that wait for a restart
    POST /v1/apply {model_id, force}      -> {model_id, previous_model_id} or {model_id, skipped}
    POST /v1/rollback                     -> {model_id}; null is the base model
    POST /v1/forget {kind, name, dry}     -> counts, runs, adapters; 409 while a run is in progress
    POST /v1/cleanup {dry}                -> counts, runs, adapters
    POST /v1/feedback {outcomes: [...]}   -> {outcomes}: what became of each; fields of `OutcomeEvent`

An error is `{"code", "message", "advice"}`; unknown keys in a request are refused.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from honed import log
from honed.api.events import EventStream
from honed.domain.trained_model import Selection
from honed.errors import (
    ApplyError,
    BusyError,
    ConfigError,
    ControlError,
    HonedError,
    NoPreviousModelError,
    NotFoundError,
)
from honed.ports import Whose, WhoseKind

T = TypeVar("T", bound=Struct)

PROTOCOL = 1
"""Version of this API; answered with every status."""


class Controls(Protocol):
    """What the daemon offers to its control API."""

    async def status(self) -> dict[str, Any]:
        """Everything that `honed status` shows."""

    async def runs(self) -> list[Any]:
        """Runs, newest first."""

    async def models(self) -> list[Any]:
        """Models, newest first."""

    def train_now(
        self, *, selection: Selection, against_base: bool, learn_model: str | None = None
    ) -> str:
        """Start a run; returns its id."""

    async def reload(self) -> dict[str, Any]:
        """Read the config anew; the trigger from now on, and the keys that wait for a restart."""

    def cancel(self) -> str | None:
        """Stop the run in progress; returns its id."""

    async def apply(self, model_id: str, *, force: bool) -> dict[str, Any]:
        """Put a model into service."""

    async def rollback(self) -> str | None:
        """Go back one adapter; returns the id now in service."""

    async def feedback(self, outcomes: Sequence[dict[str, Any]]) -> list[Any]:
        """Store what is said about attempts; what became of each."""


class Keeps(Protocol):
    """What takes data out again."""

    async def forget(self, whose: Whose, *, dry: bool) -> Struct:
        """Take all of somebody's data out, or only look at it."""

    async def cleanup(self, *, dry: bool) -> Struct:
        """Clear away what is old, or only look at it."""


class _Forget(Struct, forbid_unknown_fields=True):
    kind: WhoseKind
    name: str
    dry: bool = False


class _Cleanup(Struct, forbid_unknown_fields=True):
    dry: bool = False


class _TrainNow(Struct, forbid_unknown_fields=True):
    selection: Selection = "successes"
    against: Literal["incumbent", "base"] = "incumbent"
    learn_model: str | None = None
    """Which adapter line, where there are several; None: the first."""


class _Apply(Struct, forbid_unknown_fields=True):
    model_id: str
    force: bool = False


class _Feedback(Struct, forbid_unknown_fields=True):
    outcomes: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=1_000)]


def control_app(
    controls: Controls,
    events: EventStream,
    keeper: Keeps,
    alive: Mapping[str, Callable[[], Awaitable[None]]],
) -> Starlette:
    """The ASGI application of the control API; `alive` are the parts of the daemon, asked for its health."""

    async def status(request: Request) -> Any:
        return {"protocol": PROTOCOL} | await controls.status()

    async def health(request: Request) -> Any:
        for beat in alive.values():
            await beat()
        return {"protocol": PROTOCOL, "alive": list(alive)}

    async def runs(request: Request) -> Any:
        return {"runs": await controls.runs()}

    async def models(request: Request) -> Any:
        return {"models": await controls.models()}

    async def train_now(request: Request) -> Any:
        order = await _body(request, _TrainNow)
        run_id = controls.train_now(
            selection=order.selection,
            against_base=order.against == "base",
            learn_model=order.learn_model,
        )
        return {"run_id": run_id}

    async def cancel(request: Request) -> Any:
        return {"run_id": controls.cancel()}

    async def reload(request: Request) -> Any:
        return await controls.reload()

    async def apply(request: Request) -> Any:
        order = await _body(request, _Apply)
        return await controls.apply(order.model_id, force=order.force)

    async def rollback(request: Request) -> Any:
        return {"model_id": await controls.rollback()}

    async def forget(request: Request) -> Any:
        order = await _body(request, _Forget)
        return await keeper.forget(Whose(order.kind, order.name), dry=order.dry)

    async def cleanup(request: Request) -> Any:
        order = await _body(request, _Cleanup)
        return await keeper.cleanup(dry=order.dry)

    async def feedback(request: Request) -> Any:
        told = await _body(request, _Feedback)
        return {"outcomes": await controls.feedback(told.outcomes)}

    async def stream(request: Request) -> Response:
        return StreamingResponse(_sse(events), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/status", _json(status)),
            Route("/v1/health", _json(health)),
            Route("/v1/runs", _json(runs)),
            Route("/v1/models", _json(models)),
            Route("/v1/events", stream),
            Route("/v1/train-now", _json(train_now), methods=["POST"]),
            Route("/v1/cancel", _json(cancel), methods=["POST"]),
            Route("/v1/reload", _json(reload), methods=["POST"]),
            Route("/v1/apply", _json(apply), methods=["POST"]),
            Route("/v1/rollback", _json(rollback), methods=["POST"]),
            Route("/v1/forget", _json(forget), methods=["POST"]),
            Route("/v1/cleanup", _json(cleanup), methods=["POST"]),
            Route("/v1/feedback", _json(feedback), methods=["POST"]),
        ]
    )


async def _body(request: Request, cls: type[T]) -> T:
    return msgspec.json.decode(await request.body() or b"{}", type=cls)


def _json(answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint as JSON, errors in one form."""

    async def endpoint(request: Request) -> Response:
        try:
            return _response(200, await answer(request))
        except msgspec.DecodeError as error:
            return _response(422, {"code": "INVALID_INPUT", "message": str(error), "advice": None})
        except HonedError as error:
            status, code = _status_of(error)
            return _response(status, {"code": code, "message": str(error), "advice": error.advice})
        except (
            Exception
        ) as error:  # the supervisor of requests: one that fails must not look like a dead daemon
            log.get().exception(log.REQUEST_FAILED, path=request.url.path)
            message = f"{type(error).__name__}: {error}"
            return _response(500, {"code": "INTERNAL_ERROR", "message": message, "advice": None})

    return endpoint


def _status_of(error: HonedError) -> tuple[int, str]:
    match error:
        case NotFoundError():
            return 404, "NOT_FOUND"
        case BusyError():
            return 409, "BUSY"
        case ControlError() | NoPreviousModelError():
            return 409, "CONFLICT"
        case ConfigError():
            return 422, "INVALID_CONFIG"
        case ApplyError():
            return 502, "APPLY_FAILED"
        case _:
            return 500, "INTERNAL_ERROR"


def _response(status: int, content: Any) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _sse(events: EventStream) -> AsyncIterator[bytes]:
    async for event in events.listen():
        yield b"data: " + msgspec.json.encode(event) + b"\n\n"
