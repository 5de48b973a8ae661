"""Events that wait on disk while the daemon is away.

A spool is a folder of segments: files of event lines, oldest first by name. A segment belongs to the
process that holds its lock; the segments of a process that has died are taken over by the next one
that looks. Nothing is marked as sent inside a segment: it is deleted whole when all of it has been
acknowledged, and what is sent twice after a crash the daemon knows by its id.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

SEGMENT_BYTES: Final = 4 << 20
"""A segment with more is closed, and the next one begun."""
_SUFFIX: Final = ".spool"
_BROKEN: Final = ".broken"


class SpoolFullError(Exception):
    """The spool holds as much as it may, or the disk is full; nothing of the batch was kept."""


class Segment:
    """One file of lines, locked by this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.is_sealed = False
        """Whether it is being sent, so that nothing may be added."""
        self._descriptor = descriptor
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        self.size = data.rfind(b"\n") + 1
        """Bytes that are whole lines."""
        self.num_lines = data.count(b"\n")
        self.rest = data[self.size :]
        """What a crash has left behind them: half a line."""

    @classmethod
    def make(cls, folder: Path) -> "Segment":
        """A new, empty segment; raises OSError."""
        name = f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(folder / name, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(folder / name, descriptor)

    @classmethod
    def take_over(cls, path: Path) -> "Segment | None":
        """A segment that nobody holds; None when somebody does, or it is gone."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return cls(path, descriptor)
        except OSError:
            pass
        os.close(descriptor)
        return None

    def append(self, lines: list[bytes], *, sync: bool) -> None:
        """Add lines, all of them or, raising OSError, none; with `sync` they outlive the machine."""
        data = b"".join(lines)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
            if sync:
                self.sync()
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)
        self.num_lines += len(lines)

    def sync(self) -> None:
        """Have on disk what was added. Raises OSError."""
        os.fdatasync(self._descriptor)

    def lines(self) -> list[bytes]:
        """The whole lines. Raises OSError."""
        data = os.pread(self._descriptor, self.size, 0)
        return [line + b"\n" for line in data.split(b"\n") if line]

    def close(self) -> None:
        """Let go of it; another process may take it over."""
        os.close(self._descriptor)

    def set_apart(self, damaged: bytes) -> None:
        """Keep what is no event in a file beside it, which nobody takes over. Raises OSError."""
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(self.path.with_suffix(_BROKEN), flags, 0o600)
        try:
            os.write(descriptor, damaged)
        finally:
            os.close(descriptor)

    def cut_rest(self) -> None:
        """Take half a line off its end. Raises OSError."""
        os.ftruncate(self._descriptor, self.size)
        self.rest = b""

    def set_aside(self) -> None:
        """It cannot be read: keep the file under a name that nobody takes over."""
        with contextlib.suppress(OSError):
            self.path.rename(self.path.with_suffix(_BROKEN))
        self.close()

    def delete(self) -> None:
        """All of it is acknowledged."""
        self.path.unlink(missing_ok=True)
        self.close()


class Spool:
    """The spool of one process in a folder that others may share.

    Args:
        folder: made when it is needed.
        max_bytes: what all segments in the folder may hold together.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segments: list[Segment] = []
        self.others_bytes = 0
        """Bytes of segments that belong to other processes, when it was looked last."""
        self.num_broken = 0
        """Segments and lines that could not be read and were set aside, in files with the suffix `.broken`."""
        self._is_synced = True

    @property
    def is_empty(self) -> bool:
        """Whether this process has nothing to send from here."""
        return not self._segments

    @property
    def size(self) -> int:
        """Bytes of this process's segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def since_ns(self) -> int | None:
        """When the oldest of what waits began to, Unix nanoseconds; None where nothing waits."""
        if not self._segments:
            return None
        begun, _, _ = self._segments[0].path.name.partition("-")
        return int(begun) if begun.isdecimal() else None

    @property
    def num_lines(self) -> int:
        """Events in this process's segments."""
        return sum(segment.num_lines for segment in self._segments)

    def look(self) -> None:
        """Take over the segments of processes that have died; oldest first."""
        ours = {segment.path for segment in self._segments}
        self.others_bytes = 0
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
                if path in ours:
                    continue
                if segment := Segment.take_over(path):
                    self._segments.append(segment)
                    if segment.rest:
                        self._set_apart(segment, segment.rest)
                        with contextlib.suppress(OSError):
                            segment.cut_rest()
                else:
                    with contextlib.suppress(FileNotFoundError):
                        self.others_bytes += path.stat().st_size
        self._segments.sort(key=lambda segment: segment.path.name)

    def append(self, lines: list[bytes], *, sync: bool = True) -> None:
        """Keep lines behind everything that waits; on disk when this returns.

        Without `sync` they outlive this process, but a machine that goes down only after the next `sync`.

        Raises:
            SpoolFullError: none of them was kept.
        """
        size = sum(map(len, lines))
        if self.size + self.others_bytes + size > self._max_bytes:
            raise SpoolFullError(f"{self._folder} holds {self._max_bytes} bytes at most")
        try:
            last = self._segments[-1] if self._segments else None
            if last is None or last.is_sealed or last.size + size > SEGMENT_BYTES:
                self.sync()
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._segments.append(Segment.make(self._folder))
            self._segments[-1].append(lines, sync=sync)
        except OSError as error:
            self._drop_empty()
            raise SpoolFullError(f"{self._folder}: {error.strerror}") from error
        self._is_synced = sync

    def sync(self) -> None:
        """Have on disk what was appended without. Raises OSError."""
        if not self._is_synced and self._segments:
            self._segments[-1].sync()
        self._is_synced = True

    def oldest(self) -> list[bytes]:
        """The lines of the oldest segment, to which no more is added; empty when nothing waits."""
        while self._segments:
            self._segments[0].is_sealed = True
            try:
                if lines := self._segments[0].lines():
                    return lines
            except OSError:
                self._segments.pop(0).set_aside()
                self.num_broken += 1
            else:
                self.drop_oldest()
        return []

    def set_apart(self, lines: list[bytes]) -> None:
        """Lines of the oldest segment that are no events: they stay on disk in a file beside it."""
        self._set_apart(self._segments[0], b"".join(lines))

    def _set_apart(self, segment: Segment, damaged: bytes) -> None:
        self.num_broken += max(1, damaged.count(b"\n"))
        with contextlib.suppress(OSError):
            segment.set_apart(damaged)

    def drop_oldest(self) -> None:
        """The oldest segment is acknowledged, all of it."""
        self._segments.pop(0).delete()

    def close(self) -> None:
        """Let go of all segments; they stay on disk for whoever comes next."""
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    def _drop_empty(self) -> None:
        if self._segments and self._segments[-1].size == 0:
            self._segments.pop().delete()
