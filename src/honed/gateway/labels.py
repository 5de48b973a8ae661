"""What a client says about a call, wherever it can say it: in `x-honed-*` headers, in the path of the
URL (`/r/task/42/v1/...`), or in the `metadata` of an OpenAI body (`honed_task`).

The first of these wins. All are read: a value that cannot be is refused wherever it stands, because
dropped in silence it would turn evaluation traffic into something to learn from.
"""

import re
from typing import Any, Final, Literal
from urllib.parse import unquote, unquote_to_bytes

from msgspec import Struct

from honed.gateway.refusal import Refused
from honed.gateway.upstream import Headers

PREFIX: Final = b"x-honed-"
"""What the names of our headers begin with."""
LABELLED: Final = b"/r/"
"""What a path with labels begins with."""

_ATTRIBUTES: Final = {
    "task": "task_id",
    "group": "group_id",
    "session": "session_id",
    "agent": "agent",
    "role": "role",
    "user": "user",
    "worker": "worker_id",
    "purpose": "purpose",
    "train": "train",
    "scenario": "scenario",
}
"""Names of labels, and of the attributes that they become."""
_BY_HEADER: Final = {name.encode(): name for name in _ATTRIBUTES}
_METADATA: Final = "honed_"
_EXPECTED: Final = {
    "worker": "a number from 0 to 65535",
    "purpose": "work, evaluation or probe",
    "train": "true or false",
}
TEXT_MAX: Final = 500
"""Characters of a label; longer ids could not be stored on PostgreSQL."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What no name has on purpose: it would be stored, shown on terminals, and NUL not even be stored everywhere."""
_SHOWN: Final = 40
"""Characters of a bad value that are told."""
_PURPOSES: Final = ("work", "evaluation", "probe")
_TRUTHS: Final = {"true": True, "false": False}

Said = dict[str, Any]
"""What one place says, by attribute of `Labels`."""
NOTHING: Final[Said] = {}


class Labels(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client says about a call, under the names of the event's envelope."""

    task_id: str | None = None
    group_id: str | None = None
    session_id: str | None = None
    agent: str | None = None
    role: str | None = None
    user: str | None = None
    worker_id: int | None = None
    purpose: Literal["work", "evaluation", "probe"] = "work"
    train: bool = True
    scenario: str | None = None
    """Who should answer, whatever `model` says; an event has it from the lane that took the call."""
    tags: dict[str, str] = {}
    """Of the gateway's own making; no client sets them."""


_NO_LABELS: Final = Labels()


def read_labels(headers: Headers, in_path: Said, in_metadata: Said) -> Labels:
    """The call's labels: those of its headers, completed by those of its path and its metadata.

    Raises:
        Refused: a header has an impossible value. Labels that nobody knows are ignored: the client may be
            newer than we are.
    """
    found = in_metadata | in_path if in_metadata or in_path else None
    for name, value in headers:
        if name.startswith(PREFIX) and (label := _BY_HEADER.get(name[len(PREFIX) :])):
            text = _header_text(value).strip()
            found = (found or {}) | _read(label, text, f"header x-honed-{label}")
    return Labels(**found) if found else _NO_LABELS


def read_path(raw_path: bytes) -> tuple[bytes, Said]:
    """A path that begins with `/r/`: what follows its labels, and what they say.

    Labels are pairs of name and value; the first segment that should be a name and is none begins the
    path that is passed on.

    Raises:
        Refused: a value is missing, impossible or given twice, or a name is none.
    """
    segments = raw_path[len(LABELLED) :].split(b"/")
    said: Said = {}
    at = 0
    while (label := _BY_HEADER.get(segments[at])) and at + 1 < len(segments):
        text = _text_of(segments[at + 1])
        if segments[at + 1] == b"v1":
            raise _bad(f"/r/{label}/v1: the label has no value")
        told = _read(label, text, f"/r/{label}")
        if told.keys() & said.keys():
            raise _bad(f"/r/{label}/{text}: the path has this label twice")
        said |= told
        at += 2
        if at == len(segments):
            return b"/", said
    if b"v1" in segments[at + 1 :]:
        names = ", ".join(_ATTRIBUTES)
        raise _bad(f"/r/{_text_of(segments[at])}: no label is called so; there are: {names}")
    return b"/" + b"/".join(segments[at:]), said


def read_metadata(metadata: object) -> Said:
    """What the `metadata` of a body, decoded, says to us; the rest of it is the caller's own.

    Raises:
        Refused: a label of ours has an impossible value.
    """
    said: Said = {}
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            label = key.removeprefix(_METADATA)
            if key.startswith(_METADATA) and label in _ATTRIBUTES and value is not None:
                where = f"metadata.{key}"
                said |= _read(label, _as_text(value, where), where)
    return said


def _header_text(value: bytes) -> str:
    """A header's value: in UTF-8, as paths and bodies have it and most clients send it, else in Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _as_text(value: object, where: str) -> str:
    """A value as a header would have it: OpenAI's metadata are texts, but `false` and 3 are clear as well."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case _:
            raise _bad(f"{where} is no text")


def _text_of(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise _bad(f"/r/: {unquote(segment)} is not UTF-8") from None


def _read(label: str, text: str, where: str) -> Said:
    """What a label says; a text that is empty says nothing, as a variable that is not set."""
    attribute = _ATTRIBUTES[label]
    match label:
        case "worker" if text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF:
            return {attribute: int(text)}
        case "purpose" if text in _PURPOSES:
            return {attribute: text}
        case "train" if text.lower() in _TRUTHS:
            return {attribute: _TRUTHS[text.lower()]}
        case "worker" | "purpose" | "train":
            raise _bad(f"{where} is {_shown(text)}; expected {_EXPECTED[label]}")
        case _ if len(text) > TEXT_MAX or not (text.isprintable() or not _CONTROL.search(text)):
            raise _bad(
                f"{where} is {_shown(text)}; expected {TEXT_MAX} characters at most, and no control characters"
            )
        case _:
            return {attribute: text} if text else {}


def _shown(text: str) -> str:
    """A value that is wrong, in as many signs as help."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _bad(message: str) -> Refused:
    return Refused(400, "invalid_label", message)
