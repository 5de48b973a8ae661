"""Copies of a database that is being written: taken from one snapshot, checked, made to fit another folder."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from honed.errors import SchemaError, StoreError
from honed.stores.files import parse_url
from honed.stores.migrations import NEWEST
from honed.stores.postgres.server import Server

_STEP_PAGES: Final = 512
"""4 MiB between two reports of progress."""


class CopyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy holds."""

    schema: int
    records: int
    episodes: int
    adapters: dict[str, str]
    """Digests of the registered adapters by id."""


def copy_database(url: str, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy the database at `url` into a new file, as it is at one moment; writers go on meanwhile.

    Args:
        url: of the store.
        target: must not exist.
        on_progress: called with the bytes that are done and all of them.

    Raises:
        StoreError: there is no database, or it cannot be read or copied.
    """
    place = parse_url(url)
    if isinstance(place, Server):
        raise on_server(place, "copied")
    if place.path is None or not place.path.exists():
        raise StoreError(
            f"there is no database file at {url} that could be copied",
            advice="the first `honed up`, `run` or `import` makes it; or is data_dir another one?",
        )
    try:
        source = sqlite3.connect(place.path, isolation_level=None, timeout=10)
        copy = sqlite3.connect(target)
        try:
            target.chmod(0o600)
            (size,) = source.execute("PRAGMA page_size").fetchone()
            # The transaction holds one snapshot: without it the copy begins again at every commit.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            source.backup(
                copy,
                pages=_STEP_PAGES,
                progress=lambda _, left, all_: on_progress((all_ - left) * size, all_ * size),
            )
            source.execute("COMMIT")
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, no log beside it
        finally:
            copy.close()
            source.close()
    except sqlite3.Error as error:
        raise StoreError(
            f"{place.path} cannot be copied: {error}",
            advice="`honed doctor` says whether it is damaged",
        ) from error


def on_server(server: Server, what: str) -> StoreError:
    """What to say where the store is no file."""
    return StoreError(
        f"{server.shown} is on a server: it cannot be {what} as a file",
        advice=f"use the server's own tools: `pg_dump --format=custom --schema='{server.search_path}'`"
        " and `pg_restore`, and keep secret.key and adapters/ of the data folder with the dump;"
        " `honed export` and `honed import` move episodes",
    )


def check_copy(path: Path) -> CopyFacts:
    """Look through a copy; what it holds.

    Raises:
        SchemaError: a newer honed wrote it.
        StoreError: it is damaged, or no database of honed.
    """
    try:
        db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            faults = [line for (line,) in db.execute("PRAGMA integrity_check(5)") if line != "ok"]
            if faults:
                raise StoreError(f"{path} is damaged: {'; '.join(faults)}")
            (schema,) = db.execute("SELECT version FROM schema_version").fetchone()
            if schema > NEWEST:
                raise SchemaError(
                    f"{path} has schema version {schema}; this honed knows up to {NEWEST}",
                    advice="upgrade honed",
                )
            (records,) = db.execute("SELECT count(*) FROM records").fetchone()
            (episodes,) = db.execute("SELECT count(*) FROM episodes").fetchone()
            models = [_body(row) for (row,) in db.execute("SELECT body FROM models ORDER BY id")]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    adapters = {model["id"]: model["digest"] for model in models}
    return CopyFacts(schema=schema, records=records, episodes=episodes, adapters=adapters)


def move_adapters(path: Path, adapters_dir: Path) -> None:
    """Say in a copy that its adapters are in another folder."""
    db = sqlite3.connect(path)
    try:
        with db:
            for model_id, row in db.execute("SELECT id, body FROM models").fetchall():
                body = _body(row)
                folder = adapters_dir / model_id
                body["adapter_path"] = str(folder)
                if body.get("gguf_path"):
                    body["gguf_path"] = str(folder / Path(body["gguf_path"]).name)
                values = (msgspec.json.encode(body).decode(), model_id)
                db.execute("UPDATE models SET body = ? WHERE id = ?", values)
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be written: {error}") from error
    finally:
        db.close()


def has_records(url: str) -> bool:
    """Whether the database at `url` is there and not known to be empty; never changes it."""
    place = parse_url(url)
    if place.path is None or not place.path.exists():
        return False
    try:
        db = sqlite3.connect(f"{place.path.as_uri()}?mode=ro", uri=True)
        try:
            (num_records,) = db.execute("SELECT num_records FROM totals").fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return place.path.stat().st_size > 0
    return bool(num_records)


def database_files(url: str) -> list[Path]:
    """The files that make up the database, those that exist."""
    path = parse_url(url).path
    if path is None:
        return []
    names = (path.name, f"{path.name}-wal", f"{path.name}-shm")
    return [path.with_name(name) for name in names if path.with_name(name).exists()]


def _body(row: str) -> dict[str, Any]:
    return msgspec.json.decode(row, type=dict[str, Any])
