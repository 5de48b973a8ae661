"""OpenAI `messages` with tools, tau-bench's trajectories, and logged requests with their responses."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from honed.domain.message import Message
from honed.domain.outcome import Outcome, Unknown, outcome_from_reward
from honed.training_sets.formats.turns import (
    NULL,
    Turns,
    is_given,
    read_tools,
    read_turns,
    require_answers,
)
from honed.training_sets.trajectories import Trajectory, content_digest, opening_group


class _Ids(Struct, kw_only=True):
    reward: float | bool | None = None
    score: float | bool | None = None
    id: str | int | None = None
    task_id: str | int | None = None
    group_id: str | int | None = None
    trial: str | int | None = None
    model: str | None = None


class _Messages(_Ids, kw_only=True):
    messages: Raw
    tools: Raw = NULL
    trained_turns: tuple[int, ...] | None = None


class _TauBench(_Ids, kw_only=True):
    traj: Raw
    tools: Raw = NULL


_messages: Final = msgspec.json.Decoder(_Messages)
_tau_bench: Final = msgspec.json.Decoder(_TauBench)


def read_messages(text: bytes) -> list[Trajectory]:
    """`{"messages", "tools"?, "reward" | "score"?, "id"?, "task_id"?, "trial"?, "group_id"?}`."""
    row = _messages.decode(text)
    turns = read_turns(row.messages, "$.messages")
    return [_named(row, turns, row.tools, _num_context(turns, row.trained_turns))]


def read_tau_bench(text: bytes) -> list[Trajectory]:
    """`{"task_id", "trial", "reward", "traj": [OpenAI messages]}`."""
    row = _tau_bench.decode(text)
    return [_named(row, read_turns(row.traj, "$.traj"), row.tools, 0)]


def _named(row: _Ids, turns: Turns, tools_raw: Raw, num_context: int) -> Trajectory:
    """`id` names the attempt, `task_id` what attempts have in common."""
    tools = read_tools(tools_raw)
    own, task, trial = _name(row.id), _name(row.task_id), _name(row.trial)
    digest = content_digest(turns, tools)
    if own is None:
        own = digest if task is None else f"{task}-{trial or digest}"
    return Trajectory(
        messages=turns,
        tools=tools,
        num_context=num_context,
        outcome=_outcome(row),
        task_id=own,
        group_id=_name(row.group_id) or task,
        model=row.model or "",
    )


def _num_context(turns: Turns, trained: tuple[int, ...] | None) -> int:
    """How many leading turns are not to be imitated; refuses gaps further on."""
    if trained is None:
        return 0
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    behind = [i for i in answers if trained and i >= trained[0]]
    if not behind or list(trained) != behind:
        raise ValueError(f"$.trained_turns is {list(trained)}: expected the last ones of {answers}")
    return trained[0] if behind != answers else 0


def _outcome(row: _Ids) -> Outcome:
    reward = row.score if row.reward is None else row.reward
    return Unknown() if reward is None else outcome_from_reward(float(reward))


def _name(value: str | int | None) -> str | None:
    """The value as text; the empty text names nothing."""
    return None if value is None or value == "" else str(value)


class _Request(Struct):
    messages: Raw
    tools: Raw = NULL
    functions: Raw = NULL
    model: str | None = None


class _Choice(Struct):
    message: Raw = NULL
    finish_reason: str | None = None


class _Response(Struct):
    choices: tuple[_Choice, ...] = ()
    model: str | None = None


class _Logged(Struct, kw_only=True):
    request: _Request
    response: _Response
    timestamp: float | None = None
    workload_id: str | int | None = None
    client_id: str | int | None = None


_logged: Final = msgspec.json.Decoder(_Logged)


def read_flywheel(text: bytes) -> list[Trajectory]:
    """`{"timestamp", "workload_id", "client_id", "request", "response"}`, NVIDIA's flywheel log.

    Each choice of the response is an attempt; what opens alike is one group, so that the calls of
    one conversation stay on one side of the held-out split.
    """
    row = _logged.decode(text)
    if is_given(row.request.functions):
        raise ValueError("$.request.functions is of an older form: expected tools")
    if not row.response.choices:
        raise ValueError("$.response.choices is empty: nothing was answered")
    sent = read_turns(row.request.messages, "$.request.messages")
    tools = read_tools(row.request.tools, "$.request.tools")
    tags = {
        name: str(value)
        for name, value in (("workload_id", row.workload_id), ("client_id", row.client_id))
        if value not in (None, "")
    }
    if row.timestamp is not None and not 0 <= row.timestamp < 1e11:
        raise ValueError(f"$.timestamp is {row.timestamp:g}: expected Unix seconds")
    return [
        Trajectory(
            messages=(*sent, _answer(choice, i)),
            tools=tools,
            group_id=opening_group(sent, tools),
            model=row.response.model or row.request.model or "",
            timestamp_ms=None if row.timestamp is None else round(row.timestamp * 1000),
            finish_reason=choice.finish_reason,
            tags=tags,
        )
        for i, choice in enumerate(row.response.choices)
    ]


def _answer(choice: _Choice, index: int) -> Message:
    path = f"$.response.choices[{index}].message"
    if not is_given(choice.message):
        raise ValueError(f"{path} is missing: a streamed answer has to be put together first")
    (answer,) = read_turns(Raw(b"[" + bytes(choice.message) + b"]"), path)
    if answer.role != "assistant":
        raise ValueError(f"{path}.role is {answer.role}: expected assistant")
    require_answers((answer,), path)
    return answer
