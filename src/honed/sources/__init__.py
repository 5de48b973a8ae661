"""Where events come in: the unix socket. `docs/protocol.md` says what is spoken on it."""

from honed.sources.socket import SocketSource

__all__ = ["SocketSource"]
