"""TRL's rows: preference, labelled (unpaired preference), prompt and completion.

Each may be conversational (lists of turns) or text; a text prompt is read as the user's turn, a
text answer as the assistant's. The turns of a prompt were given, so they are context.

Source: TRL docs/source/dataset_formats.md.
"""

from itertools import takewhile
from typing import Final

import msgspec
from msgspec import Raw, Struct

from honed.domain.message import Message, Tool
from honed.domain.outcome import Failure, Outcome, Success, Unknown
from honed.training_sets.formats.turns import (
    NULL,
    Turns,
    is_given,
    is_text,
    read_text,
    read_tools,
    read_turns,
    require_answers,
)
from honed.training_sets.trajectories import Trajectory, prompt_group

REJECTED: Final = Failure("another answer was preferred")
LABELLED_BAD: Final = Failure("labelled as bad")


class _Preference(Struct, kw_only=True):
    chosen: Raw
    rejected: Raw
    prompt: Raw = NULL
    instruction: Raw = NULL
    tools: Raw = NULL


class _Completion(Struct, kw_only=True):
    prompt: Raw
    completion: Raw
    tools: Raw = NULL


class _Labelled(_Completion, kw_only=True):
    label: bool


_preference: Final = msgspec.json.Decoder(_Preference)
_completion: Final = msgspec.json.Decoder(_Completion)
_labelled: Final = msgspec.json.Decoder(_Labelled)


def read_preference(text: bytes) -> list[Trajectory]:
    """`{"prompt"?, "chosen", "rejected"}`: a success and a failure in one group."""
    row = _preference.decode(text)
    if is_given(row.instruction):
        raise ValueError("$.instruction beside $.chosen is no form of TRL: expected prompt")
    tools = read_tools(row.tools)
    if is_text(row.chosen) and is_text(row.rejected):
        prompt, chosen, rejected = _text_pair(row)
    else:
        prompt, chosen, rejected = _turn_pair(row)
    if chosen == rejected:
        raise ValueError("$.chosen and $.rejected say the same: neither is better")
    return [
        _trajectory(prompt, answer, tools, outcome)
        for answer, outcome in ((chosen, Success(1.0)), (rejected, REJECTED))
    ]


def read_labelled(text: bytes) -> list[Trajectory]:
    """`{"prompt", "completion", "label"}`: one attempt, a success or a failure."""
    row = _labelled.decode(text)
    return [_completed(row, Success(1.0) if row.label else LABELLED_BAD)]


def read_prompt_completion(text: bytes) -> list[Trajectory]:
    """`{"prompt", "completion"}`: one attempt; nobody says how good it is."""
    return [_completed(_completion.decode(text), Unknown())]


def _completed(row: _Completion, outcome: Outcome) -> Trajectory:
    tools = read_tools(row.tools)
    if is_text(row.prompt) != is_text(row.completion):
        raise ValueError(
            "$.prompt and $.completion differ in form: expected two texts or two lists"
        )
    if is_text(row.prompt):
        prompt = _asked(read_text(row.prompt, "$.prompt"), "$.prompt")
        answer = _said(read_text(row.completion, "$.completion"))
    else:
        prompt = read_turns(row.prompt, "$.prompt")
        answer = read_turns(row.completion, "$.completion")
    _check(prompt, "$.prompt")
    _check_answer(answer, "$.completion")
    return _trajectory(prompt, answer, tools, outcome)


def _text_pair(row: _Preference) -> tuple[Turns, Turns, Turns]:
    chosen, rejected = read_text(row.chosen, "$.chosen"), read_text(row.rejected, "$.rejected")
    if not is_given(row.prompt):
        if "\n\nAssistant:" in chosen:
            raise ValueError("$.chosen is a transcript written as text: expected a list of turns")
        size = _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:size], chosen[size:], rejected[size:]
        if not prompt.strip():
            raise ValueError("$.chosen and $.rejected share no beginning, and there is no prompt")
    elif is_text(row.prompt):
        prompt = read_text(row.prompt, "$.prompt")
    else:
        raise ValueError("$.prompt is a list and $.chosen a text: expected one form")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _check_answer(_said(answer), f"$.{name}")
    return _asked(prompt, "$.prompt"), _said(chosen), _said(rejected)


def _turn_pair(row: _Preference) -> tuple[Turns, Turns, Turns]:
    chosen, rejected = read_turns(row.chosen, "$.chosen"), read_turns(row.rejected, "$.rejected")
    prompt: Turns | None = None
    if is_text(row.prompt):
        asked = read_text(row.prompt, "$.prompt")
        firsts = [
            turn.text for turns in (chosen, rejected) for turn in turns if turn.role == "user"
        ]
        if asked not in firsts:  # else the text repeats what the turns say
            raise ValueError("$.prompt is a text that $.chosen does not begin with")
    elif is_given(row.prompt):
        prompt = read_turns(row.prompt, "$.prompt")
    if prompt is None:
        size = _num_shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:size], chosen[size:], rejected[size:]
        if not prompt:
            raise ValueError("$.chosen and $.rejected share no first turn, and there is no prompt")
    _check(prompt, "$.prompt")
    _check_answer(chosen, "$.chosen")
    _check_answer(rejected, "$.rejected")
    return prompt, chosen, rejected


def _num_shared(chosen: Turns, rejected: Turns) -> int:
    """How many first turns are the prompt: those that are equal, up to where an answer begins."""
    pairs = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    while shared and not (_begins_answer(chosen, shared) and _begins_answer(rejected, shared)):
        shared -= 1
    return shared


def _begins_answer(turns: Turns, at: int) -> bool:
    return at < len(turns) and turns[at].role == "assistant"


def _shared_text(chosen: str, rejected: str) -> int:
    """Characters of the shared beginning, cut where a word begins.

    TRL's `extract_prompt` cuts inside words; a chat turn that ends inside one is no question.
    """
    pairs = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    return len(chosen[:shared].rstrip()) if shared else 0


def _trajectory(
    prompt: Turns, answer: Turns, tools: tuple[Tool, ...] | None, outcome: Outcome
) -> Trajectory:
    return Trajectory(
        messages=prompt + answer,
        tools=tools,
        num_context=len(prompt),
        outcome=outcome,
        group_id=prompt_group(prompt, tools),
    )


def _asked(text: str, path: str) -> Turns:
    if not text.strip():
        raise ValueError(f"{path} is empty: nothing is asked")
    return (Message(role="user", content=text),)


def _said(text: str) -> Turns:
    return (Message(role="assistant", content=text),)


def _check(prompt: Turns, path: str) -> None:
    if not prompt:
        raise ValueError(f"{path} is empty: nothing is asked")
    require_answers(prompt, path)


def _check_answer(answer: Turns, path: str) -> None:
    if not answer or answer[0].role != "assistant":
        found = answer[0].role if answer else "nothing"
        raise ValueError(f"{path} begins with {found}: expected the assistant's answer")
    if answer[-1].role != "assistant":
        raise ValueError(f"{path} ends with {answer[-1].role}: expected the assistant's answer")
    require_answers(answer, path)
