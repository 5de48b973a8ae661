"""How the control API reads a request and answers it: JSON, errors in one form."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from honed import log
from honed.errors import (
    ApplyError,
    BusyError,
    ConfigError,
    ControlError,
    HonedError,
    NoPreviousModelError,
    NotFoundError,
)

T = TypeVar("T", bound=Struct)


async def read_body(request: Request, cls: type[T]) -> T:
    """What a request asks for; an empty body is an empty object."""
    return msgspec.json.decode(await request.body() or b"{}", type=cls)


def as_json(
    answer: Callable[[Request], Awaitable[Any]],
) -> Callable[[Request], Awaitable[Response]]:
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
