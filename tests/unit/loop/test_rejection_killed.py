"""A rejection is written down as a whole: killed at any of its statements, it has happened or it has not."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from honed.domain.outcome import Success
from honed.learn_models import create
from honed.loop import Approval
from honed.loop.orders import RunOrder
from honed.stores import open_store
from honed.training_sets import EpisodeTrainingSets
from tests.unit.loop.conftest import SCENARIO
from tests.unit.training_sets.test_builder import KEPT, SECRET, add, told

pytestmark = pytest.mark.anyio

REJECT = """
import os, signal, sys
from pathlib import Path
import anyio
from sqlalchemy import event
from sqlalchemy.engine import Engine
from honed.learn_models import create
from honed.loop import Approval
from honed.stores import open_store
from honed.training_sets import EpisodeTrainingSets

folder, scenario, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

async def main():
    async with open_store(f"sqlite:///{folder / 'honed.db'}") as store:
        sets = EpisodeTrainingSets(store, create("chat"), scenario=scenario, secret=b"s" * 32)
        approval = Approval(
            store, sets, scenario=scenario, learn_model="chat", scratch=folder / "runs",
            is_required=True, announce=lambda type, details: None,
        )
        await approval.load()
        count = 0

        @event.listens_for(Engine, "after_cursor_execute")
        def _(db, cursor, statement, *args):
            nonlocal count
            if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
                count += 1
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        await approval.reject(said_by="ann")

anyio.run(main)
"""


def approval_of(store: object, folder: Path) -> Approval:
    sets = EpisodeTrainingSets(store, create("chat"), scenario=SCENARIO, secret=SECRET)  # type: ignore[arg-type]
    return Approval(
        store,  # type: ignore[arg-type]
        sets,
        scenario=SCENARIO,
        learn_model="chat",
        scratch=folder / "runs",
        is_required=True,
        announce=lambda type, details: None,
    )


@pytest.mark.timeout(400)  # an interpreter for each statement
async def test_a_rejection_that_is_killed_has_happened_or_has_not(tmp_path: Path) -> None:
    """After each statement that writes: the run still waits and nothing is counted, until all of it is there."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with open_store(url) as store:
        await store.start_scenario(SCENARIO, "chat", now_ms=1)
        for at in (0, 1):
            await add(store, told(KEPT[at], Success(), scenario=SCENARIO))
        await approval_of(store, tmp_path).hold(RunOrder(id="run-1", reason="count(2)"))
    for last in range(1, 20):
        command = [sys.executable, "-c", REJECT, str(tmp_path), SCENARIO, str(last)]
        ended = subprocess.run(command, capture_output=True, timeout=120)
        async with open_store(url) as store:
            waits = await store.reviews.waiting(SCENARIO, "chat") is not None
            runs = [run.state for run in await store.list_runs(SCENARIO)]
            state = await store.start_scenario(SCENARIO, "chat", now_ms=2)
        if ended.returncode == 0:
            assert (waits, runs, state.last_train_count) == (False, ["skipped"], 2)
            assert last > 3, "a run, the counters and the review are three statements at least"
            return
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        assert (waits, runs, state.last_train_count) == (True, [], 0)
    pytest.fail("it never came to its end")
