"""One file that holds a data folder: store, secret, and the adapters if they are wanted.

A tar without compression, readable by its owner alone: `manifest.json` first (what is in it, with
SHA-256 and size of every file), then `honed.db`, `secret.key`, and `adapters/SCENARIO@N/...`.
"""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

import honed
from honed.adapter_files import file_digest
from honed.domain.times import iso_utc
from honed.errors import HonedError, StoreError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATABASE: Final = "honed.db"
SECRET: Final = "secret.key"
ADAPTERS: Final = "adapters"


class Member(Struct, frozen=True):
    """One file of a backup."""

    name: str
    size: int
    sha256: str


class Backup(Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: int
    honed: str
    """Version that wrote it."""
    scenario: str
    created_at: str
    """ISO 8601, UTC."""
    schema: int
    records: int
    episodes: int
    adapters: dict[str, str]
    """Digests of the registered adapters by id, whether their files are in it or not."""
    with_adapters: bool
    files: tuple[Member, ...]


class Facts(Protocol):
    """What is known about a copied database."""

    @property
    def schema(self) -> int:
        """Version of its schema."""

    @property
    def records(self) -> int:
        """How many it holds."""

    @property
    def episodes(self) -> int:
        """How many it holds."""

    @property
    def adapters(self) -> dict[str, str]:
        """Digests of the registered adapters by id."""


OnProgress = Callable[[str, int, int], None]
"""Called with what is done, and how many bytes of how many."""


def write_backup(
    target: Path,
    *,
    scenario: str,
    data_dir: Path,
    copy: Callable[[Path, Callable[[int, int], None]], None],
    check: Callable[[Path], Facts],
    with_adapters: bool,
    on_progress: OnProgress,
) -> Backup:
    """Write a backup to `target`; the file is whole or not there.

    Args:
        target: must not exist.
        scenario: whose data folder it is.
        data_dir: the data folder.
        copy: copies the store into a new file, from one snapshot.
        check: looks through the copy.
        with_adapters: whether the adapters' files go in.
        on_progress: hears how far it is.

    Raises:
        StoreError: the store cannot be copied or is damaged, or the secret is missing.
        HonedError: the file exists or cannot be written.
    """
    if target.exists():
        raise HonedError(f"{target} exists: expected a new name", advice="backups replace nothing")
    with (
        writing(target.parent),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch,
    ):
        database = Path(scratch) / DATABASE
        copy(database, lambda done, total: on_progress("copying the store", done, total))
        on_progress("checking the copy", 0, 1)
        facts = check(database)
        files = {DATABASE: database} | _secret(data_dir, facts.records)
        if with_adapters:
            files |= _adapters(data_dir / ADAPTERS, facts.adapters)
        backup = Backup(
            format=FORMAT,
            honed=honed.__version__,
            scenario=scenario,
            created_at=iso_utc(),
            schema=facts.schema,
            records=facts.records,
            episodes=facts.episodes,
            adapters=facts.adapters,
            with_adapters=with_adapters,
            files=tuple(
                Member(name, path.stat().st_size, file_digest(path)) for name, path in files.items()
            ),
        )
        archive = Path(scratch) / "archive"
        _write_archive(archive, backup, files, on_progress)
        os.link(archive, target)  # unlike a rename it replaces nothing
        sync_folder(target.parent)
    return backup


def _write_archive(
    archive: Path, backup: Backup, files: dict[str, Path], on_progress: OnProgress
) -> None:
    total = sum(member.size for member in backup.files)
    done = 0
    with open(archive, "xb", opener=private) as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            manifest = msgspec.json.format(msgspec.json.encode(backup), indent=2)
            tar.addfile(_entry(MANIFEST, len(manifest)), io.BytesIO(manifest))
            for member in backup.files:
                with files[member.name].open("rb") as file:
                    tar.addfile(_entry(member.name, member.size), file)
                done += member.size
                on_progress("writing the file", done, total)
        out.flush()
        os.fsync(out.fileno())


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def _secret(data_dir: Path, num_records: int) -> dict[str, Path]:
    path = data_dir / SECRET
    if path.exists():
        return {SECRET: path}
    if num_records:
        raise StoreError(
            f"secret {path} is missing: the store is of no use without it",
            advice="restore it from an older backup first",
        )
    return {}


def _adapters(folder: Path, known: dict[str, str]) -> dict[str, Path]:
    """The files of those registered adapters that are there; published ones never change."""
    return {
        f"{ADAPTERS}/{model_id}/{path.relative_to(folder / model_id)}": path
        for model_id in sorted(known)
        for path in sorted((folder / model_id).rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell a full or closed disk as what it is."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise HonedError(
            f"{error.filename or folder} cannot be read or written: {error.strerror or error}",
            advice=f"{free >> 20} MiB are free in {folder}; twice the size of the store is needed",
        ) from error


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync_folder(folder: Path) -> None:
    """Have the folder's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
