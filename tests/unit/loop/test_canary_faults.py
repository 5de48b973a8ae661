"""Canaries where something is amiss: a store that cannot be written, counts that begin anew, a clock, verdicts."""

import sqlite3
from pathlib import Path

import pytest

from honed.domain.canary import Requests
from honed.errors import StoreError
from tests.unit.loop.conftest import SCENARIO
from tests.unit.loop.trial import LIVE, NEXT, TRIED, Trial

pytestmark = pytest.mark.anyio


class Broken:
    """A table of the store that cannot be written."""

    def __init__(self, folder: Path, table: str) -> None:
        self._db = sqlite3.connect(folder / "honed.db", isolation_level=None)
        for verb in ("INSERT", "UPDATE"):
            self._db.execute(
                f"CREATE TRIGGER no_{verb} BEFORE {verb} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )

    def mend(self) -> None:
        for verb in ("INSERT", "UPDATE"):
            self._db.execute(f"DROP TRIGGER no_{verb}")
        self._db.close()


async def test_what_is_rolled_back_gets_no_task_again_while_that_cannot_be_written(
    trial: Trial, tmp_path: Path
) -> None:
    """The gateway has withdrawn it, the store still says that it is tried: it is not served to be withdrawn anew."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 30, done=24)
    await trial.work(TRIED, 16, done=1)
    broken = Broken(tmp_path, "canaries")
    for _ in range(3):
        with pytest.raises(StoreError, match="the disk is full"):
            await trial.look()
        assert trial.lane.candidate is None
    assert trial.lane.num_tried == 1
    trial.begin()  # nor by the next daemon
    with pytest.raises(StoreError, match="the disk is full"):
        await trial.look()
    broken.mend()
    await trial.look()
    assert ((await trial.newest()).state, trial.lane.num_tried) == ("rolled_back", 1)


@pytest.mark.parametrize("is_brought_back", [False, True])
async def test_a_promotion_that_could_not_be_written_is_done_again(
    trial: Trial, tmp_path: Path, is_brought_back: bool
) -> None:
    """Whether the gateway still serves it then, or was brought back to what the history says, it is in service once."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=24)
    await trial.work(TRIED, 80, done=72)
    broken = Broken(tmp_path, "applied")
    with pytest.raises(StoreError, match="the disk is full"):
        await trial.look()
    assert (trial.lane.served, (await trial.now()).state) == (TRIED, "watching")
    broken.mend()
    if is_brought_back:
        await trial.service.reconcile()
        assert trial.lane.served == LIVE
    await trial.look()
    assert ((await trial.newest()).state, trial.lane.served) == ("promoted", TRIED)
    assert trial.lane.num_tried == 1 + is_brought_back
    history = await trial.store.history(SCENARIO)
    assert [entry.model_id for entry in history] == [LIVE, TRIED]


async def test_a_promotion_of_which_only_the_history_could_be_written_is_over(
    trial: Trial, tmp_path: Path
) -> None:
    """What is in service is not tried, whatever the canary's own row says."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=24)
    await trial.work(TRIED, 80, done=72)
    broken = Broken(tmp_path, "canaries")
    with pytest.raises(StoreError, match="the disk is full"):
        await trial.look()
    broken.mend()
    await trial.look()
    assert ((await trial.newest()).state, trial.lane.served) == ("promoted", TRIED)


@pytest.mark.parametrize(
    ("before", "after", "counted"),
    [
        ((100, 0), (130, 9), (30, 9)),
        ((100, 3), (30, 2), (30, 2)),
        ((100, 3), (120, 2), (120, 2)),
        ((100, 0), (150, 60), (150, 60)),
        ((0, 0), (5, 8), (5, 5)),
    ],
    ids=["go on", "begin anew", "fewer failed", "more failed than came", "more than there are"],
)
def test_counts_that_began_anew_are_told_by_what_cannot_be(
    before: tuple[int, int], after: tuple[int, int], counted: tuple[int, int]
) -> None:
    """A gateway that was started again may have counted further than the one before; no share is above one."""
    seen = Requests(seen_num=before[0], seen_failed=before[1])
    told = seen.told(*after, is_new=seen.is_behind(*after))
    assert (told.num, told.failed) == counted


async def test_a_gateway_that_gave_the_candidate_anew_counts_the_live_version_once(
    trial: Trial,
) -> None:
    """Only the candidate's counts begin anew with it."""
    trial.lane.requests = 1_000
    await trial.offer(TRIED)
    trial.lane.requests = 1_300
    trial.lane.answered(TRIED, requests=30)
    await trial.look()
    trial.lane.requests = 1_400
    trial.lane.answered(TRIED, requests=10)
    await trial.look()
    canary = await trial.now()
    assert canary.candidate_requests.num == 40
    assert canary.live_requests is not None
    assert canary.live_requests.num == 270 + 100 + 20


async def test_a_clock_that_is_put_back_confuses_no_two_canaries(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one is the newer one, and has a row of its own."""
    await trial.offer(TRIED)
    began_ms = (await trial.now()).started_at_ms
    await trial.watch.withdraw(by="ann")
    await trial.add(NEXT)
    for time_ms in (began_ms, began_ms - 86_400_000):
        monkeypatch.setattr("honed.loop.canary_watch.now_ms", lambda at=time_ms: at)
        await trial.watch.begin(NEXT, share=0.2, is_shadow=False, force=True, by="ann")
        assert (await trial.newest()).model_id == NEXT
        await trial.watch.withdraw(by="ann")
    over = await trial.store.canaries.list(SCENARIO)
    assert [each.model_id for each in over] == [NEXT, NEXT, TRIED]
    assert [each.started_at_ms - began_ms for each in over] == [2, 1, 0]


async def test_successes_that_are_all_that_is_told_of_it_do_not_promote_it(trial: Trial) -> None:
    """Where attempts that go wrong end without a verdict, more success may be less."""
    await trial.offer(TRIED)
    await trial.work(LIVE, 80, done=24, untold=4)
    await trial.work(TRIED, 80, done=80, untold=60)
    await trial.look()
    held = await trial.now()
    assert (held.state, trial.lane.served) == ("held", LIVE)
    assert held.reason.endswith("; but fewer verdicts: of 57.1% of 140 tasks against 95.2% of 84")


async def test_lower_scores_roll_back_what_succeeds_as_often(trial: Trial) -> None:
    """Where every outcome is a success, and the score says how well it went."""
    await trial.offer(TRIED)
    for score in (0.8, 1.0):
        await trial.work(LIVE, 25, done=25, score=score)
        await trial.work(TRIED, 25, done=25, score=score - 0.3)
    await trial.look()
    over = await trial.newest()
    assert (over.state, over.reason) == (
        "rolled_back",
        "lower scores: 0.60 for a task against 0.90",
    )
