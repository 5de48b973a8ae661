"""The forms of rows that `honed import` reads: one table, tried from top to bottom.

A form fits a row that has all of its keys. Several may fit (a preference row may also carry
`messages`); the first one in the table counts. Nothing is guessed beyond that: what a form cannot
take over whole is refused with the reason.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from honed.training_sets.formats.alpaca import read_alpaca
from honed.training_sets.formats.openai import read_flywheel, read_messages, read_tau_bench
from honed.training_sets.formats.own import StoredEpisode, format_episode, read_episode
from honed.training_sets.formats.sharegpt import read_sharegpt
from honed.training_sets.formats.trl import read_labelled, read_preference, read_prompt_completion
from honed.training_sets.trajectories import Trajectory

__all__ = ["FORMATS", "Format", "StoredEpisode", "format_episode", "format_of"]

Read = Callable[[bytes], list[Trajectory] | StoredEpisode]


class Format(NamedTuple):
    """A form of rows."""

    name: str
    keys: frozenset[str]
    """Keys that a row of this form has."""
    read: Read
    """What the row says; raises ValueError or msgspec.DecodeError with the reason."""


def _form(name: str, keys: str, read: Read) -> Format:
    return Format(name, frozenset(keys.split()), read)


FORMATS: Final = {
    form.name: form
    for form in (
        _form("honed", "honed episode", read_episode),
        _form("tau-bench", "traj", read_tau_bench),
        _form("flywheel", "request response", read_flywheel),
        _form("preference", "chosen rejected", read_preference),
        _form("labelled", "prompt completion label", read_labelled),
        _form("prompt-completion", "prompt completion", read_prompt_completion),
        _form("sharegpt", "conversations", read_sharegpt),
        _form("sft", "messages", read_messages),
        _form("alpaca", "instruction output", read_alpaca),
    )
}
"""By name, in the order in which they are tried."""

_keys: Final = msgspec.json.Decoder(dict[str, Raw])
_MEDIA: Final = ("image", "images", "video", "videos", "audio", "audios")
_NOTHING: Final = (b"", b"null", b"[]", b'""')


def format_of(text: bytes, given: Format | None = None) -> Format:
    """The form of a row: the given one, else by its keys.

    Raises:
        ValueError: none fits, or the row carries pictures, films or sounds.
    """
    row = _keys.decode(text)
    if media := next((key for key in _MEDIA if bytes(row.get(key, Raw())) not in _NOTHING), None):
        raise ValueError(f"$.{media} cannot be kept: expected text alone")
    if given is not None:
        return given
    for form in FORMATS.values():
        if form.keys <= row.keys():
            return form
    found = ", ".join(sorted(row)[:8]) or "none"
    raise ValueError(f"no known form has the keys of this row: {found}")
