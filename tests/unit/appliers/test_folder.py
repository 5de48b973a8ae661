"""A folder and a command: the link moves in one step, the hook knows, and a hook that fails undoes it."""

import os
import shlex
import shutil
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from honed.adapter_files import ADAPTER_WEIGHTS, adapter_digest
from honed.appliers import FolderApplier, folder
from honed.errors import ApplyError
from tests.own_servers import SCENARIO, published

pytestmark = pytest.mark.anyio


def applier(
    place: Path, *hook: str, hook_timeout_s: float = 60, scenario: str = SCENARIO
) -> FolderApplier:
    return FolderApplier(
        place / "served",
        scenario=scenario,
        hook=hook,
        hook_timeout=timedelta(seconds=hook_timeout_s),
    )


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


async def test_a_copy_and_a_link_are_all_there_is(tmp_path: Path, adapters: Path) -> None:
    """The copy is the adapter as it was published; nothing half-made lies about."""
    one = published(adapters, 1)
    await applier(tmp_path).apply(one, previous=None)
    served = tmp_path / "served"
    assert sorted(path.name for path in served.iterdir()) == ["airline", "airline@1"]
    assert (served / "airline").resolve() == served / "airline@1"
    assert adapter_digest(served / "airline") == one.digest
    shutil.rmtree(one.adapter_path)  # whoever serves it does not need it any more
    assert await applier(tmp_path).current() == "airline@1"


