"""`honed up` when it is killed, when the kernel has no room, and when signals come at a bad moment."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

from honed.lifeline import descendants
from tests.processes import ROOT, Honed, honed, is_alive

DAEMON = 'scenario = "tiny"\n[apply]\nkind = "none"\n[serve]\nport = 0\nthreads = 1'


def _script(text: str, *, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program that uses parts of `honed up`; fails when it, or a child of it, lives too long."""
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=limit_s
    )


def _up_refused(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "honed", "up", "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def _half_a_request(both: Honed) -> socket.socket:
    """A connection with a request that has begun and does not go on: a stop of the gateway waits for it."""
    host, _, port = both.serving()["address"].removeprefix("http://").rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=30)
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\nexpect: 100-continue\r\n\r\n"
    )
    assert client.recv(100).startswith(b"HTTP/1.1 100")  # the gateway reads the body: it has begun
    return client


def _locks_below(pids: list[int]) -> list[Path]:
    """The lock files that processes have open which were started by these."""
    below = [pid for each in pids for pid in descendants(each)]
    held: list[Path] = []
    for pid in below:
        with contextlib.suppress(OSError):  # a descriptor that is closed meanwhile
            held += [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return [path for path in held if path.suffix == ".lock"]


def test_up_that_was_killed_is_started_again_while_its_gateway_still_drains(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """It says that it waits, and takes over once both of the former have ended; 78 is for a second one alone."""
    settings = f'{DAEMON}\nbase_model_path = "{tiny_gguf}"\ndrain_timeout = "3s"'
    with honed(tmp_path, settings) as both:
        both.start("up")
        both.until(lambda: "tiny" in both.serving()["scenarios"], "there is a lane")
        former = both.children("up")
        both.until(lambda: any(map(descendants, former)), "a server runs")
        both.until(lambda: not _locks_below(former), "no lock is a server's")
        second = _up_refused(both.config)
        assert second.returncode == 78
        assert f"another `honed up` runs on {both.data_dir}" in second.stderr
        with _half_a_request(both):
            both.kill("up")
            child = both.start("up", is_awaited=False)
            both.until(lambda: "left processes" in both.log_tail(), "it says that it waits")
            both.until(lambda: not any(map(is_alive, former)), "the former have ended")
        both.until(lambda: child.poll() is not None or both.is_up(), "the next answer")
        assert child.poll() is None, both.log_tail()
        assert both.status()["pid"] not in former
        assert both.stop("up") == 0


def test_up_that_waits_for_what_was_left_can_be_stopped(tmp_path: Path, tiny_gguf: Path) -> None:
    """A signal ends it at once, and cleanly."""
    settings = f'{DAEMON}\nbase_model_path = "{tiny_gguf}"\ndrain_timeout = "20s"'
    with honed(tmp_path, settings) as both:
        both.start("up")
        both.until(lambda: "tiny" in both.serving()["scenarios"], "there is a lane")
        former = both.children("up")
        with _half_a_request(both):
            both.kill("up")
            both.start("up", is_awaited=False)
            both.until(lambda: "left processes" in both.log_tail(), "it says that it waits")
            assert both.stop("up") == 0
            assert any(map(is_alive, former))
        both.until(lambda: not any(map(is_alive, former)), "the former have ended")


def test_up_tries_again_when_the_kernel_cannot_give_it_a_process(tmp_path: Path) -> None:
    """Without descriptors nothing is forked: it says so and waits, and the gateway goes on meanwhile."""
    with honed(tmp_path, DAEMON) as both:
        up = both.start("up")
        daemon = both.status()["pid"]
        [gateway] = [pid for pid in both.children("up") if pid != daemon]
        before = resource.prlimit(up.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(up.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        os.kill(daemon, signal.SIGKILL)
        both.until(
            lambda: both.log_tail().count("`honed run` cannot be started") >= 2, "it tries twice"
        )
        assert up.poll() is None
        resource.prlimit(up.pid, resource.RLIMIT_NOFILE, before)
        assert both.status()["pid"] != daemon
        assert gateway in both.children("up")
        assert both.stop("up") == 0
        assert "Traceback" not in both.log_tail()


def test_a_signal_at_any_line_of_the_watch_ends_it() -> None:
    """The handler waits for nothing that the interrupted code may hold."""
    done = _script(
        """
import signal, sys
from honed.cli import up

up._LOOK_EVERY_S = 0.001

def ends_when_signalled_at(number):
    signals = up._Signals()
    left = number

    def trace(frame, kind, argument):
        nonlocal left
        left -= kind == "line"
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    up._watch([], signals)
    sys.settrace(None)

for number in range(1, 100):
    ends_when_signalled_at(number)
print("ended")
""",
        limit_s=20,
    )
    assert done.stdout == "ended\n", done.stderr


def test_a_child_whose_parent_died_before_it_was_tied_to_it_ends() -> None:
    """Killed between fork and prctl, `honed up` leaves nothing, though the child still has its handlers."""
    done = _script(
        """
import os, signal, sys, tempfile, time
from honed.cli import up

up._Signals()
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
with tempfile.TemporaryFile() as lock:
    up._become([sys.executable, "-c", "print('orphan')"], {}, lock.fileno(), parent)
""",
        limit_s=20,  # the child has the pipes, so this waits for it
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
