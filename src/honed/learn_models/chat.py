"""Learns conversations: the turns of an agent in the attempts that went well."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from honed.domain.episode import Episode
from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome, Unknown
from honed.domain.outcome import score as score_of
from honed.domain.records import ActionRecord, Arrival, LlmCallRecord, Record
from honed.domain.training_data import ChatExample, TrainingMetadata
from honed.errors import LearnError, ValidationError
from honed.learn_models import attempt
from honed.learn_models.conversation import Assembly, assemble
from honed.learn_models.correction import correction
from honed.learn_models.learn_model import LearnModelMixin, LeftOut
from honed.learn_models.worker_rows import cannot_teach

NOTHING_TO_IMITATE: Final = "no conversation of it has a turn to imitate"
NOT_TEXT: Final = "a turn is not text, or says nothing"

_GROUPED: Final = attempt.CALLS + attempt.ACTIONS + attempt.OUTCOMES


class ChatLearnModel(LearnModelMixin):
    """The learn model `chat`.

    A group is a task, else a session, else one call by itself. An episode's example is its longest
    conversation; the loss counts on the assistant's own turns. Tool results are never imitated, nor
    is what untrusted or unwilling (`train: false`) senders or evaluations brought in.
    """

    name = "chat"
    objective = "answer as the agents did in the conversations that went well"

    def group_key(self, arrival: Arrival) -> str | None:
        """Task, else session, else the call; an outcome that names only a receipt finds its call.

        Evaluations and probes are stored, but they are no attempts: nothing is learned from them, and no trigger counts
        them.
        """
        if not isinstance(arrival, _GROUPED):
            return None
        if arrival.purpose != "work":
            return None
        if arrival.task_id:
            return attempt.task_key(arrival.task_id)
        if arrival.session_id:
            return f"session:{arrival.session_id}"
        if not isinstance(arrival, attempt.ACTIONS) and arrival.receipt_id:
            return f"receipt:{arrival.receipt_id}"
        if not isinstance(arrival, attempt.CALLS):
            return None
        return attempt.own_key(arrival)

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        """One episode, unless the group holds no call and no action, or may still go on."""
        if not any(isinstance(record, (LlmCallRecord, ActionRecord)) for record in records):
            return []
        if not final and not self.is_complete(records):
            return []
        return [self.episode(records, now_ms=now_ms)]

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """The newest outcome that was told, else what `done` says, else Unknown."""
        return attempt.verdict(records) or Unknown()

    def assemble(self, episode: Episode) -> Assembly:
        """The conversations of an episode and why there is more than one."""
        return assemble(episode.records_of(LlmCallRecord))

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        """The conversation up to a corrected answer, else the longest with a turn to imitate.

        Raises:
            LearnError: no call came back, none may be imitated, or a turn is not text.
        """
        corrected = correction(episode)
        assembly = self.assemble(episode)
        conversation = corrected.conversation if corrected else assembly.longest
        if conversation is None:
            found = len(assembly.conversations)
            raise cannot_teach(
                episode,
                NOTHING_TO_IMITATE,
                f"{found} conversations, {assembly.num_failed} calls failed",
            )
        messages = conversation.messages
        assistant = tuple(i for i, turn in enumerate(messages) if turn.role == "assistant")
        trained = conversation.trained_turns
        try:
            return ChatExample(
                messages=tuple(_only_text(i, message) for i, message in enumerate(messages)),
                tools=conversation.tools,
                trained_turns=None if trained == assistant else trained,
                metadata=TrainingMetadata(
                    episode_id=episode.id,
                    outcome=episode.outcome,
                    outcome_score=score_of(episode.outcome),
                    model=episode.records_of(LlmCallRecord)[-1].model or None,
                    adapter_id=episode.metadata.adapter_id,
                    demonstrated_by=corrected.given_by if corrected else None,
                    group=episode.split_key,
                ),
            )
        except ValidationError as error:
            raise LearnError(
                f"episode {episode.id} cannot teach: {error}",
                episode_id=episode.id,
                reason=NOT_TEXT,
            ) from None

    def extractor(
        self, available_actions: Sequence[str] = ()
    ) -> Callable[
        [Episode], tuple[tuple[Message, ...], tuple[Message, ...], tuple[Tool, ...] | None] | None
    ]:
        """What `dpo` compares: the turns before the first one to imitate, and those from it on."""
        return self._asked_and_answered

    def forks(self, episode: Episode) -> Mapping[str, int]:
        """Conversations besides the first one, by why they are no part of another."""
        return self.assemble(episode).forks

    def _asked_and_answered(
        self, episode: Episode
    ) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Tool, ...] | None] | None:
        """The longest conversation as it was, uncorrected; None where a later turn may not be imitated."""
        longest = self.assemble(episode).longest
        if longest is None:
            return None
        messages, trained = longest.messages, longest.trained_turns
        answers = [
            i for i, turn in enumerate(messages) if i >= trained[0] and turn.role == "assistant"
        ]
        if answers != list(trained) or any(not _is_text(turn) for turn in messages):
            return None
        return messages[: trained[0]], messages[trained[0] :], longest.tools

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """Turns that may not be imitated, calls that failed, and all but the longest conversation."""
        assembly = self.assemble(episode)
        corrected = correction(episode)
        longest = corrected.conversation if corrected else assembly.longest
        found = [
            LeftOut(f"turn {i}", turn.reason, i)
            for i, turn in enumerate(longest.turns if longest else ())
            if turn.reason is not None and turn.message.role == "assistant"
        ]
        if corrected:
            what = f"conversations: {len(assembly.conversations)}"
            return [*found, LeftOut(what, f"an answer was corrected by {corrected.given_by}")]
        for number, conversation in enumerate(assembly.conversations, 1):
            if conversation is not longest:
                what = f"conversation {number}, {len(conversation.turns)} turns"
                found.append(LeftOut(what, "the longest conversation of an attempt is learned"))
        if assembly.num_failed:
            found.append(LeftOut(f"calls: {assembly.num_failed}", "they failed or came back empty"))
        return found


def _is_text(message: Message) -> bool:
    parts = message.content if isinstance(message.content, tuple) else ()
    return all(part.type == "text" for part in parts)


def _only_text(index: int, message: Message) -> Message:
    """The message, its text parts as they are: how they are joined is the chat template's affair."""
    parts = message.content if isinstance(message.content, tuple) else ()
    if kinds := sorted({part.type for part in parts if part.type != "text"}):
        raise ValidationError(
            f"turn {index} ({message.role}) has content of type {', '.join(kinds)}: expected text",
            path=f"$.messages[{index}].content",
        )
    return message
