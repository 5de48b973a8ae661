"""A backup back into a data folder: looked through first, and nothing that was there is deleted."""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Final

import msgspec
from msgspec import Struct

from honed.errors import HonedError
from honed.keeping.backup import (
    ADAPTERS,
    DATABASE,
    FORMAT,
    MANIFEST,
    SECRET,
    Backup,
    Facts,
    OnProgress,
    private,
    sync_folder,
    writing,
)

_PART: Final = 1 << 20
_MANIFEST_MAX: Final = 64 << 20


class Restored(Struct, frozen=True, kw_only=True):
    """What was put back."""

    backup: Backup
    moved_to: str | None
    """Folder with what was there before; None when there was nothing."""
    missing_adapters: tuple[str, ...]
    """Registered adapters whose files are neither in the backup nor in the data folder."""


def restore_backup(
    source: Path,
    *,
    scenario: str,
    data_dir: Path,
    database_path: Path,
    existing: Sequence[Path],
    check: Callable[[Path], Facts],
    move_adapters: Callable[[Path, Path], None],
    on_progress: OnProgress,
) -> Restored:
    """Put a backup into place; the caller holds the data folder's lock.

    Everything is unpacked aside, compared with its digests and looked through before anything is
    moved. What was there goes into a folder `replaced-TIME`; the database comes last, so that no store
    ever stands without its secret.

    Raises:
        HonedError: the backup is damaged, of another scenario or of a newer honed; nothing was changed.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        writing(data_dir),
        tempfile.TemporaryDirectory(prefix=".restore-", dir=data_dir) as scratch,
    ):
        folder = Path(scratch)
        backup = _unpack(source, folder, on_progress)
        if backup.scenario != scenario:
            raise HonedError(
                f"{source} is of the scenario {backup.scenario}, this data folder of {scenario}"
            )
        on_progress("checking the store", 0, 1)
        check(folder / DATABASE)
        move_adapters(folder / DATABASE, data_dir / ADAPTERS)
        unpacked = folder / ADAPTERS
        strangers = [
            path
            for path in _children(data_dir / ADAPTERS)
            if path.name not in backup.adapters or (unpacked / path.name).exists()
        ]
        secret = [data_dir / SECRET] if (data_dir / SECRET).exists() else []
        moved_to = _move_aside([*existing, *secret, *strangers], data_dir)
        (data_dir / ADAPTERS).mkdir(mode=0o700, exist_ok=True)
        for path in _children(unpacked):
            path.rename(data_dir / ADAPTERS / path.name)
        for name, target in ((SECRET, data_dir / SECRET), (DATABASE, database_path)):
            if (folder / name).exists():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / name).replace(target)
                sync_folder(target.parent)
    missing = (name for name in backup.adapters if not (data_dir / ADAPTERS / name).is_dir())
    return Restored(
        backup=backup,
        moved_to=str(moved_to) if moved_to else None,
        missing_adapters=tuple(missing),
    )


def _unpack(source: Path, folder: Path, on_progress: OnProgress) -> Backup:
    try:
        with tarfile.open(source, "r:") as tar:
            backup = _manifest(tar, source)
            total, done = sum(member.size for member in backup.files), 0
            for member in backup.files:
                target = folder / _safe(member.name, source)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _copy(_open(tar, member.name), target) != member.sha256:
                    raise _damaged(source, f"{member.name} is not what was put in")
                done += member.size
                on_progress("unpacking", done, total)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise _damaged(source, str(error)) from error
    if not (folder / DATABASE).exists():
        raise _damaged(source, f"it has no {DATABASE}")
    return backup


def _manifest(tar: tarfile.TarFile, source: Path) -> Backup:
    try:
        backup = msgspec.json.decode(_open(tar, MANIFEST).read(_MANIFEST_MAX), type=Backup)
    except msgspec.DecodeError as error:
        raise _damaged(source, f"its {MANIFEST} cannot be read: {error}") from error
    if backup.format > FORMAT:
        raise HonedError(
            f"{source} has format {backup.format}; this honed knows up to {FORMAT}",
            advice="upgrade honed",
        )
    return backup


def _open(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    entry = tar.getmember(name)
    file = tar.extractfile(entry) if entry.isfile() else None
    if file is None:
        raise KeyError(f"{name} is no file")
    return file


def _copy(file: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with open(target, "xb", opener=private) as out:
        while part := file.read(_PART):
            digest.update(part)
            out.write(part)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _safe(name: str, source: Path) -> str:
    """The name, if it stays in the folder."""
    path = PurePosixPath(name)
    is_known = name in (DATABASE, SECRET) or (path.parts[0] == ADAPTERS and len(path.parts) > 2)
    if path.is_absolute() or ".." in path.parts or not is_known:
        raise _damaged(source, f"it holds {name}, which is no part of a backup")
    return name


def _damaged(source: Path, what: str) -> HonedError:
    return HonedError(f"{source} is no whole backup: {what}", advice="take another one")


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _move_aside(paths: Sequence[Path], data_dir: Path) -> Path | None:
    if not paths:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = data_dir / f"replaced-{stamp}"
    aside.mkdir(mode=0o700)
    for path in paths:
        inside = path.relative_to(data_dir) if path.is_relative_to(data_dir) else Path(path.name)
        (aside / inside).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(aside / inside)
    sync_folder(aside)
    sync_folder(data_dir)
    return aside
