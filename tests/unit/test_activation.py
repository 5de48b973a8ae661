"""Descriptors as systemd passes them, taken by a process of their own: LISTEN_PID must be its id."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from honed.activation import passed_sockets, passed_unix
from honed.errors import ConfigError
from tests.supervision import ROOT, given, listening_unix

_TAKE = """
import os, socket, sys
from honed.activation import passed_sockets
from honed.errors import ConfigError
try:
    found = passed_sockets({"feed": (socket.AF_UNIX,), "http": (socket.AF_INET, socket.AF_INET6)})
except ConfigError as error:
    sys.exit(f"{error} ({error.advice})")
left = [name for name in os.environ if name.startswith("LISTEN_")]
for name, each in found.items():
    print(name, each.fileno(), each.family.name, os.get_inheritable(each.fileno()), each.gettimeout(), left)
"""


def _taken(**sockets: socket.socket) -> tuple[str, str]:
    """What a process that is given the sockets prints, and what it complains of."""
    before, fds = given(sockets)
    done = subprocess.run(
        [*before, sys.executable, "-c", _TAKE],
        pass_fds=fds,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout, done.stderr


def test_passed_sockets_are_taken_by_name(tmp_path: Path) -> None:
    """They do not block, no child inherits them, and the variables are gone."""
    with (
        listening_unix(tmp_path / "f.sock") as feed,
        socket.create_server(("127.0.0.1", 0)) as http,
    ):
        out, _ = _taken(http=http, feed=feed)
    assert out.splitlines() == ["http 3 AF_INET False 0.0 []", "feed 4 AF_UNIX False 0.0 []"]


def test_a_name_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """With the names that are, and the setting that gives one."""
    with listening_unix(tmp_path / "f.sock") as feed:
        _, error = _taken(**{"honed@airline.socket": feed})
    assert "socket named 'honed@airline.socket' was passed: expected feed or http" in error
    assert "FileDescriptorName=feed" in error


def test_a_socket_of_another_family_is_refused() -> None:
    """An events feed is never open to the network."""
    with socket.create_server(("127.0.0.1", 0)) as http:
        _, error = _taken(feed=http)
    assert "'feed' is AF_INET: expected AF_UNIX" in error


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    """A datagram socket, or a connection (Accept=yes)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "d.sock"))
        assert "does not listen" in _taken(feed=datagrams)[1]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert "does not listen" in _taken(feed=ours)[1]


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    """A FIFO of a socket unit, for example."""
    with (tmp_path / "file").open("w") as file:
        before, fds = given({"feed": file})  # type: ignore[dict-item]
        done = subprocess.run(
            [*before, sys.executable, "-c", _TAKE],
            pass_fds=fds,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert "passed as 'feed', is not a socket" in done.stderr


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    """`LISTEN_PID` is the parent's, as under `honed up` that was given sockets."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "feed"}
    assert passed_sockets({"feed": (socket.AF_UNIX,)}, environment) == {}
    assert environment == {}


@pytest.mark.parametrize("count", ["4097", "300000000", "9" * 19, "9" * 5000])
def test_a_count_that_no_supervisor_passes_is_refused_at_once(count: str) -> None:
    """As a wrong config, before anything of that size is made; Python itself gives up on the last one."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    with pytest.raises(ConfigError, match="expected at most 4096"):
        passed_sockets({"feed": (socket.AF_UNIX,)}, environment)


def test_a_feed_at_another_place_than_clients_are_told_is_refused(tmp_path: Path) -> None:
    """Else nobody would find it."""
    assert passed_unix(None, tmp_path / "feed.sock") is None
    with listening_unix(tmp_path / "real" / "feed.sock") as feed:
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert passed_unix(feed, tmp_path / "link" / "feed.sock") is feed
        with pytest.raises(ConfigError, match="clients are told"):
            passed_unix(feed, tmp_path / "feed.sock")
