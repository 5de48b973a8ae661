"""The control API: what CLI, dashboard and agents ask of a running daemon (HTTP over `control.sock`, JSON).

    GET  /v1/status                       counters, trigger with its verdict, training, model in service
    GET  /v1/health                       {alive, suspicions}: the parts that the daemon cannot do without, once each
                                          has answered; and alarms about rewards
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
    /v1/review ...                        what the next run would learn from (`api.review`)
    /v1/canary ...                        what is tried beside the version in service (`api.canary`)

An error is `{"code", "message", "advice"}`; unknown keys in a request are refused.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from honed.api.answers import as_json, read_body
from honed.api.events import EventStream
from honed.domain.trained_model import Selection
from honed.ports import Whose, WhoseKind

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

    def suspicions(self) -> list[str]:
        """Alarms: successes that are not what they were."""

    async def feedback(self, outcomes: Sequence[dict[str, Any]]) -> list[Any]:
        """Store what is said about attempts; what became of each."""


class Keeps(Protocol):
    """What takes data out again."""

    async def forget(self, whose: Whose, *, dry: bool) -> Struct:
        """Take all of somebody's data out, or only look at it."""

    async def cleanup(self, *, dry: bool, expected: Mapping[str, Any] | None = None) -> Struct:
        """Clear away what is old, or only look at it; refused where the limits are not the expected ones."""


class _Forget(Struct, forbid_unknown_fields=True):
    kind: WhoseKind
    name: str
    dry: bool = False


class _Cleanup(Struct, forbid_unknown_fields=True):
    dry: bool = False
    keep: dict[str, Any] | None = None
    """The section `keep` that whoever asks believes in; None: whatever the daemon's says."""


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
    more: Sequence[Route] = (),
) -> Starlette:
    """The ASGI application of the control API.

    Args:
        controls: the daemon.
        events: what it publishes.
        keeper: what takes data out.
        alive: the parts of the daemon, asked for its health.
        more: routes of other parts of it (`api.review`).
    """

    async def status(request: Request) -> Any:
        return {"protocol": PROTOCOL} | await controls.status()

    async def health(request: Request) -> Any:
        for beat in alive.values():
            await beat()
        suspicions = controls.suspicions()
        return {"protocol": PROTOCOL, "alive": list(alive), "suspicions": suspicions}

    async def runs(request: Request) -> Any:
        return {"runs": await controls.runs()}

    async def models(request: Request) -> Any:
        return {"models": await controls.models()}

    async def train_now(request: Request) -> Any:
        order = await read_body(request, _TrainNow)
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
        order = await read_body(request, _Apply)
        return await controls.apply(order.model_id, force=order.force)

    async def rollback(request: Request) -> Any:
        return {"model_id": await controls.rollback()}

    async def forget(request: Request) -> Any:
        order = await read_body(request, _Forget)
        return await keeper.forget(Whose(order.kind, order.name), dry=order.dry)

    async def cleanup(request: Request) -> Any:
        order = await read_body(request, _Cleanup)
        return await keeper.cleanup(dry=order.dry, expected=order.keep)

    async def feedback(request: Request) -> Any:
        told = await read_body(request, _Feedback)
        return {"outcomes": await controls.feedback(told.outcomes)}

    async def stream(request: Request) -> Response:
        return StreamingResponse(_sse(events), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/status", as_json(status)),
            Route("/v1/health", as_json(health)),
            Route("/v1/runs", as_json(runs)),
            Route("/v1/models", as_json(models)),
            Route("/v1/events", stream),
            Route("/v1/train-now", as_json(train_now), methods=["POST"]),
            Route("/v1/cancel", as_json(cancel), methods=["POST"]),
            Route("/v1/reload", as_json(reload), methods=["POST"]),
            Route("/v1/apply", as_json(apply), methods=["POST"]),
            Route("/v1/rollback", as_json(rollback), methods=["POST"]),
            Route("/v1/forget", as_json(forget), methods=["POST"]),
            Route("/v1/cleanup", as_json(cleanup), methods=["POST"]),
            Route("/v1/feedback", as_json(feedback), methods=["POST"]),
            *more,
        ]
    )


async def _sse(events: EventStream) -> AsyncIterator[bytes]:
    async for event in events.listen():
        yield b"data: " + msgspec.json.encode(event) + b"\n\n"
