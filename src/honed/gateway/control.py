"""The gateway's control API on `serve.sock`; the bodies are in `domain.serving`."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from honed.domain.serving import (
    CanaryOrder,
    CandidateOrder,
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


def control_app(gateway: Gateway) -> Starlette:
    """The ASGI application of the control API."""

    async def serving(request: Request) -> Struct:
        return gateway.serving()

    async def register(request: Request) -> Struct:
        registration = await _body(request, Registration)
        return await gateway.register(request.path_params["scenario"], registration)

    async def switch(request: Request) -> Struct:
        order = await _body(request, SwitchOrder)
        return await gateway.switch(request.path_params["scenario"], order)

    async def canary(request: Request) -> Struct:
        order = await _body(request, CanaryOrder)
        return await gateway.canary(request.path_params["scenario"], order)

    async def promote(request: Request) -> Struct:
        order = await _body(request, CandidateOrder)
        return await gateway.promote(request.path_params["scenario"], order)

    async def withdraw(request: Request) -> Struct:
        order = await _body(request, CandidateOrder)
        return await gateway.withdraw(request.path_params["scenario"], order)

    async def training(request: Request) -> Struct:
        notice = await _body(request, TrainingNotice)
        return await gateway.training(request.path_params["scenario"], notice)

    async def server(request: Request) -> Struct:
        return await gateway.vitals(request.path_params["scenario"])

    return Starlette(
        routes=[
            Route("/v1/serving", _json(serving)),
            Route("/serving", _json(serving)),
            Route("/v1/scenarios/{scenario}", _json(register), methods=["PUT"]),
            Route("/v1/scenarios/{scenario}/server", _json(server)),
            Route("/v1/scenarios/{scenario}/training", _json(training), methods=["POST"]),
            Route("/v1/scenarios/{scenario}/switch", _json(switch), methods=["POST"]),
            Route("/v1/scenarios/{scenario}/canary", _json(canary), methods=["POST"]),
            Route("/v1/scenarios/{scenario}/promote", _json(promote), methods=["POST"]),
            Route("/v1/scenarios/{scenario}/withdraw", _json(withdraw), methods=["POST"]),
        ]
    )


async def _body(request: Request, cls: type[T]) -> T:
    return msgspec.json.decode(await request.body() or b"{}", type=cls)


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
