"""One attempt at a task: its events share their ids, and it ends with a verdict."""

import contextvars
import functools
import inspect
import itertools
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast

from honed.client import events, wire

R = TypeVar("R")
P = ParamSpec("P")
T = TypeVar("T")

_OUTPUT_MAX: Final = 4_000
"""Characters of a recorded function's result."""
_REASON_MAX: Final = 500

_current: contextvars.ContextVar["TaskBase[Any] | None"] = contextvars.ContextVar(
    "honed_task", default=None
)


class TaskBase(Generic[R]):
    """What both kinds of task share; `R` is what the client's `send` returns."""

    def __init__(self, send: Callable[..., R], task_id: str | None = None, **fields: Any) -> None:
        self.task_id = task_id or wire.new_event_id()
        self._send = send
        self._fields = fields
        self._ticks = itertools.count(1)
        self._is_done = False
        self._outer: list[contextvars.Token[TaskBase[Any] | None]] = []

    def record(self, action: str, **fields: Any) -> R:
        """Record one thing the agent did; fields as in `client.events.action_event`, `tick` counts by itself."""
        tick = fields.pop("tick", None) or next(self._ticks)
        return self._send(
            events.action_event(action, task_id=self.task_id, tick=tick, **self._fields | fields)
        )

    def llm_call(
        self,
        messages: list[dict[str, Any]],
        response_message: dict[str, Any] | None,
        **fields: Any,
    ) -> R:
        """Record one call of a language model that did not pass the gateway."""
        return self._send(
            events.llm_call_event(
                messages, response_message, task_id=self.task_id, **self._fields | fields
            )
        )

    def done(
        self,
        success: bool | None = None,
        *,
        score: float | None = None,
        reason: str | None = None,
        **fields: Any,
    ) -> R:
        """Say how the attempt went; leaving the context says nothing more then.

        Fields as in `client.events.outcome_event`: `comment`, `demonstration`, `source`, ...
        """
        said = events.outcome_event(
            task_id=self.task_id,
            success=success,
            score=score,
            reason=reason,
            **self._fields | fields,
        )
        self._is_done = True
        return self._send(said)

    def _enter(self) -> None:
        self._outer.append(_current.set(self))

    def _leave(self) -> None:
        _current.reset(self._outer.pop())

    def _failed(self, error: BaseException | None) -> bool:
        """Whether leaving must tell a failure. A cancelled attempt is no failure of the agent's."""
        return isinstance(error, Exception) and not self._is_done


class Task(TaskBase[R]):
    """`with client.task("t1") as task:`; an exception that ends the block is told as a failure.

    Left without `done` and without an exception, the attempt has no verdict yet: say it later with
    `client.outcome(task_id=...)`.
    """

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        if self._failed(error):
            self.done(False, reason=_reason(error))


class AsyncTask(TaskBase[R]):
    """`async with client.task("t1") as task:`, with awaitable `record` and `done`."""

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        if self._failed(error):
            await cast(Any, self.done(False, reason=_reason(error)))


def current_task() -> TaskBase[Any] | None:
    """The innermost task whose context this code runs in, if any."""
    return _current.get()


def recorded(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a tool: each call inside a task is recorded as an action of that name.

    The result's text is kept up to 4,000 characters, an exception as the failure it is; arguments are
    not kept. Outside a task nothing is recorded. Coroutine functions work with both kinds of task,
    plain functions with `Task` alone.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def recording_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            began = time.monotonic()
            try:
                result = await function(*args, **kwargs)
            except Exception as error:
                await _tell_async(function.__name__, began, error=error)
                raise
            await _tell_async(function.__name__, began, result=result)
            return result

        return cast(Callable[P, T], recording_async)

    @functools.wraps(function)
    def recording(*args: P.args, **kwargs: P.kwargs) -> T:
        began = time.monotonic()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            _tell(function.__name__, began, error=error)
            raise
        _tell(function.__name__, began, result=result)
        return result

    return recording


def _tell(name: str, began: float, **what: Any) -> None:
    task = _current.get()
    if isinstance(task, AsyncTask):
        message = f"{name} is a plain function inside an async task: its call is not recorded"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    elif task is not None:
        task.record(name, **_fields(began, **what))


async def _tell_async(name: str, began: float, **what: Any) -> None:
    task = _current.get()
    if task is not None:
        told = task.record(name, **_fields(began, **what))
        if isinstance(task, AsyncTask):
            await told


def _fields(began: float, *, result: Any = None, error: Exception | None = None) -> dict[str, Any]:
    return {
        "success": error is None,
        "output": None if result is None else str(result)[:_OUTPUT_MAX],
        "error": None if error is None else _reason(error),
        "duration_ms": round(1000 * (time.monotonic() - began)),
    }


def _reason(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"[:_REASON_MAX]
