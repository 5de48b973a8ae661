"""Which episodes no training ever sees: a keyed hash of group, task or episode, the same for ever.

The hash decides before an episode's outcome is known and whatever else is stored, so the split
neither leaks nor moves when data come in. Its key is a secret of the data folder, so that whoever
names tasks cannot choose their side.

The first training that looks at an attempt settles the side of its names, its group and its task, for ever:
another fraction, another group for the same task, another learn model change nothing for what was held out or
learned from. What is remembered are keyed digests of the names, which outlive the episodes; and, of what is held out,
keyed hashes of the text (`keyed_texts`), so that it is known again under any other name.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from honed.domain.episode import Episode
from honed.errors import LearnError, StoreError
from honed.learn_models import LearnModel, convert
from honed.ports import Lessons
from honed.training_sets.keyed_texts import KeyedTexts
from honed.training_sets.near_duplicates import is_available, said, sketch

SECRET_BYTES: Final = 32

Side = Literal["training", "held out", "both"]
"""`both`: one of its names was learned from and another one is held out, so it may be used for neither."""


class HeldOutSplit:
    """Says for each split key whether its episodes are held out.

    Args:
        secret: key of the hash, at most 64 bytes.
        fraction: share of the keys that is held out, 0..1.
    """

    def __init__(self, secret: bytes, fraction: float) -> None:
        self._secret = secret
        self.fraction = fraction
        """Share of the keys that is held out, 0..1."""
        self.texts = KeyedTexts(secret)
        """What is remembered of the texts that are held out."""

    def position(self, split_key: str) -> float:
        """Where the key falls, evenly spread over 0..1, 1 excluded."""
        # 53 bits, because a float holds no more: 64 could round up to 1.0
        return (int.from_bytes(self._hash(split_key)[:8], "big") >> 11) / (1 << 53)

    def is_held_out(self, split_key: str) -> bool:
        """Whether episodes with this key are kept from training, unless a training has settled their side."""
        return self.position(split_key) < self.fraction

    def names(self, episode: Episode) -> tuple[bytes, ...]:
        """Digests of the names under which its side is remembered: its group and its task, else its split key."""
        named = [
            f"{kind}\0{name}"
            for kind, name in (("group", episode.group_id), ("task", episode.task_id))
            if name is not None
        ]
        return tuple(self._hash(name)[8:24] for name in named or [f"key\0{episode.split_key}"])

    def side(self, episode: Episode, settled: Mapping[bytes, bool]) -> Side:
        """Where an episode belongs.

        Args:
            episode: any.
            settled: by name, whether it is held out, of names whose side a training has settled.
        """
        known = {settled[name] for name in self.names(episode) if name in settled}
        if len(known) == 2:
            return "both"
        is_held_out = known.pop() if known else self.is_held_out(episode.split_key)
        return "held out" if is_held_out else "training"

    async def hold_out(
        self, lessons: Lessons, learn_models: Iterable[LearnModel], episode: Episode
    ) -> None:
        """Hold out what another store has held out: its names, and what it says to its learn model."""
        for model in learn_models:
            if model.name != episode.learn_model:
                continue
            with contextlib.suppress(LearnError):  # it has no text that could be learned
                data = convert(model, episode)
                made = sketch(data) if is_available() else None
                await lessons.hold_out([self.texts.text(said(data), made)])
        await lessons.settle_sides(dict.fromkeys(self.names(episode), True))

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._secret).digest()


def load_or_make_secret(path: Path, *, may_make: bool = True) -> bytes:
    """The secret kept at `path`, readable by its owner alone; made on first use.

    Two processes that make it at once end up with the same one.

    Args:
        path: the file.
        may_make: False where records exist already. They were stored under a secret, and with
            another one the held-out split moves and events sent again become conflicts.

    Raises:
        StoreError: the file cannot be read or written, holds no secret, or is missing where it may
            not be made.
    """
    try:
        if not path.exists():
            if not may_make:
                raise StoreError(
                    f"secret {path} is missing: records were stored under it",
                    advice="restore it from a backup; with a new one the held-out split is another"
                    " and events that are sent again are refused as conflicts",
                )
            _publish(path, secrets.token_bytes(SECRET_BYTES))
        secret = path.read_bytes()
    except OSError as error:
        raise StoreError(f"secret {path} cannot be read or made: {error.strerror}") from error
    if len(secret) != SECRET_BYTES:
        raise StoreError(
            f"secret {path} has {len(secret)} bytes: expected {SECRET_BYTES}",
            advice="restore it from a backup; with a new one the held-out split is another",
        )
    return secret


def _publish(path: Path, secret: bytes) -> None:
    """Write aside, then link: unlike a rename, a link never replaces what another process made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
