"""The data folder and the sockets: there, ours, writable, on a disk that can hold a database."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from honed.doctor.finding import Found, fail, ok, together, warn
from honed.doctor.patient import Patient
from honed.errors import ConfigError
from honed.listen import UNIX_PATH_MAX, is_listening
from honed.sources import check_sources

_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "fuse.sshfs"})
_INODES_FAIL: Final = 200
"""A run makes about a dozen files."""
_INODES_WARN: Final = 10_000


def data_folder(patient: Patient) -> Found:
    """May we write there, and nobody else?"""
    folder = patient.config.data_dir
    if not folder.exists():
        return _to_be_made(folder)
    if not folder.is_dir():
        return fail(f"{folder} is not a folder", "move it away, or choose another data_dir")
    faults = [*_rights(folder)]
    if os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
        faults += _disk(folder, patient)
    return together(faults or [ok(f"{folder}, ours alone")])


def _to_be_made(folder: Path) -> Found:
    near = next(parent for parent in folder.parents if parent.exists())
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK, effective_ids=True):
        return fail(
            f"{folder} does not exist, and {near} cannot be written",
            f"make it and give it to this user: mkdir -p {folder}, chown; or choose another data_dir",
        )
    return ok(f"{folder} will be made on the first start")


def _rights(folder: Path) -> Iterator[Found]:
    found = folder.stat()
    if found.st_uid != os.geteuid():
        yield warn(
            f"{folder} belongs to user {found.st_uid}, this is user {os.geteuid()}",
            "run honed and its commands as the user that owns the folder",
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield warn(
            f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            f"it holds conversations: chmod 700 {folder}",
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield fail(
            f"{folder} cannot be written: {error.strerror}",
            "check owner, mode, quota, and whether the disk is mounted read-only",
        )
    secret = folder / "secret.key"
    with contextlib.suppress(OSError):  # not there, or the folder is closed to us, which is told
        if secret.stat().st_mode & 0o077:
            yield warn(f"{secret} is open to others", f"chmod 600 {secret}")


def _disk(folder: Path, patient: Patient) -> Iterator[Found]:
    space = os.statvfs(folder)
    if space.f_files and space.f_favail < _INODES_WARN:
        found = f"{space.f_favail} files can still be made on its disk"
        advice = "remove small files there, or choose a data_dir on another disk"
        yield fail(found, advice) if space.f_favail < _INODES_FAIL else warn(found, advice)
    kind = _file_system(folder)
    if kind in _NETWORK:
        yield warn(
            f"{folder} is on a network drive ({kind})",
            "SQLite's write-ahead log needs a local disk: choose another data_dir",
        )
    runs, adapters = patient.config.runs_dir, patient.config.adapters_dir
    if runs.exists() and adapters.exists() and runs.stat().st_dev != adapters.stat().st_dev:
        yield fail(
            f"{runs} and {adapters} are on two disks",
            "an adapter is published by one rename: put both on one disk",
        )


def _file_system(folder: Path) -> str:
    """Type of the file system that holds the folder, as the kernel names it."""
    best, kind = -1, ""
    real = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        is_around = real == point or real.startswith(point.rstrip("/") + "/")
        if is_around and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind


def sockets(patient: Patient) -> Found:
    """Do the paths fit, is nothing in the way, and is no door open to everybody?"""
    config = patient.config
    paths = (config.feed_socket, config.control_socket, config.serve_socket)
    return together([*(_socket(path) for path in paths), *_http(patient)])


def _http(patient: Patient) -> Iterator[Found]:
    try:
        check_sources(patient.config.events)
    except ConfigError as error:
        if not (patient.daemon() or {}).get("sources", {}).get("http"):  # else it was given one
            yield warn(
                f"{error}: `honed run` ends with status 78",
                f"{error.advice}; a credential of its unit is not seen from here",
            )


def _socket(path: Path) -> Found:
    length = len(os.fsencode(path))
    if length > UNIX_PATH_MAX:
        return fail(
            f"{path} has {length} bytes, Linux allows {UNIX_PATH_MAX}",
            "choose a shorter data_dir, or a shorter serve.socket",
        )
    if not os.path.lexists(path):
        return ok(f"{path.name} not made yet")
    if not path.is_socket():
        return fail(f"{path} is in the way and is no socket", "move it away")
    try:
        if not is_listening(path):
            return ok(f"{path.name} left by a process that is gone, and will be replaced")
    except OSError as error:
        return fail(
            f"{path} cannot be reached: {error.strerror}",
            "run honed and its commands as the same user",
        )
    return ok(f"{path.name} answers")
