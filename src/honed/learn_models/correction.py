"""The conversation up to an answer that somebody corrected, with the better answer in its place.

What came after the corrected answer answered the old one, so it is left out. The better answer is
learned. The turns before it are learned only when the attempt is a success: a correction says nothing
about them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from honed.domain.episode import Episode
from honed.domain.message import Message
from honed.domain.outcome import is_success
from honed.domain.records import LlmCallRecord, OutcomeRecord
from honed.learn_models.conversation import Conversation, Turn, answer_of, assemble, key_of, sent_by

CORRECTED: Final = "a better answer was given for it"
NOT_JUDGED: Final = "only the corrected answer is learned, for the attempt is no success"


class Correction(NamedTuple):
    """What is learned of an attempt that was corrected."""

    conversation: Conversation
    """Ends with the better answer."""
    given_by: str
    """Who gave it: the source, with its version."""
    original: Message | None
    """The answer that it corrects; None when that call brought none, or its sender is not trusted."""


def correction(episode: Episode) -> Correction | None:
    """The correction of the latest call that has one, the newest of it; None without one.

    A demonstration that names no call is about the last one of the attempt. One that names a call which
    is not the episode's is about nothing here.
    """
    calls = [call for call in episode.records_of(LlmCallRecord) if sent_by(call)]
    told = _by_call(calls, episode.demonstrations)
    if not told:
        return None
    latest = max(told)
    better = told[latest].corrected
    assert better is not None
    replaced = msgspec.structs.replace(calls[latest], response_message=better, error=None)
    assembly = assemble([*calls[:latest], replaced])
    end = key_of(better)
    ending = [c for c in assembly.conversations if key_of(c.turns[-1].message) == end]
    conversation = ending[-1]
    replaced_turns = [key_of(answer_of(calls[i])) for i in told if i != latest]
    succeeded = is_success(episode.outcome)
    turns = [_before(turn, succeeded, replaced_turns) for turn in conversation.turns[:-1]]
    corrected = calls[latest]
    return Correction(
        Conversation((*turns, Turn(better, True)), conversation.tools),
        _who(told[latest]),
        answer_of(corrected) if corrected.is_success and corrected.trust == "trusted" else None,
    )


def _by_call(
    calls: Sequence[LlmCallRecord], demonstrations: Sequence[OutcomeRecord]
) -> dict[int, OutcomeRecord]:
    """The newest demonstration of each call that has one, by the call's index."""
    told: dict[int, OutcomeRecord] = {}
    names = (
        (name, i) for i, call in enumerate(calls) for name in (call.response_id, call.receipt_id)
    )
    receipts = {name: i for name, i in names if name}
    for record in demonstrations if calls else ():
        index = receipts.get(record.receipt_id) if record.receipt_id else len(calls) - 1
        if index is not None:
            told[index] = record
    return told


def _before(turn: Turn, succeeded: bool, replaced: Sequence[object]) -> Turn:
    if not turn.is_trained:
        return turn
    if not succeeded:
        return Turn(turn.message, False, NOT_JUDGED)
    return Turn(turn.message, False, CORRECTED) if key_of(turn.message) in replaced else turn


def _who(record: OutcomeRecord) -> str:
    source = record.source or "somebody"
    return f"{source} ({record.version})" if record.version else source
