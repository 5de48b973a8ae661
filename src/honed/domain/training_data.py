"""Training data: one example each, in TRL's shapes (trl docs/source/dataset_formats.md)."""

from msgspec import Struct

from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome
from honed.errors import ValidationError


class TrainingMetadata(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an example comes from; line n of the metadata file belongs to line n of the data file."""

    episode_id: str | None = None
    rejected_episode_id: str | None = None
    outcome: Outcome | None = None
    outcome_score: float | None = None
    model: str | None = None
    adapter_id: str | None = None
    demonstrated_by: str | None = None
    """Who gave the answer that is learned; None when it is the agent's own."""
    near_duplicate_of: str | None = None
    """The episode of another row of the same file that says nearly the same; None when there is none."""
    group: str | None = None
    """The key that keeps attempts at one task on one side of every split."""


class ChatExample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation to imitate; the loss counts on the assistant's own turns."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None = None
    trained_turns: tuple[int, ...] | None = None
    """Indexes into `messages` of the assistant turns that count; None means all of them."""
    metadata: TrainingMetadata = TrainingMetadata()

    def __post_init__(self) -> None:
        _check_turns("messages", self.messages)
        if not any(message.role == "assistant" for message in self.messages):
            raise ValidationError(
                f"a conversation of {len(self.messages)} turns has no assistant turn to learn from",
                path="$.messages",
            )


class PreferencePair(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two answers to one prompt, the first better than the second."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Tool, ...] | None = None
    metadata: TrainingMetadata = TrainingMetadata()

    def __post_init__(self) -> None:
        _check_turns("prompt", self.prompt)
        _check_turns("chosen", self.chosen)
        _check_turns("rejected", self.rejected)


class LabelledExample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer to a prompt, marked good or bad."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    label: bool
    tools: tuple[Tool, ...] | None = None
    metadata: TrainingMetadata = TrainingMetadata()

    def __post_init__(self) -> None:
        _check_turns("prompt", self.prompt)
        _check_turns("completion", self.completion)


TrainingData = ChatExample | PreferencePair | LabelledExample


def sft(system: str, prompt: str, response: str) -> ChatExample:
    """A conversation of one question and one answer; without system text there is no system turn."""
    head = (Message(role="system", content=system),) if system else ()
    return ChatExample(
        messages=(
            *head,
            Message(role="user", content=prompt),
            Message(role="assistant", content=response),
        )
    )


def sft_simple(prompt: str, response: str) -> ChatExample:
    """A question and its answer, without a system turn."""
    return sft("", prompt, response)


def dpo_with_system(system: str, prompt: str, chosen: str, rejected: str) -> PreferencePair:
    """A pair of answers as text, with a system turn."""
    head = (Message(role="system", content=system),) if system else ()
    return PreferencePair(
        prompt=(*head, Message(role="user", content=prompt)),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
    )


def dpo(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    """A pair of answers as text."""
    return dpo_with_system("", prompt, chosen, rejected)


def _check_turns(name: str, messages: tuple[Message, ...]) -> None:
    if not messages:
        raise ValidationError(f"{name} is empty: expected at least one turn", path=f"$.{name}")
    for i, message in enumerate(messages):
        if message.is_empty and message.role not in ("tool", "user"):
            raise ValidationError(
                f"turn {i} of {name} ({message.role}) has neither content nor a tool call",
                path=f"$.{name}[{i}]",
            )
