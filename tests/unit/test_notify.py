"""What is told on a real notify socket."""

import os
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from honed.errors import StoreError
from honed.notify import Supervisor
from tests.supervision import NotifySocket

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_a_supervisor_is_told_at_a_path_and_at_an_abstract_name(
    tmp_path: Path, is_abstract: bool
) -> None:
    """Both kinds of address are in use; a repeated status is sent once, and is one line."""
    with NotifySocket(None if is_abstract else tmp_path) as notify:
        supervisor = Supervisor.from_environment({"NOTIFY_SOCKET": notify.address})
        supervisor.ready()
        supervisor.status("two\nlines")
        supervisor.status("two\nlines")
        assert notify.listen(0.1) == ["READY=1", "STATUS=two lines"]


def test_the_variables_are_taken_so_that_no_child_speaks_in_our_name() -> None:
    """A worker or llama-server that feeds the watchdog would hide a hung daemon."""
    pid = str(os.getpid())
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": pid, "HOME": "/h"}
    assert Supervisor.from_environment(environment).listens
    assert environment == {"HOME": "/h"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_without_an_address_that_is_known_nobody_is_told(address: str) -> None:
    """Nothing is sent, and nothing fails."""
    supervisor = Supervisor.from_environment({"NOTIFY_SOCKET": address})
    assert not supervisor.listens
    supervisor.ready()


def test_a_supervisor_that_is_gone_or_busy_never_hurts(tmp_path: Path) -> None:
    """No file, and a queue that nobody reads."""
    Supervisor(str(tmp_path / "gone.sock")).ready()
    with NotifySocket(tmp_path) as notify:
        supervisor = Supervisor(notify.address)
        for n in range(2_000):
            supervisor.status(str(n))
        assert notify.listen(0.1)[0] == "STATUS=0"


async def test_the_watchdog_is_fed_twice_as_often_as_it_asks(tmp_path: Path) -> None:
    """As long as every check comes back."""
    with NotifySocket(tmp_path) as notify:
        environment = {"NOTIFY_SOCKET": notify.address, "WATCHDOG_USEC": "400000"}
        supervisor = Supervisor.from_environment(environment)
        with anyio.move_on_after(1):
            await supervisor.watch({"part": anyio.lowlevel.checkpoint})
        assert 3 <= notify.listen(0.05).count("WATCHDOG=1") <= 11


async def test_the_watchdog_of_another_process_is_not_fed(tmp_path: Path) -> None:
    """`WATCHDOG_PID` names whose it is."""
    with NotifySocket(tmp_path) as notify:
        environment = {
            "NOTIFY_SOCKET": notify.address,
            "WATCHDOG_USEC": "200000",
            "WATCHDOG_PID": "1",
        }
        with anyio.move_on_after(0.3):
            await Supervisor.from_environment(environment).watch({})
        assert notify.listen(0.05) == []


async def test_a_part_that_hangs_or_fails_starves_the_watchdog_until_it_is_back(
    tmp_path: Path,
) -> None:
    """Neither silence nor an error counts as a sign of life; a stall that ends in time does no harm."""
    with NotifySocket(tmp_path) as notify:
        supervisor = Supervisor(notify.address, watchdog_s=0.2)
        back = anyio.Event()

        async def broken() -> None:
            if not back.is_set():
                raise StoreError("broken")

        for part in (back.wait, broken):
            back = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(supervisor.watch, {"part": part if part is broken else back.wait})
                await anyio.sleep(0.5)
                assert notify.listen(0.01) == []
                back.set()
                with anyio.fail_after(60):
                    while "WATCHDOG=1" not in notify.listen(0.01):
                        await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()


async def test_a_stall_that_ends_in_time_is_logged_and_fed_at_its_end(tmp_path: Path) -> None:
    """The check is neither given up nor asked anew; what is said names the part, before the watchdog would bite."""
    watchdog_s, calls, back = 2.0, list[float](), anyio.Event()

    async def stalls() -> None:
        calls.append(anyio.current_time())
        await back.wait()

    with NotifySocket(tmp_path) as notify, capture_logs() as logged:
        supervisor = Supervisor(notify.address, watchdog_s=watchdog_s)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.watch, {"well": anyio.lowlevel.checkpoint, "slow": stalls})
            with anyio.fail_after(watchdog_s * 3 / 4):
                while not logged:
                    await anyio.sleep(0.01)
            await anyio.sleep(watchdog_s / 4)  # longer than the pause before the next look
            assert (len(calls), notify.listen(0.01)) == (1, [])
            back.set()
            with anyio.fail_after(watchdog_s / 4):
                while "WATCHDOG=1" not in notify.listen(0.01):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert [(line["event"], line["part"]) for line in logged] == [("watchdog.unfed", "slow")]


async def test_the_parts_are_asked_side_by_side(tmp_path: Path) -> None:
    """Two that are slow at once cost the time of one: here each waits until the other is asked."""
    first, second = anyio.Event(), anyio.Event()

    async def one() -> None:
        first.set()
        await second.wait()

    async def other() -> None:
        second.set()
        await first.wait()

    with NotifySocket(tmp_path) as notify:
        supervisor = Supervisor(notify.address, watchdog_s=60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.watch, {"one": one, "other": other})
            with anyio.fail_after(60):
                while "WATCHDOG=1" not in notify.listen(0.01):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_more_time_is_asked_for_until_ready_and_again_while_stopping(tmp_path: Path) -> None:
    """A store that is migrated, and requests that drain, take longer than a unit's timeouts."""
    with NotifySocket(tmp_path) as notify:
        supervisor, stop = Supervisor(notify.address, watchdog_s=0.4), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.lengthen_start, 60)
            tasks.start_soon(supervisor.lengthen_stop, stop, 60)
            await anyio.sleep(0.05)
            assert notify.listen(0.05)[0] == "EXTEND_TIMEOUT_USEC=30000000"
            supervisor.ready()
            await anyio.sleep(0.3)
            assert notify.listen(0.05) == ["READY=1"]
            stop.set()
            await anyio.sleep(0.5)
            said = notify.listen(0.05)
            tasks.cancel_scope.cancel()
        assert said[0] == "STOPPING=1"
        assert said.count("EXTEND_TIMEOUT_USEC=30000000") >= 3
        assert said.count("WATCHDOG=1") >= 3


async def test_a_start_that_never_ends_is_not_lengthened_for_ever(tmp_path: Path) -> None:
    """After the limit the supervisor's own timeout decides."""
    with NotifySocket(tmp_path) as notify:
        with anyio.fail_after(60):
            await Supervisor(notify.address).lengthen_start(0.1)
        assert notify.listen(0.05) == ["EXTEND_TIMEOUT_USEC=30000000"]
