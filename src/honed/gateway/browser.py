"""Keeps web pages away from the gateway: a browser on the same machine reaches it for any page that
asks, and llama-server would allow every page to read the answers.

Programs send no Origin and are not touched. A page that had its name resolved to this machine (DNS
rebinding) needs no Origin to read, but its Host is the name of the page.
"""

import re
from typing import Final

from honed.config.values import is_loopback
from honed.gateway.refusal import Refused
from honed.gateway.upstream import Headers

_LOCAL_ORIGIN: Final = re.compile(rb"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_PORT: Final = re.compile(rb":[0-9]*\Z")
_LOCAL_HOSTS: Final = (b"127.0.0.1", b"localhost", b"[::1]")


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
