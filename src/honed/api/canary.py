"""The part of the control API by which people see what is tried beside the version in service, and overrule it.

GET  /v1/canary                                              what is tried now (null: nothing), and all canaries, newest
                                                             first -> {canary, canaries}
POST /v1/canary {model_id, share, shadow, force, said_by}    -> {canary}; share null: the config's
POST /v1/canary/promote {said_by, model_id}                  -> {canary}: it answers everything now
POST /v1/canary/withdraw {said_by, model_id}                 -> {canary}: what is in service answers everything now;
                                                             model_id null: whatever is tried; refused if it is another
"""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.routing import Route

from honed.api.answers import as_json, read_body
from honed.domain.canary import Canary

_Who = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Tries(Protocol):
    """Tries models on a share of the tasks."""

    async def told(self) -> dict[str, Any] | None:
        """What is tried and how it does; None when nothing is."""

    async def list(self) -> Sequence[Canary]:
        """Canaries, newest first."""

    async def begin(
        self, model_id: str, *, share: float | None, is_shadow: bool, force: bool, by: str
    ) -> Canary:
        """Try a model."""

    async def promote(self, model_id: str | None = None, *, by: str) -> Canary:
        """Put what is tried into service."""

    async def withdraw(self, model_id: str | None = None, *, by: str) -> Canary:
        """End the trial."""


class _Begin(Struct, forbid_unknown_fields=True):
    model_id: str
    said_by: _Who
    share: _Share | None = None
    shadow: bool = False
    force: bool = False


class _Decide(Struct, forbid_unknown_fields=True):
    said_by: _Who
    model_id: str | None = None


def canary_routes(canaries: Tries) -> list[Route]:
    """The routes of canaries."""

    async def show(request: Request) -> Any:
        former = [msgspec.structs.asdict(each) for each in await canaries.list()]
        return {"canary": await canaries.told(), "canaries": former}

    async def begin(request: Request) -> Any:
        order = await read_body(request, _Begin)
        begun = await canaries.begin(
            order.model_id,
            share=order.share,
            is_shadow=order.shadow,
            force=order.force,
            by=order.said_by,
        )
        return {"canary": msgspec.structs.asdict(begun)}

    async def promote(request: Request) -> Any:
        order = await read_body(request, _Decide)
        over = await canaries.promote(order.model_id, by=order.said_by)
        return {"canary": msgspec.structs.asdict(over)}

    async def withdraw(request: Request) -> Any:
        order = await read_body(request, _Decide)
        over = await canaries.withdraw(order.model_id, by=order.said_by)
        return {"canary": msgspec.structs.asdict(over)}

    return [
        Route("/v1/canary", as_json(show)),
        Route("/v1/canary", as_json(begin), methods=["POST"]),
        Route("/v1/canary/promote", as_json(promote), methods=["POST"]),
        Route("/v1/canary/withdraw", as_json(withdraw), methods=["POST"]),
    ]
