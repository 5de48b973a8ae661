"""Keys that clients show, as OpenAI's clients do (`Authorization: Bearer KEY`) or as Anthropic's do
(`x-api-key: KEY`). They end at the gateway: no server and no event gets to see one.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from honed.config import read_secret
from honed.errors import ConfigError
from honed.gateway.refusal import Refused
from honed.gateway.upstream import Headers

CARRIERS: Final = frozenset((b"authorization", b"x-api-key"))
"""The headers that carry a key."""
_BEARER: Final = b"bearer "
_REMARK: Final = re.compile(r"(?:^|\s)#.*")


class ApiKeys:
    """Who may use the gateway. Holds no key, only digests: all of them are compared, each in constant time."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def load(cls, path: Path | None) -> Self | None:
        """The keys in a file, with those in the secret `api-keys`; None where neither is there.

        Keys stand apart by blanks or lines; a word that begins with `#` begins a remark, up to the line's end.

        Raises:
            ConfigError: the file or the secret cannot be read, or no key is in them.
        """
        secret = read_secret("api-keys")
        told = [each for each in (_text(path), secret) if each is not None]
        if not told:
            return None
        # else the words of a remark would be keys, and are easily guessed
        lines = [_REMARK.sub("", line) for each in told for line in each.splitlines()]
        keys = [key for line in lines for key in line.split()]
        if not keys:
            raise ConfigError(
                "serve.api_keys names no key: expected at least one",
                advice="take serve.api_keys out to let everybody in who reaches the gateway",
            )
        return cls(keys)

    def check(self, headers: Headers) -> None:
        """See that a key is shown; raises Refused (401) where it is not."""
        for name, value in headers:
            if name in CARRIERS and self._knows(_shown(name, value)):
                return
        raise Refused(
            401,
            "invalid_api_key",
            "this gateway asks for a key: `Authorization: Bearer KEY` or `x-api-key: KEY`",
            closes=True,
        )

    def _knows(self, key: bytes) -> bool:
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, each) for each in self._digests) > 0


def _shown(name: bytes, value: bytes) -> bytes:
    is_bearer = name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER
    return (value[len(_BEARER) :] if is_bearer else value).strip()


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.api_keys {path} cannot be read: {error}") from error


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
