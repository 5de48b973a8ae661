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
    episode_id: str | None = None,
    comment: str | None = None,
    demonstration: str | dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """What is said about one call, an attempt, one episode, or (naming a group alone) all attempts of a group.

    `success` False is a failure with its `reason`; True, or a score above 0 alone, a success of
    that score (1.0 when none is given); a score of 0 alone a failure. `demonstration` is the answer
    as it should have been, a text or a message; `source` and `version` say who speaks.

    Raises:
        ValueError: it names no task, receipt, session, group or episode, an episode beside others, or says nothing.
    """
    named = task_id, receipt_id, group_id, fields.get("session_id")
    if not any((*named, episode_id)):
        raise ValueError(
            "an outcome is about something: expected a task_id, receipt_id, session_id, group_id or episode_id"
        )
    if episode_id and any(named):
        raise ValueError(
            "an episode_id stands alone: expected no task_id, receipt_id, session_id or group_id with it"
        )
    outcome: dict[str, Any] | None = None
    if success or (success is None and score):
        outcome = {"type": "success", "score": 1.0 if score is None else score}
    elif success is not None or score is not None:
        outcome = {"type": "failure", "reason": reason or ""}
    if outcome is None and comment is None and demonstration is None:
        raise ValueError(
            "an outcome says something: expected success, score, comment or demonstration"
        )
    event = {
        "type": "outcome",
        "task_id": task_id,
        "outcome": outcome,
        "receipt_id": receipt_id,
        "group_id": group_id,
        "episode_id": episode_id,
        "comment": comment,
        "demonstration": demonstration,
        **fields,
    }
    return _present(event)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
