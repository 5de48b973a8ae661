"""Alpaca rows: `{"instruction", "input"?, "output", "system"?, "history"?}`."""

from typing import Final

import msgspec
from msgspec import Struct

from honed.domain.message import Message
from honed.training_sets.formats.turns import require_answers
from honed.training_sets.trajectories import Trajectory, opening_group


class _Row(Struct):
    instruction: str
    output: str
    input: str | None = None
    system: str | None = None
    history: tuple[tuple[str, str], ...] | None = None


_row: Final = msgspec.json.Decoder(_Row)


def read_alpaca(text: bytes) -> list[Trajectory]:
    """One attempt without an outcome; the input follows the instruction on a line of its own."""
    row = _row.decode(text)
    asked = "\n".join(part for part in (row.instruction, row.input) if part)
    if not asked.strip():
        raise ValueError("$.instruction and $.input are empty: nothing is asked")
    turns = [Message(role="system", content=row.system)] if row.system else []
    for question, answer in (*(row.history or ()), (asked, row.output)):
        turns.append(Message(role="user", content=question))
        turns.append(Message(role="assistant", content=answer))
    messages = tuple(turns)
    require_answers(messages, "$")
    return [Trajectory(messages=messages, group_id=opening_group(messages, None))]
