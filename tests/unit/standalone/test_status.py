"""Status, log and remarks of a run, by what a worker reports."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from honed.domain.job import Progress
from honed.domain.train_settings import TrainSettings
from honed.errors import ValidationError
from honed.standalone import read_status, remarks
from honed.standalone.keeper import LOG_FILE, Keeper
from honed.standalone.resuming import telling_alone
from honed.standalone.status import STATUS_FILE, write_status
from honed.standalone.training_log import RunStatus, last_state, line_of


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, total: int = 10, **more: float) -> Progress:
    return Progress(
        phase="training",
        step=number,
        total_steps=total,
        epoch=3 * number / total,
        loss=2.0 - number / 10,
        learning_rate=1e-4,
        **more,
    )


@pytest.mark.feature("TR-071")
def test_the_time_that_is_left_falls_and_is_near_the_truth(tmp_path: Path) -> None:
    """Steps of 8 to 12 seconds: what is told is never off by half, and nothing is told before the first."""
    clock = Clock()
    keeper = Keeper(tmp_path, tmp_path / "outputs", TrainSettings(), clock=clock)
    keeper.take(Progress(phase="training", step=0, total_steps=10))
    assert keeper.status.eta_seconds is None
    spans = [12.0, 8.0, 10.0, 11.0, 9.0] * 2
    told = []
    for number, span in enumerate(spans, 1):
        clock.now += span
        keeper.take(step(number))
        left = keeper.status.eta_seconds
        assert left is not None
        assert left == pytest.approx(sum(spans[number:]), rel=0.5)
        told.append(left)
    assert told == sorted(told, reverse=True)
    assert told[-1] == 0


@pytest.mark.feature("TR-071", "TR-067")
def test_a_run_that_goes_on_counts_its_own_steps(tmp_path: Path) -> None:
    """Not those of the process before, which took no time in this one."""
    clock = Clock()
    keeper = Keeper(tmp_path, tmp_path / "o", TrainSettings(), started_at="then", clock=clock)
    keeper.take(Progress(phase="training", step=5, total_steps=10))
    clock.now += 7
    keeper.take(step(6))
    assert keeper.status.eta_seconds == pytest.approx(28)
    assert keeper.status.started_at == "then"


@pytest.mark.feature("TR-068")
def test_epochs_of_a_run_by_steps_are_those_it_will_make(tmp_path: Path) -> None:
    """Where a number of steps wins, the configured epochs mean nothing."""
    keeper = Keeper(tmp_path, tmp_path / "o", TrainSettings(max_steps=4, num_train_epochs=9))
    keeper.take(Progress(phase="training", step=0, total_steps=4))
    keeper.take(
        Progress(phase="training", step=1, total_steps=4, epoch=0.5, loss=1.0, learning_rate=0.0)
    )
    assert (keeper.status.epoch, keeper.status.total_epochs) == (0.5, 2.0)


@pytest.mark.feature("TR-075", "TR-076", "TR-077")
def test_log_and_status_tell_the_same(tmp_path: Path) -> None:
    """Also of a failure whose words have quotes, equal signs and new lines."""
    keeper = Keeper(tmp_path, tmp_path / "o", TrainSettings())
    keeper.take(Progress(phase="training", step=0, total_steps=10))
    keeper.take(step(1))
    keeper.note("something to know")
    keeper.fail('no "step=9/9" there: a = b\nsecond line')
    by_file = read_status(tmp_path / STATUS_FILE, tmp_path / "none")
    by_log = read_status(tmp_path / "none", tmp_path / LOG_FILE)
    assert by_file == by_log == keeper.status
    assert by_file is not None
    assert by_file.error == 'no "step=9/9" there: a = b\nsecond line'


@pytest.mark.feature("TR-077")
def test_a_log_that_was_touched_within_a_minute_is_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """An older one is not, nor one that says how it ended; only the last 20 lines are read."""
    log = tmp_path / "training.log"
    state = RunStatus(
        running=True, last_updated="t", step=3, total_steps=9, epoch=1.0, total_epochs=3.0, loss=1.5
    )
    log.write_text("\n".join(["noise", line_of(state), *["noise"] * 10]) + "\n")
    os.utime(log, (1000.0, 1000.0))
    fresh = read_status(tmp_path / "none", log, now=1060.0)
    old = read_status(tmp_path / "none", log, now=1061.0)
    assert fresh is not None
    assert old is not None
    assert (fresh.running, fresh.step, fresh.loss) == (True, 3, 1.5)
    assert not old.running
    ended = msgspec.structs.replace(state, completed_at="t")
    log.write_text(line_of(ended) + "\n")
    os.utime(log, (1000.0, 1000.0))
    done = read_status(tmp_path / "none", log, now=1001.0)
    assert done is not None
    assert not done.running
    log.write_text("\n".join([line_of(state), *["noise"] * 20]) + "\n")
    assert last_state(log) is None
    assert read_status(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.feature("TR-063", "TR-066")
def test_a_run_that_was_killed_whole_is_told_a_minute_after_its_last_word(tmp_path: Path) -> None:
    """Nobody was left to write it down; while its process has the log, it runs however long it is silent."""
    status, log = tmp_path / STATUS_FILE, tmp_path / LOG_FILE
    with telling_alone(log):
        keeper = Keeper(tmp_path, tmp_path / "o", TrainSettings())
        keeper.take(Progress(phase="training", step=0, total_steps=10))
        keeper.take(step(1))
        os.utime(status, (1000.0, 1000.0))
        assert read_status(status, log, now=9999.0) == keeper.status
    assert read_status(status, log, now=1060.0) == keeper.status
    killed = read_status(status, log, now=1061.0)
    assert killed is not None
    assert (killed.running, killed.step, killed.eta_seconds) == (False, 1, None)
    assert "--resume" in str(killed.error)
    keeper.complete()
    os.utime(status, (1000.0, 1000.0))
    assert read_status(status, log, now=1061.0) == keeper.status


@pytest.mark.feature("TR-075")
def test_a_status_is_replaced_whole(tmp_path: Path) -> None:
    """Nothing is left beside it; what is no status is refused by name."""
    path = tmp_path / STATUS_FILE
    write_status(path, RunStatus(running=True, step=1))
    before = path.stat().st_ino
    write_status(path, RunStatus(running=True, step=2))
    assert path.stat().st_ino != before
    assert [each.name for each in tmp_path.iterdir()] == [STATUS_FILE]
    path.write_text("{}")
    with pytest.raises(ValidationError, match="is no status of a run"):
        read_status(path, tmp_path / "none")


@pytest.mark.feature("TR-084", "TR-085")
@pytest.mark.parametrize(
    ("first", "final", "levels"),
    [
        (3.0, 1.2, ["warning"]),
        (3.0, 1.0, ["note"]),
        (3.0, 0.5, ["note"]),
        (3.0, 0.4, ["good"]),
        (0.3, 0.4, ["warning", "good"]),
        (1.1, 1.2, ["warning", "warning"]),
        (None, None, []),
    ],
)
def test_losses_are_judged(first: float | None, final: float | None, levels: list[str]) -> None:
    """Over 1.0 warns, under 0.5 is good; one that has risen is diverging, however low."""
    found = remarks(first, final)
    assert [remark.level for remark in found] == levels
    is_diverging = first is not None and final is not None and final > first
    assert any("diverging" in remark.text for remark in found) == is_diverging


def test_a_validation_loss_is_a_line_of_the_log(tmp_path: Path) -> None:
    """Beside those of the steps, which stay the last that was told of the run."""
    keeper = Keeper(tmp_path, tmp_path / "o", TrainSettings())
    keeper.take(step(2))
    keeper.take(Progress(phase="training", step=2, total_steps=10, validation_loss=1.25))
    assert keeper.status.loss == step(2).loss
    assert (tmp_path / LOG_FILE).read_text().endswith("Z validation loss 1.2500 after step 2\n")


def test_the_error_of_a_run_is_not_hidden_by_one_of_its_status(tmp_path: Path) -> None:
    """On a full disk neither status nor log can say how it ended; the run's own error goes up all the same."""
    folder = tmp_path / "run"
    folder.mkdir()
    keeper = Keeper(folder, folder / "o", TrainSettings())
    (folder / LOG_FILE).unlink()
    (folder / LOG_FILE).symlink_to("/dev/full")
    with pytest.raises(ValidationError, match="No space"):
        keeper.note("x")
    keeper.fail("the disk is full")
    shutil.rmtree(folder)
    keeper.fail("the disk is gone")
    assert keeper.status.error == "the disk is gone"
    assert not list(tmp_path.iterdir())
