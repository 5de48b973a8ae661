"""Events from append-only files: an inbox folder, and files that another program writes.

A file is followed by its position, which is committed together with the events that were read up to
it: a kill between two lines loses none and doubles none, even where events have no ids. A line
counts once it has its newline. What can happen to a file meanwhile:

rotated     its name leads to another file: the old one is read to its end first, as long as it lies
            in the same folder, then the new one from its beginning
cut         it is shorter than what was read, or begins with other bytes: read from its beginning
gone        forgotten; a file that comes under that name later is a new one
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import anyio
from anyio import to_thread
from watchfiles import awatch

from honed import log
from honed.errors import SourceError, StoreError
from honed.ports import DataSink, FilePosition, Store

SUFFIX: Final = ".jsonl"
"""What an inbox is searched for."""
CHUNK: Final = 256 << 10
"""Bytes read and committed at a time; a longer line is read alone."""
_HEAD: Final = 1024
"""Bytes by which a file is recognised."""
_LOOK_EVERY_MS: Final = 5_000
"""Without a word from the kernel (a network folder has none to say) files are looked at this often."""
_RETRY_S: Final = 5.0


class _Chunk(NamedTuple):
    """Whole lines of a file and where they end."""

    lines: list[bytes]
    position: FilePosition
    num_too_long: int


class FileSource:
    """`ports.EventSource` over files.

    Args:
        inbox: every `.jsonl` file in this folder is followed; the folder is made when it is missing.
            None: there is none.
        files: these are followed as well, now or once they exist.
        store: remembers the positions.
        sink: where the events go.
        line_max: bytes of one line at most; a longer one is passed over, counted and logged.
    """

    name = "files"

    def __init__(
        self,
        inbox: Path | None,
        files: Sequence[Path],
        store: Store,
        sink: DataSink,
        *,
        line_max: int,
    ) -> None:
        self._inbox = inbox.expanduser().absolute() if inbox else None
        self._files = [path.expanduser().absolute() for path in files]
        self._store = store
        self._sink = sink
        self._line_max = line_max
        self._known: dict[Path, FilePosition] = {}
        self._stopping = anyio.Event()
        self.num_rejected = 0
        """Lines that were malformed, in conflict or too long, since the process started."""

    def status(self) -> dict[str, Any]:
        """For `honed status`: how many files, and counts of what could not be used."""
        return {"followed": len(self._known), "rejected": self.num_rejected}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follow the files while the context is open; closing commits the chunk in hand.

        Raises:
            SourceError: the inbox cannot be made.
        """
        if self._inbox is not None:
            try:
                self._inbox.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise SourceError(f"inbox {self._inbox}: {error.strerror}") from error
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            log.get().info(log.SOURCE_OPENED, path=str(self._inbox or self._files[0]))
            for path in _absent(self._files):
                log.get().info(log.FILE_AWAITED, path=str(path))
            try:
                yield
            finally:
                self._stopping.set()
        log.get().info(log.SOURCE_CLOSED, path=str(self._inbox or self._files[0]))

    async def _run(self) -> None:
        # Shielded: a cancelled daemon still commits the chunk in hand, with its position.
        with anyio.CancelScope(shield=True):
            while not self._stopping.is_set():
                try:
                    await self._follow_all()
                    await self._change()
                except (StoreError, OSError) as error:
                    log.get().error(log.SOURCE_FAILED, error=str(error))
                    with anyio.move_on_after(_RETRY_S):
                        await self._stopping.wait()

    async def _change(self) -> None:
        """Wait until one of the folders has changed, a few seconds have gone, or the source stops."""
        folders = {path.parent for path in self._files} | ({self._inbox} if self._inbox else set())
        present = [folder for folder in folders if folder.is_dir()]
        if not present:
            with anyio.move_on_after(_LOOK_EVERY_MS / 1000):
                await self._stopping.wait()
            return
        changes = awatch(
            *present,
            stop_event=self._stopping,
            recursive=False,
            debounce=100,
            step=20,
            rust_timeout=_LOOK_EVERY_MS,
            yield_on_timeout=True,
        )
        async with contextlib.aclosing(changes):
            async for _ in changes:
                return

    async def _follow_all(self) -> None:
        paths = await to_thread.run_sync(self._paths)
        for gone in self._known.keys() - paths:
            await self._store.forget_file(str(gone))
            del self._known[gone]
        for path in paths:
            try:
                await self._follow(path)
            except OSError as error:  # one file that cannot be read holds up no other
                log.get().error(log.SOURCE_FAILED, path=str(path), error=str(error))
            if self._stopping.is_set():
                return

    def _paths(self) -> list[Path]:
        found = [path for path in self._files if path.is_file()]
        if self._inbox is not None:
            found += sorted(path for path in self._inbox.glob(f"*{SUFFIX}") if path.is_file())
        return found

    async def _follow(self, path: Path) -> None:
        """Read what a file has had since the last time."""
        known = self._known.get(path) or await self._store.file_position(str(path))
        try:
            file = path.open("rb")
        except FileNotFoundError:  # just now
            return
        with file:
            start = await to_thread.run_sync(_where_to_start, file, path, known)
            if start.inode != (known.inode if known else start.inode):
                await self._finish_rotated(path, known)
            await self._read(file, path, start)

    async def _finish_rotated(self, path: Path, known: FilePosition | None) -> None:
        assert known is not None
        old = await to_thread.run_sync(_sibling, path, known.inode)
        if old is None:
            log.get().warning(log.FILE_LOST, path=str(path), position=known.position)
            return
        with old.open("rb") as file:
            start = await to_thread.run_sync(_where_to_start, file, path, known)
            await self._read(file, path, start)

    async def _read(self, file: BinaryIO, path: Path, start: FilePosition) -> None:
        position = start
        while not self._stopping.is_set():
            chunk = await to_thread.run_sync(_next_chunk, file, position, self._line_max)
            if chunk is None:
                break
            try:
                done = await self._sink.ingest(chunk.lines, position=chunk.position)
            except StoreError:
                # It may have been committed after all: the position in the store knows.
                self._known.pop(path, None)
                raise
            position = self._known[path] = chunk.position
            self.num_rejected += len(done.rejected) + chunk.num_too_long
            if count := len(done.rejected) + chunk.num_too_long:
                first = done.rejected[0].message if done.rejected else "too long"
                where = {"path": str(path), "before_byte": position.position}
                log.get().warning(log.LINE_REJECTED, **where, count=count, first=first)


