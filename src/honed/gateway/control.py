"""The gateway's control API on `serve.sock`; the bodies are in `domain.serving`."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from honed.domain.serving import (
    CanaryOrder,
    CandidateOrder,
    DrainOrder,
    Refusal,
    Registration,
    SwitchOrder,
    TrainingNotice,
    code_of,
)
from honed.errors import (
    AdapterNotFoundError,
    ApplyError,
    BaseMismatchError,
    HealthTimeoutError,
    HonedError,
    NotFoundError,
    ProbeFailedError,
    ServerStartError,
    ValidationError,
)
from honed.gateway.gateway import Gateway

T = TypeVar("T", bound=Struct)
_LANE: Final = "/v1/scenarios/{scenario}"


def control_app(gateway: Gateway) -> Starlette:
    """The ASGI application of the control API."""

    async def serving(request: Request) -> Struct:
        return gateway.serving()

    async def server(request: Request) -> Struct:
        return await gateway.vitals(request.path_params["scenario"])

    return Starlette(
        routes=[
            Route("/v1/serving", _json(serving)),
            Route("/serving", _json(serving)),
            Route(_LANE, _json(_ordered(Registration, gateway.register)), methods=["PUT"]),
            Route(f"{_LANE}/server", _json(server)),
            _order("drain", DrainOrder, gateway.drain),
            _order("training", TrainingNotice, gateway.training),
            _order("switch", SwitchOrder, gateway.switch),
            _order("canary", CanaryOrder, gateway.canary),
            _order("promote", CandidateOrder, gateway.promote),
            _order("withdraw", CandidateOrder, gateway.withdraw),
        ]
    )


def _order(name: str, cls: type[T], carry_out: Callable[[str, T], Awaitable[Struct]]) -> Route:
    """The route of an order to one scenario's lane."""
    return Route(f"{_LANE}/{name}", _json(_ordered(cls, carry_out)), methods=["POST"])


def _ordered(
    cls: type[T], carry_out: Callable[[str, T], Awaitable[Struct]]
) -> Callable[[Request], Awaitable[Struct]]:
    """The endpoint that reads an order from the body and has it carried out."""

    async def answer(request: Request) -> Struct:
        order = msgspec.json.decode(await request.body() or b"{}", type=cls)
        return await carry_out(request.path_params["scenario"], order)

    return answer


def _json(
    answer: Callable[[Request], Awaitable[Struct]],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint as JSON, errors as a Refusal."""

    async def endpoint(request: Request) -> Response:
        try:
            return _response(200, await answer(request))
        except msgspec.DecodeError as error:
            return _response(422, Refusal(code="INVALID_INPUT", message=str(error)))
        except HonedError as error:
            status, code = _status_of(error)
            return _response(status, Refusal(code=code, message=str(error), advice=error.advice))

    return endpoint


def _status_of(error: HonedError) -> tuple[int, str]:
    match error:
        case ValidationError():
            return 422, "INVALID_INPUT"
        case NotFoundError():
            return 404, "UNKNOWN_SCENARIO"
        case ServerStartError() | HealthTimeoutError() | ProbeFailedError() | BaseMismatchError():
            return 502, code_of(error)
        case AdapterNotFoundError() | ApplyError():
            return 409, code_of(error)
        case _:
            return 500, code_of(error)


def _response(status: int, content: Struct) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
