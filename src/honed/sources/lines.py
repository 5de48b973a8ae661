"""Chunks of bytes from a stream, cut into lines."""


class LineTooLongError(Exception):
    """A line is longer than the limit, or has no end within it."""


class LineCutter:
    """Cuts a stream into lines at newlines and keeps what has no end yet."""

    def __init__(self, line_max: int) -> None:
        self._line_max = line_max
        self._rest = b""
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            LineTooLongError: the lines before the long one can still be taken.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n") if self._rest else chunk.split(b"\n")
        for line in lines:
            if len(line) > self._line_max:
                raise LineTooLongError
            if line and not line.isspace():
                self._lines.append(line)
        if len(self._rest) > self._line_max:
            raise LineTooLongError

    def take(self) -> list[bytes]:
        """The whole lines since the last call, without their newline."""
        lines, self._lines = self._lines, []
        return lines

    @property
    def has_half_line(self) -> bool:
        """Whether bytes wait for their newline."""
        return bool(self._rest.strip())
