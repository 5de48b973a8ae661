"""Generated conversations with tools, and the way from a trajectory to its episode."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from honed.domain.episode import Episode
from honed.domain.events import parse_event
from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.records import record_from_event
from honed.domain.training_data import ChatExample
from honed.learn_models import ChatLearnModel
from honed.training_sets import ImportedTrajectory
from honed.training_sets.trajectories import Trajectory

CHAT = ChatLearnModel()

# Surrogates are no UTF-8: nothing that is read from a file has them.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = TEXT.filter(str.strip)
NAMES = st.sampled_from(["look", "buchen", "検索"])
ARGUMENTS = st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.floats(-1, 1), max_size=2)
TOOLS = st.none() | st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": NAMES})}
    ),
    min_size=1,
    max_size=2,
).map(tuple)


@st.composite
def _answer(draw: st.DrawFn) -> list[Message]:
    """One turn of the assistant, or calls, their results, and the turn after them."""
    turns: list[Message] = []
    for number in range(draw(st.integers(0, 2))):
        calls = tuple(
            ToolCall(
                id=f"call_{number}_{i}",
                function=FunctionCall(
                    name=draw(NAMES),
                    arguments=json.dumps(draw(ARGUMENTS), ensure_ascii=draw(st.booleans())),
                ),
            )
            for i in range(draw(st.integers(1, 2)))
        )
        said = draw(st.none() | st.just("") | SAID)
        turns.append(Message(role="assistant", content=said, tool_calls=calls))
        turns += [
            Message(role="tool", content=draw(TEXT), tool_call_id=call.id, name=call.function.name)
            for call in calls
        ]
    turns.append(Message(role="assistant", content=draw(SAID)))
    return turns


@st.composite
def prompts(draw: st.DrawFn) -> tuple[Message, ...]:
    """A system turn or none, turns that were given, and what is asked."""
    turns = [Message(role="system", content=draw(SAID))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 1))):
        turns += [Message(role="user", content=draw(TEXT)), *draw(_answer())]
    turns.append(Message(role="user", content=draw(TEXT)))
    return tuple(turns)


@st.composite
def completions(draw: st.DrawFn) -> tuple[Message, ...]:
    """Answers, with more questions in between."""
    turns = draw(_answer())
    for _ in range(draw(st.integers(0, 1))):
        turns += [Message(role="user", content=draw(TEXT)), *draw(_answer())]
    return tuple(turns)


@st.composite
def trajectories(draw: st.DrawFn, **fields: Any) -> Trajectory:
    """A prompt, some of it given, and its completion."""
    prompt, completion = draw(prompts()), draw(completions())
    return Trajectory(
        messages=prompt + completion,
        tools=draw(TOOLS),
        num_context=len(prompt) if draw(st.booleans()) else 0,
        **{name: draw(value) for name, value in fields.items()},
    )


def episode_of(told: ImportedTrajectory) -> Episode:
    """The episode that the daemon makes of it."""
    records = [record_from_event(parse_event(line), received_ms=1) for line in told.lines]
    (episode,) = CHAT.build_episodes(records, now_ms=1)
    return episode


def example_of(told: ImportedTrajectory) -> ChatExample:
    """What a training learns from it."""
    return CHAT.convert(episode_of(told))


def plain(turns: Sequence[Message]) -> list[Any]:
    """What turns say, in the words of a form that has neither ids nor names for results."""
    return [
        (
            turn.role,
            turn.text,
            [
                (c.function.name, json.loads(str(c.function.arguments)))
                for c in turn.tool_calls or ()
            ],
        )
        for turn in turns
    ]
