"""The shapes of the events that a swarm sends most, as plain dictionaries."""

from collections.abc import Sequence
from typing import Any


def action_event(
    action: str,
    *,
    task_id: str,
    tick: int,
    worker_id: int = 0,
    success: bool = True,
    output: str | None = None,
    error: str | None = None,
    target: str | None = None,
    observation: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """One thing an agent did; `fields` are further fields of the event or its envelope."""
    result = {"success": success, "output": output, "error": error}
    event = {
        "type": "action",
        "action": action,
        "task_id": task_id,
        "tick": tick,
        "worker_id": worker_id,
        "target": target,
        "result": _present(result),
        **fields,
    }
    if observation is not None:
        event["context"] = {**fields.get("context", {}), "observation": observation}
    return _present(event)


def llm_call_event(
    messages: Sequence[dict[str, Any]],
    response_message: dict[str, Any] | None,
    *,
    task_id: str | None = None,
    model: str | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    receipt_id: str | None = None,
    latency_ms: int | None = None,
    error: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """One call of a language model in OpenAI's form; `fields` as in `action_event`."""
    event = {
        "type": "llm_call",
        "messages": list(messages),
        "response_message": response_message,
        "task_id": task_id,
        "model": model,
        "tools": None if tools is None else list(tools),
        "receipt_id": receipt_id,
        "latency_ms": latency_ms,
        "error": error,
        **fields,
    }
    return _present(event)


def outcome_event(
    *,
    task_id: str | None = None,
    success: bool | None = None,
    score: float | None = None,
    reason: str | None = None,
    receipt_id: str | None = None,
    group_id: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A verdict on a task or on one call.

    `success` False is a failure with its `reason`; True, or a score above 0 alone, a success of
    that score (1.0 when none is given); a score of 0 alone a failure.

    Raises:
        ValueError: it names no task and no receipt, or says neither success nor score.
    """
    if task_id is None and receipt_id is None:
        raise ValueError("an outcome must name a task_id or a receipt_id")
    if success is None and score is None:
        raise ValueError("an outcome must say success or score")
    if success or (success is None and score):
        outcome = {"type": "success", "score": 1.0 if score is None else score}
    else:
        outcome = {"type": "failure", "reason": reason or ""}
    event = {
        "type": "outcome",
        "task_id": task_id,
        "outcome": outcome,
        "receipt_id": receipt_id,
        "group_id": group_id,
        **fields,
    }
    return _present(event)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
