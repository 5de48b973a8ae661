"""Conversations to rows of tokens, with labels on the agent's own tokens alone.

Why not TRL's `assistant_only_loss`: it needs `{% generation %}` markers, which most published
templates lack, cannot leave out single turns, and takes every turn from one rendering of the whole
conversation. Templates such as Qwen3's render a past turn otherwise than the turn that is being
answered (they drop `<think>` blocks), so a model would be trained on text that it never produces.
Here each turn is taken from the rendering in which it is the last one, which is the text that the
server sees and the model writes; turns that one rendering shows alike share a row.

Legend: T tokens of a row, labels -100 where a token does not count.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from honed.errors import TrainingError

IGNORED: Final = -100
"""The label of a token that does not count (torch's `ignore_index`)."""

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one rendering, and which of them count."""

    input_ids: Ids
    labels: Ids
    """As long as `input_ids`; the token itself where it counts, else -100."""
    example: int = 0
    """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens that count; the first of a row is predicted from nothing and never does."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a data file, in the form that chat templates take."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    trained_turns: frozenset[int] | None = None
    """Indexes of the assistant turns that count; None means all."""

    @property
    def targets(self) -> list[int]:
        """Indexes of the turns to learn from. A turn that opens the conversation answers nothing
        and is not one.
        """
        return [
            i
            for i, message in enumerate(self.messages)
            if i > 0
            and message["role"] == "assistant"
            and (self.trained_turns is None or i in self.trained_turns)
        ]


def read_examples(path: Path) -> list[Example]:
    """The conversations of a JSON lines file `{"messages": [...], "tools": [...], "trained_turns":
    [...]}`.

    Raises:
        TrainingError: a line cannot be read; the message has its number.
    """
    examples = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                examples.append(_example(line, f"{path}:{number}"))
    except OSError as error:
        raise TrainingError(f"training file {path} cannot be read: {error.strerror}") from error
    return examples


def _example(line: str, where: str) -> Example:
    try:
        data = json.loads(line)
        messages = [served_message(message) for message in data["messages"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{where} is not a conversation: {type(error).__name__}: {error}",
            advice='each line is an object with "messages": turns with "role" and "content"',
        ) from error
    turns = data.get("trained_turns")
    return Example(messages, data.get("tools") or None, None if turns is None else frozenset(turns))


def served_message(message: dict[str, Any]) -> dict[str, Any]:
    """A turn as llama-server hands it to the template.

    Parts of text are joined, null is the empty text, `developer` is the `system` it stands for, and
    the arguments of tool calls are objects: the server parses the JSON text that clients send (seen
    with `/apply-template`), and a model that was trained on the text as it came would be asked with
    another one.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    turn = message | {"role": role, "content": content or ""}
    if calls := message.get("tool_calls"):
        turn["tool_calls"] = [_tool_call(call) for call in calls]
    return {key: value for key, value in turn.items() if value is not None}


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    return call | {"function": function | {"arguments": arguments}}


def rows_of(examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[Row]:
    """Tokenise conversations, cut at `max_length`; rows without a token to learn from are left out.

    Raises:
        TrainingError: the chat template refuses a conversation, or renders a reply apart from its
            prompt.
    """
    rows = []
    for number, example in enumerate(examples):
        for text, spans in renderings(example, tokenizer):
            ids, labels = tokenised(text, spans, tokenizer)
            row = Row(ids[:max_length], labels[:max_length], number)
            if row.num_targets:
                rows.append(row)
    return rows


Span = tuple[int, int]


def renderings(example: Example, tokenizer: Any) -> Iterator[tuple[str, list[Span]]]:
    """The texts that together show every target turn as the model would write it, each with the
    turns' spans.

    A template that renders past turns as it rendered the present one gives one text.
    """
    render = _renderer(example, tokenizer)
    found: list[tuple[str, list[Span]]] = []
    for i in reversed(example.targets):
        prompt, answered = render(i, True), render(i + 1, False)
        if not answered.startswith(prompt):
            raise TrainingError(
                f"the chat template renders turn {i} apart from its generation prompt: "
                f"expected the text to begin with {prompt[-40:]!r}",
                advice="use the chat template that belongs to the base model",
            )
        span = (len(prompt), len(answered))
        home = next((spans for text, spans in found if text.startswith(answered)), None)
        if home is None:
            found.append((answered, [span]))
        else:
            home.append(span)
    for text, spans in reversed(found):
        yield text, spans[::-1]


def _renderer(example: Example, tokenizer: Any) -> Callable[[int, bool], str]:
    def render(num_turns: int, add_generation_prompt: bool) -> str:
        try:
            text: str = tokenizer.apply_chat_template(
                example.messages[:num_turns],
                tools=example.tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (
            Exception
        ) as error:  # jinja2 and the template's own raise_exception share no base class
            raise TrainingError(
                f"the chat template cannot render a conversation of {num_turns} turns: {error}",
                advice="compare the chat template with the roles and tool calls in the data",
            ) from error
        return text

    return render


def tokenised(text: str, spans: Sequence[Span], tokenizer: Any) -> tuple[Ids, Ids]:
    """The tokens of a text and their labels: the tokens inside `spans` count.

    The text is tokenised whole, as a server does it. A token across the beginning of a span belongs
    to the prompt. Text after the last special token of a span (ChatML's newline) is the template's
    and does not count.
    """
    cuts = [0, *(cut for span in spans for cut in span), len(text)]
    whole = _encode(tokenizer, text)
    pieces = [_encode(tokenizer, text[a:b]) for a, b in pairwise(cuts)]
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    if [token for piece in pieces for token in piece] != whole:
        # A token lies across a cut, or the tokenizer marks the beginning of a text: count along the
        # prefixes.
        ends = [
            _cut(_encode(tokenizer, text[:at]), whole, after=i % 2 == 1)
            for i, at in enumerate(cuts)
        ]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    labels = [IGNORED] * len(whole)
    for start, end in zip(ends[1::2], ends[2::2], strict=False):
        end = _without_glue(whole, start, end, special, tokenizer)
        labels[start:end] = whole[start:end]
    return whole, labels


def _without_glue(ids: Ids, start: int, end: int, special: set[int], tokenizer: Any) -> int:
    last = next((i for i in range(end - 1, start - 1, -1) if ids[i] in special), None)
    if last is None or tokenizer.decode(ids[last + 1 : end]).strip():
        return end
    return last + 1


def _encode(tokenizer: Any, text: str) -> Ids:
    ids: Ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _cut(prefix: Ids, whole: Ids, *, after: bool) -> int:
    """Where the tokens of a prefix end in the whole; a token across the cut counts to the prefix if
    `after`.
    """
    same = next((i for i, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), None)
    if same is None:
        return min(len(prefix), len(whole))
    return same + 1 if after else same
