"""Does the database open, is it whole, and of a version that we know?"""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio

from honed.doctor.finding import Found, fail, gib, ok, together, warn
from honed.doctor.patient import Patient
from honed.stores.files import parse_url
from honed.stores.migrations import NEWEST
from honed.stores.postgres.look import look
from honed.stores.postgres.server import Server

_CHECK_S: Final = 20.0
"""How long the content is looked through; a daemon goes on writing meanwhile."""
_AHEAD_MS: Final = 60_000


def store(patient: Patient) -> Found:
    """Read it beside whoever writes it: no lock is taken, nothing is changed."""
    place = parse_url(patient.config.database)
    if isinstance(place, Server):
        return together(_on_server(place, patient))
    if place.path is None:
        return warn("in memory: all is lost when the daemon ends", "leave out the key `database`")
    if not place.path.exists():
        return ok(f"{place.path} will be made on the first start")
    try:
        db = sqlite3.connect(f"{place.path.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return together(_look(db, place.path, patient))
        finally:
            db.close()
    except sqlite3.Error as error:
        return fail(
            f"{place.path} cannot be read: {error}",
            "restore a copy with `honed restore`; one is taken with `honed backup`",
        )


def _on_server(server: Server, patient: Patient) -> Iterator[Found]:
    found = anyio.run(look, server)
    where = f"{server.shown}, PostgreSQL {found.server_version}"
    if found.is_standby:
        yield fail(
            f"{where} is a standby, which cannot be written", "name the primary in `database`"
        )
    if not found.is_durable:
        yield warn(
            f"{where} does not keep commits through a crash of its host",
            "set fsync and full_page_writes to on: what is acknowledged may be lost",
        )
    if found.schema is None:
        yield ok(f"{where}, and the store will be made on the first start")
        return
    if found.schema > NEWEST:
        yield fail(
            f"{where} has schema version {found.schema}, this honed knows up to {NEWEST}",
            "upgrade honed, or name another schema with ?schema=NAME",
        )
        return
    daemon = "a daemon works on it" if found.has_daemon else "no daemon works on it"
    content = f"schema {found.schema}, {found.num_records} records, {gib(found.size)}, {daemon}"
    yield ok(f"{where}, {content}")
    yield from _secret(patient, found.num_records)
    yield from _ahead(found.newest_ms)


def _look(db: sqlite3.Connection, path: Path, patient: Patient) -> Iterator[Found]:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "schema_version" not in tables:
        if tables:
            yield fail(f"{path} is not a database of honed", "name another file in `database`")
        else:
            yield ok(f"{path} is empty, and will be filled on the first start")
        return
    (version,) = db.execute("SELECT version FROM schema_version").fetchone()
    if version > NEWEST:
        yield fail(
            f"{path} has schema version {version}, this honed knows up to {NEWEST}",
            "upgrade honed, or use another data_dir",
        )
        return
    (num_records,) = db.execute("SELECT num_records FROM totals").fetchone()
    log = path.with_name(f"{path.name}-wal")
    size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    yield ok(f"{path}, schema {version}, {num_records} records, {gib(size)}")
    yield from _secret(patient, num_records)
    yield from _newest(db)
    yield _content(db)


def _secret(patient: Patient, num_records: int) -> Iterator[Found]:
    secret = patient.config.data_dir / "secret.key"
    if num_records and not secret.exists():
        yield fail(
            f"{secret} is missing, but there are records",
            "restore it from a backup: without it repeats are not known and the held-out split moves",
        )


def _newest(db: sqlite3.Connection) -> Iterator[Found]:
    query = "SELECT received_ms FROM records ORDER BY id DESC LIMIT 1"
    row = db.execute(query).fetchone()
    yield from _ahead(row[0] if row else None)


def _ahead(newest_ms: int | None) -> Iterator[Found]:
    ahead_ms = newest_ms - time.time() * 1000 if newest_ms else 0
    if ahead_ms > _AHEAD_MS:
        yield warn(
            f"the newest record is from {ahead_ms / 1000:.0f} s in the future",
            "the clock went back, or was wrong: set it; intervals of triggers wait until then",
        )


def _content(db: sqlite3.Connection) -> Found:
    until = time.monotonic() + _CHECK_S
    db.set_progress_handler(lambda: time.monotonic() > until, 100_000)
    try:
        faults = [line for (line,) in db.execute("PRAGMA quick_check(5)") if line != "ok"]
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return ok(f"no fault found in {_CHECK_S:.0f} s of looking, not all was looked at")
    if faults:
        return fail(
            f"the database is damaged: {'; '.join(faults)}",
            "stop the daemon, copy the folder, then `sqlite3 honed.db .recover`, or restore a backup",
        )
    return ok("whole")
