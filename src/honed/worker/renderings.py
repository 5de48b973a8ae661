"""The texts in which a conversation is learned, and where in them the replies stand.

Templates such as Qwen3's render a past turn otherwise than the turn that is being answered (they
drop `<think>` blocks), so a model that learned every turn from one rendering would be trained on
text that it never produces. Here each turn is taken from the rendering in which it is the last one,
which is the text that the server sees and the model writes; turns that one rendering shows alike
share it.

A reply that a model could not have been asked for is refused with its reason, and the other turns
of the conversation are learned all the same.
"""

import hashlib
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Final, NamedTuple

from honed.worker.examples import Example
from honed.worker.served import ServedTemplate, UnservableError, num_shared

FOLLOWS_ITSELF: Final = (
    "follows another turn of the assistant, which the server would have gone on with"
)
_AFTER_THOUGHT: Final = "</think>"
_OTHER: Final = "\ue000"
"""A reply that begins like no other."""
_LONGEST_OPENING: Final = 200
"""Characters that a template may put before the words of a reply."""
_ID_LENGTH: Final = 9
_LAST_WORDS: Final = 12
"""Characters of the prompt's end that must stand before the reply."""


class TurnSpan(NamedTuple):
    """Where the reply of one turn stands in a text: characters from `start` to `end`."""

    turn: int
    start: int
    end: int


@dataclass(slots=True)
class Rendering:
    """One text and the replies to learn in it, in their order."""

    text: str
    spans: list[TurnSpan]


class Refusal(NamedTuple):
    """Why a turn cannot be learned, and what to do about it."""

    reason: str
    advice: str | None


@dataclass(slots=True)
class Renderings:
    """What comes of one conversation."""

    texts: list[Rendering] = field(default_factory=list)
    """Shortest first; together they show every target turn once, but for the refused."""
    refused: dict[int, Refusal] = field(default_factory=dict)
    """Target turns that cannot be learned, and why."""


class Reply(NamedTuple):
    """A turn as the model would write it: `text[start:]`, after the prompt `text[:start]`."""

    text: str
    start: int


def renderings(example: Example, template: ServedTemplate) -> Renderings:
    """The texts that together show every target turn as the model would write it."""
    example = with_fitting_ids(example, template)
    found = Renderings()
    for turn in reversed(example.targets):
        try:
            reply = reply_of(example, turn, template)
        except UnservableError as error:
            found.refused[turn] = Refusal(str(error), error.advice)
            continue
        span = TurnSpan(turn, reply.start, len(reply.text))
        home = next((home for home in found.texts if home.text.startswith(reply.text)), None)
        if home is None:
            found.texts.append(Rendering(reply.text, [span]))
        else:
            home.spans.insert(0, span)
    found.texts.reverse()
    return found


def with_fitting_ids(example: Example, template: ServedTemplate) -> Example:
    """The conversation with ids of tool calls that the template takes.

    Conversations of other models have other ids than the server would have given: Mistral's
    templates refuse all but nine letters or digits.
    """
    if not template.wants_short_ids:
        return example
    return replace(example, messages=[_with_fitting_ids(message) for message in example.messages])


def _with_fitting_ids(message: dict[str, Any]) -> dict[str, Any]:
    fitted = dict(message)
    if message.get("tool_call_id"):
        fitted["tool_call_id"] = _fitting_id(message["tool_call_id"])
    if calls := message.get("tool_calls"):
        fitted["tool_calls"] = [
            call | {"id": _fitting_id(call["id"])} if call.get("id") else call for call in calls
        ]
    return fitted


def _fitting_id(name: str) -> str:
    if len(name) == _ID_LENGTH and name.isalnum():
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LENGTH]


def reply_of(example: Example, turn: int, template: ServedTemplate) -> Reply:
    """The text up to the end of a turn, and where its reply begins.

    Raises:
        UnservableError: no server would ask for this turn, or its rendering is not what a model
            would write.
    """
    messages, tools = example.messages, example.tools
    if messages[turn - 1]["role"] == "assistant":
        raise UnservableError(FOLLOWS_ITSELF)
    prompt = template.render(messages[:turn], tools, add_generation_prompt=True)
    answered = template.render(messages[: turn + 1], tools, add_generation_prompt=False)
    answered = answered.removesuffix(template.closing)
    shared = num_shared(prompt, answered)
    if prompt[shared:].strip():
        reply = answered[_beginning(example, turn, template, prompt, answered) :]
    else:
        reply = answered[shared:]  # without the white space that ends some prompts
    _see_that_it_says(reply, messages[turn])
    return Reply(prompt + reply, len(prompt))


def _beginning(
    example: Example, turn: int, template: ServedTemplate, prompt: str, answered: str
) -> int:
    """Where the reply begins in a text that shows the turns before it otherwise than the prompt does.

    Mistral's templates write the system text into the last turn if it is a user's, so it moves when
    a reply follows; LFM2.5's keep the thoughts of the last reply alone. What ends the prompt must
    stand before the reply all the same.
    """
    other = template.render(
        [*example.messages[:turn], {"role": "assistant", "content": _OTHER}],
        example.tools,
        add_generation_prompt=False,
    )
    latest = num_shared(answered, other)
    beginning, agreed = max(
        (
            (at, _num_agreed(prompt, answered[:at]))
            for at in range(max(0, latest - _LONGEST_OPENING), latest + 1)
        ),
        key=itemgetter(1),
    )
    asked = example.messages[turn - 1].get("content")
    last_words = asked.strip()[-_LAST_WORDS:] if isinstance(asked, str) else ""
    if agreed < _LAST_WORDS or last_words not in prompt[-agreed:]:
        raise UnservableError(
            f"the chat template ends its prompt with {prompt[-_LAST_WORDS:]!r} and does not show "
            "it before a finished reply",
            advice="use the chat template that belongs to the base model; of one that opens a "
            "thought for the model, nothing can be learned",
        )
    return beginning


def _num_agreed(a: str, b: str) -> int:
    """Characters that two texts end with in common."""
    return next(
        (i for i, (c, d) in enumerate(zip(reversed(a), reversed(b), strict=False)) if c != d),
        min(len(a), len(b)),
    )


def _see_that_it_says(reply: str, message: dict[str, Any]) -> None:
    """A template may drop what it has no form for; the model would learn to say nothing."""
    for call in message.get("tool_calls") or ():
        if (name := call["function"]["name"]) not in reply:
            raise UnservableError(
                f"the chat template does not show the call of {name}: it has no form for tool "
                "calls",
                advice="choose a base model whose chat template knows tools",
            )
    said = message.get("content") or ""
    texts = [said] if isinstance(said, str) else [part.get("text") or "" for part in said]
    for text in texts:
        if text.rpartition(_AFTER_THOUGHT)[2].strip() not in reply:
            raise UnservableError(
                "the chat template does not show the text of the reply",
                advice="compare chat_template.jinja with the model's own on the hub",
            )
