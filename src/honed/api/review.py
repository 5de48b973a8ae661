"""The part of the control API by which people look at what a run would learn from, before it does.

GET  /v1/review?rows=3&learn_model=NAME    what the next run would learn from, or the one that waits (`ports.Preview`)
POST /v1/review/remark {episodes, kind, said_by, note, label}    kind: drop, keep, note -> {changed}
POST /v1/review/approve {said_by, data_digest, learn_model}    -> {run_id, data_digest}
POST /v1/review/reject {said_by, note, learn_model}            -> {run_id}
"""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.routing import Route

from honed.api.answers import as_json, read_body
from honed.ports import Preview, RemarkKind, Review

_ROWS_MAX = 1_000

_Who = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Words = Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]


class Approves(Protocol):
    """Shows what would be learned, and lets runs wait."""

    async def preview(self, *, num_rows: int) -> Preview:
        """What the run that waits would learn from, else what one would that starts now."""

    async def remark(
        self,
        episode_ids: Sequence[str],
        kind: RemarkKind,
        *,
        said_by: str,
        note: str | None,
        label: str | None,
    ) -> int:
        """Say something about episodes; of how many it was new."""

    async def approve(self, *, said_by: str, data_digest: str | None) -> Review:
        """Let the run that waits train on what was shown."""

    async def reject(self, *, said_by: str, note: str | None) -> Review:
        """Discard the run that waits and move on."""


class HasApprovals(Protocol):
    """The lines of a scenario."""

    def approval(self, learn_model: str | None) -> Approves:
        """That of a learn model, None: the first; raises ControlError."""


class _Remark(Struct, forbid_unknown_fields=True):
    episodes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]
    kind: RemarkKind
    said_by: _Who
    note: _Words | None = None
    label: _Words | None = None


class _Approve(Struct, forbid_unknown_fields=True):
    said_by: _Who
    data_digest: Annotated[str, msgspec.Meta(min_length=6)] | None = None
    learn_model: str | None = None


class _Reject(Struct, forbid_unknown_fields=True):
    said_by: _Who
    note: _Words | None = None
    learn_model: str | None = None


def review_routes(lines: HasApprovals) -> list[Route]:
    """The routes of reviews."""

    async def show(request: Request) -> Any:
        asked = request.query_params
        try:
            num_rows = min(_ROWS_MAX, max(0, int(asked.get("rows", "3"))))
        except ValueError:
            raise msgspec.ValidationError("rows is no number - at `?rows`") from None
        return await lines.approval(asked.get("learn_model")).preview(num_rows=num_rows)

    async def remark(request: Request) -> Any:
        told = await read_body(request, _Remark)
        changed = await lines.approval(None).remark(
            told.episodes, told.kind, said_by=told.said_by, note=told.note, label=told.label
        )
        return {"changed": changed}

    async def approve(request: Request) -> Any:
        told = await read_body(request, _Approve)
        review = await lines.approval(told.learn_model).approve(
            said_by=told.said_by, data_digest=told.data_digest
        )
        return {"run_id": review.id, "data_digest": review.data_digest}

    async def reject(request: Request) -> Any:
        told = await read_body(request, _Reject)
        review = await lines.approval(told.learn_model).reject(said_by=told.said_by, note=told.note)
        return {"run_id": review.id}

    return [
        Route("/v1/review", as_json(show)),
        Route("/v1/review/remark", as_json(remark), methods=["POST"]),
        Route("/v1/review/approve", as_json(approve), methods=["POST"]),
        Route("/v1/review/reject", as_json(reject), methods=["POST"]),
    ]