async def test_the_hook_is_told_what_serves_now_and_what_did(
    tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By variables; those that may hold secrets are not handed on."""
    monkeypatch.setenv("HONED_SERVER_KEY", "s3cret")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    one, two = published(adapters, 1), published(adapters, 2)
    told = tmp_path / "told"
    names = "SCENARIO LINK MODEL_ID ADAPTER_PATH DIGEST PREVIOUS_ID PREVIOUS_PATH"
    printed = " ".join(f'"$HONED_{name}"' for name in names.split())
    script = (
        f"printf '%s,' {printed} >> {shlex.quote(str(told))}; env >> {shlex.quote(str(told))}.env"
    )
    applied = applier(tmp_path, *shell(script))
    await applied.apply(one, previous=None)
    await applied.apply(two, previous=one)
    await applied.apply(None, previous=two)
    served = tmp_path / "served"
    link, first, second = (str(served / name) for name in ("airline", "airline@1", "airline@2"))
    assert told.read_text().rstrip(",").split(",") == [
        *("airline", link, "airline@1", first, one.digest, "", ""),
        *("airline", link, "airline@2", second, two.digest, "airline@1", first),
        *("airline", link, "", "", "", "airline@2", second),
    ]
    assert "s3cret" not in told.with_name("told.env").read_text()


async def test_the_hook_finds_the_link_moved(tmp_path: Path, adapters: Path) -> None:
    """A server that reads through the link is reloaded by it."""
    script = f'readlink "$HONED_LINK" > {shlex.quote(str(tmp_path / "seen"))}'
    await applier(tmp_path, *shell(script)).apply(published(adapters, 1), previous=None)
    assert (tmp_path / "seen").read_text() == "airline@1\n"


@pytest.mark.parametrize("was", [None, 1], ids=["base", "adapter"])
async def test_a_hook_that_fails_leaves_what_was_before(
    tmp_path: Path, adapters: Path, was: int | None
) -> None:
    """The link leads where it did; the error has the end of what the hook wrote."""
    two = published(adapters, 2)
    one = published(adapters, 1) if was else None
    if one is not None:
        await applier(tmp_path).apply(one, previous=None)
    failing = applier(tmp_path, *shell("echo reloading; echo cannot bind >&2; exit 3"))
    with pytest.raises(ApplyError, match="ended with status 3: reloading cannot bind") as raised:
        await failing.apply(two, previous=one)
    assert raised.value.advice
    assert await failing.current() == (one.id if one else None)
    await applier(tmp_path, "true").apply(two, previous=one)
    assert await failing.current() == "airline@2"


async def test_a_hook_that_is_ended_by_a_signal_has_failed(tmp_path: Path, adapters: Path) -> None:
    """As the kernel does when memory runs out."""
    failing = applier(tmp_path, *shell("kill -9 $$"))
    with pytest.raises(ApplyError, match="was ended by signal 9: it wrote nothing"):
        await failing.apply(published(adapters, 1), previous=None)
    assert await failing.current() is None


async def test_a_hook_that_takes_too_long_has_failed(tmp_path: Path, adapters: Path) -> None:
    """How long it may take is the operator's."""
    hanging = applier(tmp_path, "sleep", "600", hook_timeout_s=0.2)
    with pytest.raises(ApplyError, match=r"the hook sleep 600 took longer than 0\.2 s"):
        await hanging.apply(published(adapters, 1), previous=None)
    assert await hanging.current() is None


def _runs(pid: int) -> bool:
    """Whether a process does anything any more; one that its new parent has not reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def test_a_switch_that_is_cancelled_goes_back(tmp_path: Path, adapters: Path) -> None:
    """The hook is ended with all that it has started: nothing goes on reloading behind the back of what serves."""
    pids, begun = tmp_path / "pids", tmp_path / "begun"
    script = (
        f"sleep 600 & echo $! $$ > {shlex.quote(str(pids))}; touch {shlex.quote(str(begun))}; wait"
    )
    hanging, one = applier(tmp_path, *shell(script)), published(adapters, 1)
    async with anyio.create_task_group() as tasks:

        async def switch() -> None:
            await hanging.apply(one, previous=None)

        tasks.start_soon(switch)
        with anyio.fail_after(60):
            while not begun.exists():
                await anyio.sleep(0.01)
        assert await hanging.current() == "airline@1"
        tasks.cancel_scope.cancel()
    assert await hanging.current() is None
    for pid in map(int, pids.read_text().split()):
        with anyio.fail_after(60):
            while _runs(pid):
                await anyio.sleep(0.01)


async def test_a_hook_that_is_not_there_is_named(tmp_path: Path, adapters: Path) -> None:
    """And nothing has changed."""
    missing = applier(tmp_path, "/no/such/hook")
    with pytest.raises(ApplyError, match="the hook /no/such/hook is not there"):
        await missing.apply(published(adapters, 1), previous=None)
    assert await missing.current() is None


async def test_what_a_good_hook_leaves_running_is_its_own(tmp_path: Path, adapters: Path) -> None:
    """It may have started the server; that keeps the output open, and nobody waits for it."""
    pid = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {shlex.quote(str(pid))}"
    await applier(tmp_path, *shell(script)).apply(published(adapters, 1), previous=None)
    os.kill(int(pid.read_text()), 9)  # it still ran


async def test_serving_what_serves_already_calls_no_hook(tmp_path: Path, adapters: Path) -> None:
    """Everything that can be done twice is safe to do twice."""
    script = f"echo x >> {shlex.quote(str(tmp_path / 'calls'))}"
    applied, one = applier(tmp_path, *shell(script)), published(adapters, 1)
    for _ in range(2):
        await applied.apply(one, previous=None)
    assert (tmp_path / "calls").read_text() == "x\n"


async def test_a_copy_that_was_damaged_is_made_anew(tmp_path: Path, adapters: Path) -> None:
    """Its digest says so."""
    applied, one = applier(tmp_path), published(adapters, 1)
    await applied.apply(one, previous=None)
    (tmp_path / "served" / "airline@1" / ADAPTER_WEIGHTS).write_bytes(b"half")
    await applied.apply(one, previous=None)
    assert adapter_digest(tmp_path / "served" / "airline") == one.digest


async def test_the_copy_before_stays_and_older_ones_go(tmp_path: Path, adapters: Path) -> None:
    """Other scenarios may share the folder."""
    models = [published(adapters, number) for number in (1, 2, 3)]
    other = applier(tmp_path, scenario="airline2")
    await other.apply(models[0], previous=None)
    for model, previous in zip(models, [None, *models], strict=False):
        await applier(tmp_path).apply(model, previous=previous)
    names = sorted(path.name for path in (tmp_path / "served").iterdir())
    assert names == ["airline", "airline2", "airline@2", "airline@3"]


async def test_a_copy_that_cannot_be_removed_does_not_undo_the_switch(
    tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and tried again with the next one."""
    models = [published(adapters, number) for number in (1, 2, 3)]
    applied = applier(tmp_path)
    await applied.apply(models[0], previous=None)
    await applied.apply(models[1], previous=models[0])

    def refuse(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(folder, "remove_adapter", refuse)
    with capture_logs() as logs:
        await applied.apply(models[2], previous=models[1])
    assert [line["event"] for line in logs] == ["adapter.not_unloaded"]
    assert await applied.current() == "airline@3"


async def test_something_else_in_the_links_place_is_left_alone(
    tmp_path: Path, adapters: Path
) -> None:
    """It may be somebody's folder."""
    (tmp_path / "served" / "airline").mkdir(parents=True)
    with pytest.raises(ApplyError, match="is in the way: expected a link or nothing"):
        await applier(tmp_path).apply(published(adapters, 1), previous=None)
    assert (tmp_path / "served" / "airline").is_dir()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, adapters: Path) -> None:
    """With the path that failed."""
    (tmp_path / "served").write_text("a file")
    with pytest.raises(ApplyError):
        await applier(tmp_path).apply(published(adapters, 1), previous=None)


async def test_a_link_to_nothing_serves_nothing(tmp_path: Path) -> None:
    """Somebody has removed the copy behind it: the daemon puts it there again."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "airline").symlink_to("airline@9")
    assert await applier(tmp_path).current() is None
