"""Daemon and gateway under a supervisor: what it is told, when it would end them, whose sockets they use."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from honed.client import ConnectionLostError, HonedClient
from honed.listen import is_listening
from tests.feed_load import check_all_stored
from tests.processes import Honed, honed
from tests.supervision import NotifySocket, given, listening_unix

DAEMON = 'scenario = "tiny"\n[apply]\nkind = "none"'
WATCHDOG_S = 1.0
_SHIM = (sys.executable, "-m", "tests.supervision")


def gateway(base_gguf: Path) -> str:
    """Settings of a gateway that serves a tiny base model."""
    return (
        f'scenario = "tiny"\n[serve]\nport = 0\nbase_model_path = "{base_gguf}"\n'
        'ctx_size = 512\nthreads = 1\ndrain_timeout = "5s"'
    )


def watched(notify: NotifySocket) -> dict[str, str]:
    """The variables of a unit with Type=notify and WatchdogSec=."""
    return {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6))}


def test_a_daemon_tells_when_it_is_ready_how_it_is_and_when_it_stops(tmp_path: Path) -> None:
    """Ready means that events are accepted and the control API answers; the watchdog is fed meanwhile."""
    with NotifySocket(tmp_path) as notify, honed(tmp_path / "h", DAEMON) as daemon:
        daemon.start("run", variables=watched(notify))
        notify.until("READY=1")
        assert is_listening(daemon.data_dir / "feed.sock")
        assert daemon.status()["scenario"] == "tiny"
        told = [what for _, what in notify.told]
        assert told[:2] == ["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1"]
        assert notify.until("STATUS=") == (
            "STATUS=tiny: 0 episodes, no training, the base model in service"
        )
        notify.until("WATCHDOG=1")
        notify.until("WATCHDOG=1")
        assert daemon.stop("run") == 0
        assert "STOPPING=1" in notify.listen(0.1)


def test_a_gateway_tells_that_it_accepts_before_its_model_is_loaded(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """Its line says what is served once it is; llama-server inherits neither socket nor variable."""
    settings = gateway(tiny_gguf)
    with (
        NotifySocket(None) as notify,
        honed(tmp_path / "h", settings) as served,
        socket.create_server(("127.0.0.1", 0)) as http,
    ):
        before, fds = given({"http": http})
        before += [sys.executable, "-m", "honed"]
        served.start("serve", before=before, variables=watched(notify), pass_fds=fds)
        notify.until("READY=1")
        port = http.getsockname()[1]
        assert served.serving()["address"] == f"http://127.0.0.1:{port}"
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        assert notify.until(f"STATUS=http://127.0.0.1:{port}: tiny active").endswith("(base)")
        notify.until("WATCHDOG=1")
        [server] = served.children("serve")
        inode = os.fstat(http.fileno()).st_ino
        held = [fd.stat().st_ino for fd in Path(f"/proc/{server}/fd").iterdir() if fd.exists()]
        assert inode not in held
        variables = Path(f"/proc/{server}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in variables
        assert b"LISTEN_FDS" not in variables
        assert served.stop("serve") == 0
        assert "STOPPING=1" in notify.listen(0.1)


@pytest.mark.parametrize("part", ["loop", "writer", "trigger", "accept"])
def test_what_hangs_is_not_fed_and_says_where_it_hangs(
    tmp_path: Path, part: str, tiny_gguf: Path
) -> None:
    """The watchdog goes hungry for each part that the process cannot do without; SIGABRT leaves a traceback."""
    verb = "serve" if part == "accept" else "run"
    settings = gateway(tiny_gguf) if verb == "serve" else DAEMON + "\n[train]\nmin_rows = 1"
    if part == "trigger":  # it looks only where something could train
        settings = f'base_model = "{tmp_path}"\n{settings}'
    with NotifySocket(tmp_path) as notify, honed(tmp_path / "h", settings) as hung:
        child = hung.start(verb, before=(*_SHIM, "--hang", part, "--"), variables=watched(notify))
        notify.until("READY=1")
        notify.until("WATCHDOG=1")
        child.send_signal(signal.SIGUSR1)
        if verb == "run":
            with (
                contextlib.suppress(ConnectionLostError),
                HonedClient(hung.data_dir / "feed.sock", timeout_s=0.5) as client,
            ):
                client.send(_event(0))
        hung.until(lambda: not _is_fed(notify), "the watchdog goes hungry", limit_s=10)
        if part in ("loop", "writer"):
            assert _health(hung, "daemon", "--timeout", "1") == 1
        child.send_signal(signal.SIGABRT)
        assert child.wait(10) == -signal.SIGABRT
        del hung.running[verb]
        words = {
            "loop": "in hangs",
            "writer": "store's writer",
            "trigger": "trigger loop",
            "accept": "address",
        }
        said = (tmp_path / "h/processes.log").read_text()
        assert words[part] in said
        assert "Fatal Python error: Aborted" in said


def _health(process: Honed, *arguments: str) -> int:
    """Exit status of `honed health`."""
    command = [sys.executable, "-m", "honed", "health", *arguments, "--config", str(process.config)]
    environment = os.environ | {"HONED__SERVE__SOCKET": str(process.serve_socket)}
    return subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode


def test_health_is_a_command_for_probes(tmp_path: Path, tiny_gguf: Path) -> None:
    """3 while nobody listens, 0 once it answers, 1 for a gateway that has no model in service yet."""
    nothing = gateway(tmp_path / "none.gguf").replace("base_model_path", "# base_model_path")
    with honed(tmp_path / "1", nothing) as empty, honed(tmp_path / "2", DAEMON) as daemon:
        assert _health(empty, "gateway") == _health(daemon, "daemon") == 3
        empty.start("serve")
        daemon.start("run")
        assert _health(empty, "gateway") == _health(daemon, "daemon") == 0
        assert _health(empty, "gateway", "--serving") == 1
    with honed(tmp_path / "3", gateway(tiny_gguf)) as served:
        served.start("serve")
        served.until(lambda: _health(served, "gateway", "--serving") == 0, "the model is served")


def _is_fed(notify: NotifySocket) -> bool:
    return "WATCHDOG=1" in notify.listen(2 * WATCHDOG_S)


def _event(tick: int) -> dict[str, object]:
    return {
        "type": "action",
        "task_id": "t",
        "tick": tick,
        "worker_id": 1,
        "action": "look",
        "result": {"success": True, "output": "x"},
    }


@contextlib.contextmanager
def _sending(path: Path) -> Iterator[tuple[list[str], list[Exception]]]:
    """An agent that sends without a pause and never tries again by itself; what was acked, what failed."""
    acked: list[str] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def run() -> None:
        with HonedClient(path, timeout_s=20) as client:
            for tick in range(1_000_000):
                if stop.is_set():
                    return
                try:
                    acked.extend(client.send(_event(tick)).event_ids)
                except Exception as error:
                    failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield acked, failed
    finally:
        stop.set()
        thread.join(30)


def _connects(path: Path, stop: threading.Event, refused: list[OSError]) -> None:
    while not stop.is_set():
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(str(path))
            except OSError as error:
                refused.append(error)
        time.sleep(0.005)


def test_events_wait_in_the_passed_socket_while_the_daemon_restarts(tmp_path: Path) -> None:
    """Stopped, killed and started again under load: no connection is refused, no event is lost or sent in vain."""
    daemon_path = tmp_path / "h" / "data" / "feed.sock"
    with honed(tmp_path / "h", DAEMON) as daemon, listening_unix(daemon_path) as feed:
        before, fds = given({"feed": feed})
        before += [sys.executable, "-m", "honed"]
        stop, refused = threading.Event(), list[OSError]()
        knocking = threading.Thread(target=_connects, args=(daemon_path, stop, refused))
        knocking.start()
        try:
            with _sending(daemon_path) as (acked, failed):  # before any daemon runs
                for end in ("stop", "kill", "stop"):
                    had = len(acked)
                    daemon.start("run", before=before, pass_fds=fds)
                    daemon.until(lambda had=had: len(acked) > had + 20, "events are taken")  # type: ignore[misc]
                    getattr(daemon, end)("run")
                    assert daemon_path.is_socket()
                daemon.start("run", before=before, pass_fds=fds)
        finally:
            stop.set()
            knocking.join(10)
        assert refused == []
        assert failed == []
        assert daemon.stop("run") == 0
    check_all_stored(daemon.data_dir / "honed.db", acked)


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
)
def test_systemds_own_tool_starts_the_daemon_with_its_first_event(tmp_path: Path) -> None:
    """The event that started it is answered; its socket is left where it is."""
    with honed(tmp_path / "h", DAEMON) as daemon:
        path = daemon.data_dir / "feed.sock"
        path.parent.mkdir()
        tool = ["systemd-socket-activate", "-l", str(path), "--fdname=feed"]
        passed_on = [
            f"--setenv={name}" for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ
        ]
        daemon.start("run", before=[*tool, *passed_on, sys.executable, "-m", "honed"])
        with HonedClient(path, timeout_s=30) as client:
            assert client.send(_event(1)).stored == 1
        assert daemon.stop("run") == 0
        assert path.is_socket()


def test_requests_wait_in_the_passed_socket_while_the_gateway_restarts(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """Between two gateways the address still accepts; both serve at the one that was passed."""
    with (
        NotifySocket(tmp_path) as notify,
        honed(tmp_path / "h", gateway(tiny_gguf)) as served,
        socket.create_server(("127.0.0.1", 0), backlog=64) as http,
    ):
        before, fds = given({"http": http})
        before += [sys.executable, "-m", "honed"]
        variables = {"NOTIFY_SOCKET": notify.address}
        url = f"http://127.0.0.1:{http.getsockname()[1]}/health"
        answers: list[int] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.get(url, timeout=30).status_code)
        )
        for _ in range(2):
            served.start("serve", before=before, variables=variables, pass_fds=fds)
            notify.until("READY=1")
            assert served.stop("serve") == 0
        asking.start()
        served.until(lambda: _waits(http), "a request waits in the kernel")
        served.start("serve", before=before, variables=variables, pass_fds=fds)
        asking.join(30)
        assert answers == [200]


def _waits(listener: socket.socket) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


def test_a_feed_that_systemd_puts_elsewhere_is_refused(tmp_path: Path) -> None:
    """78: clients would be told another path; systemd does not start it again."""
    with honed(tmp_path / "h", DAEMON) as daemon, listening_unix(tmp_path / "feed.sock") as feed:
        before, fds = given({"feed": feed})
        done = subprocess.run(
            [*before, sys.executable, "-m", "honed", "run", "--config", str(daemon.config)],
            pass_fds=fds,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 78
        assert "clients are told" in done.stderr


def _second(config: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "honed", "serve", "--config", str(config)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_second_gateway_is_refused_on_one_folder_socket_or_address(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """78 and one line each; the first one serves on."""
    settings = gateway(tiny_gguf)
    with honed(tmp_path / "1", settings) as first, honed(tmp_path / "2", settings) as other:
        first.start("serve")
        port = first.serving()["address"].rpartition(":")[2]
        taken = {
            "another gateway runs on": _second(
                first.config, HONED__SERVE__SOCKET=str(tmp_path / "x.sock")
            ),
            f"another process listens on {first.serve_socket}": _second(
                other.config, HONED__SERVE__SOCKET=str(first.serve_socket)
            ),
            f"another process listens on 127.0.0.1:{port}": _second(
                other.config, HONED__SERVE__SOCKET=str(tmp_path / "x.sock"), HONED__SERVE__PORT=port
            ),
        }
        for words, done in taken.items():
            assert done.returncode == 78, done.stderr
            assert words in done.stderr
            assert len(done.stderr.splitlines()) == 1
        assert first.serving()["address"].endswith(port)


def test_restarting_a_daemon_interrupts_no_request_and_loses_no_call(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """Requests go on through the gateway; what it captured meanwhile reaches the next daemon, also when the
    gateway is killed before.
    """
    settings = gateway(tiny_gguf)
    with honed(tmp_path / "h", settings) as both:
        both.start("serve")
        both.start("run")
        both.until(lambda: _is_active(both), "the lane answers")
        url = both.serving()["address"] + "/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        stop, answers = threading.Event(), list[int]()

        def ask() -> None:
            with httpx.Client(timeout=30) as client:
                while not stop.is_set():
                    answers.append(client.post(url, json=body).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        for end in ("stop", "kill"):
            had = len(answers)
            both.until(lambda had=had: len(answers) > had + 3, "requests are answered")  # type: ignore[misc]
            getattr(both, end)("run")
            had = len(answers)
            both.until(lambda had=had: len(answers) > had + 3, "requests are answered")  # type: ignore[misc]
            both.start("run")
        stop.set()
        asking.join(30)
        assert set(answers) == {200}
        both.until(lambda: both.status()["records"] == len(answers), "every call is stored")

        both.stop("run")
        answers += [httpx.post(url, json=body, timeout=30).status_code for _ in range(5)]
        both.until(lambda: _captured(both)["spooled"] == 5, "the gateway has them on disk")
        both.kill("serve")
        both.start("serve")
        both.start("run")
        both.until(lambda: both.status()["records"] == len(answers), "the next gateway sends them")


def _captured(both: Honed) -> dict[str, int]:
    counts: dict[str, int] = both.serving()["scenarios"]["tiny"]["captured"]
    return counts


def _is_active(both: Honed) -> bool:
    lanes = both.serving()["scenarios"]
    return "tiny" in lanes and lanes["tiny"]["state"] == "active"
