"""Keeps web pages away from the gateway: a browser on the same machine reaches it for any page that
asks, and llama-server would allow every page to read the answers.

Programs send no Origin and are not touched. A page that had its name resolved to this machine (DNS
rebinding) needs no Origin to read, but its Host is the name of the page.

A browser asks before it sends a page's request with a key (the preflight of the Fetch standard: OPTIONS, without the
key). That is answered here, for pages of this machine; what it then sends is judged like everything else.
"""

import re
from typing import Final

from honed.config.values import is_loopback
from honed.gateway.refusal import Refused
from honed.gateway.upstream import Headers

_LOCAL_ORIGIN: Final = re.compile(rb"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_TOKENS: Final = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*"
)
_ASKS: Final = (b"access-control-request-method", b"access-control-request-headers")
_PREFLIGHT_S: Final = 600
"""How long a browser may remember the answer."""
_READABLE: Final = b"x-honed-receipt, x-honed-model, retry-after"
_PORT: Final = re.compile(rb":[0-9]*\Z")
_LOCAL_HOSTS: Final = (b"127.0.0.1", b"localhost", b"[::1]")


def readable(headers: Headers) -> Headers:
    """What lets the page of this machine that asked read an answer of the gateway's own; nothing for programs, and for
    pages of other places.
    """
    origin = _value_of(b"origin", headers)
    if origin is None or not _LOCAL_ORIGIN.fullmatch(origin):
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _READABLE),
        (b"vary", b"origin"),
    ]


def readable_too(answer: Headers, asked_with: Headers) -> Headers:
    """A server's answer, readable by the page that asked also where the server does not say so, receipt and all."""
    said = {name for name, _ in answer}
    return answer + [header for header in readable(asked_with) if header[0] not in said]


def preflight(method: str, headers: Headers) -> Headers | None:
    """The answer's headers to a browser that asks whether a page may send what it wants to; None for anything else.
    The guard has judged it before.
    """
    wanted, names = (_value_of(name, headers) for name in _ASKS)
    permission = readable(headers)
    if method != "OPTIONS" or wanted is None or not permission:
        return None
    allowed = [(b"methods", wanted), (b"headers", names)]
    return [
        *permission,
        *(
            (b"access-control-allow-" + what, value)  # named, because * does not stand for keys
            for what, value in allowed
            if value and _TOKENS.fullmatch(value)
        ),
        (b"access-control-max-age", b"%d" % _PREFLIGHT_S),
    ]


def _value_of(name: bytes, headers: Headers) -> bytes | None:
    return next((value for each, value in headers if each == name), None)


class BrowserGuard:
    """Refuses what comes from pages of other places."""

    def __init__(self, host: str | None = None) -> None:
        """
        Args:
            host: where the gateway listens (`serve.host`). Only for a loopback address are Host
                headers checked: others are reached under names that are not known here.
        """
        self._hosts: frozenset[bytes] | None = None
        if host is not None and is_loopback(host.lower()):
            own = f"[{host}]" if ":" in host else host
            self._hosts = frozenset((*_LOCAL_HOSTS, own.lower().encode()))

    def check(self, headers: Headers, *, over: tuple[str, int | None] | None) -> None:
        """See that no page of another place asks.

        Args:
            headers: of the request.
            over: the socket's address, as ASGI tells it; one without a port is a unix socket, which no browser
                reaches under a name.

        Raises:
            Refused: the Origin is not this machine's, or the Host is none of its names.
        """
        hosts = None if over is not None and over[1] is None else self._hosts
        for name, value in headers:
            if name == b"origin" and not _LOCAL_ORIGIN.fullmatch(value):
                origin = value.decode("latin-1")
                raise Refused(
                    403,
                    "foreign_origin",
                    f"web pages of {origin} may not use the gateway; only those of this machine may "
                    "(http://localhost, http://127.0.0.1)",
                    closes=True,
                )
            if name == b"host" and hosts is not None:
                host = _PORT.sub(b"", value).lower()
                if host not in hosts:
                    raise Refused(
                        403,
                        "foreign_host",
                        f"the gateway listens for this machine alone and is not called "
                        f"{host.decode('latin-1')}; use localhost, or set serve.host",
                        closes=True,
                    )