def _where_to_start(file: BinaryIO, path: Path, known: FilePosition | None) -> FilePosition:
    """Where to read on: behind what was read if this is the same file, else at its beginning."""
    inode, size = _identity(file)
    is_same = known is not None and known.inode == inode and known.position <= size
    if known is not None and is_same and known.head == _head(file, known.position):
        return known
    return FilePosition(str(path), inode, 0, _head(file, 0))


def _absent(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if not os.path.lexists(path)]


def _identity(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size


def _head(file: BinaryIO, position: int) -> bytes:
    """Digest of the first bytes that were read, a kilobyte of them at most."""
    file.seek(0)
    return hashlib.blake2b(file.read(min(position, _HEAD)), digest_size=16).digest()


def _sibling(path: Path, inode: int) -> Path | None:
    """The file with that inode in the folder of `path`: what it was renamed to."""
    for other in path.parent.iterdir():
        with contextlib.suppress(OSError):
            if other != path and other.is_file() and other.stat().st_ino == inode:
                return other
    return None


def _next_chunk(file: BinaryIO, start: FilePosition, line_max: int) -> _Chunk | None:
    """The next whole lines; None when there is none yet."""
    file.seek(start.position)
    data = file.read(CHUNK)
    size = data.rfind(b"\n") + 1
    if size:
        found = [line for line in data[:size].split(b"\n") if line and not line.isspace()]
    else:
        size, found = _long_line(file, data, line_max)
        if not size:
            return None
    lines = [line for line in found if len(line) <= line_max]
    end = start.position + size
    head = start.head if start.position >= _HEAD else _head(file, end)
    return _Chunk(lines, start._replace(position=end, head=head), len(found) - len(lines))


def _long_line(file: BinaryIO, begun: bytes, line_max: int) -> tuple[int, list[bytes]]:
    """A line that is longer than a chunk, with its size; 0 while its writer is not done with it.

    Of a line that is too long no more is kept than shows that it is.
    """
    line, size = begun, len(begun)
    while more := file.readline(CHUNK):
        size += len(more)
        line = line if len(line) > line_max else line + more.removesuffix(b"\n")
        if more.endswith(b"\n"):
            return size, [line]
    return 0, []
