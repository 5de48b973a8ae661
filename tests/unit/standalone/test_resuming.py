"""Whether a run goes on, begins anew, or may not, by what lies in its folder."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.domain.train_settings import TrainSettings
from honed.errors import BusyError, ValidationError
from honed.standalone.resuming import alone, begin, checkpoint_at, identity, telling_alone

SETTINGS = TrainSettings(target_modules=("q_proj", "v_proj"), learning_rate=1e-3)


def wanted(**changed: Any) -> dict[str, Any]:
    data = changed.pop("data", "digest")
    return identity(msgspec.structs.replace(SETTINGS, **changed), data=data)


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """The folder of a run that has left a checkpoint."""
    with alone(tmp_path):
        assert not begin(tmp_path, wanted(), resume=False, fresh=False)
    for name in ("checkpoint-4", "smaller-1/checkpoint-2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "complete.json").write_text("{}")
    return tmp_path


@pytest.mark.feature("TR-062")
def test_the_same_run_goes_on(cut_off: Path) -> None:
    """What is only logged or saved otherwise makes no other run."""
    assert begin(cut_off, wanted(), resume=True, fresh=False)
    assert begin(cut_off, wanted(logging_steps=9, save_steps=1), resume=True, fresh=False)
    assert (cut_off / "checkpoint-4").exists()


@pytest.mark.feature("TR-062")
@pytest.mark.parametrize("name", ["learning_rate", "data"])
def test_another_run_does_not_go_on(cut_off: Path, name: str) -> None:
    """With what differs."""
    changed = wanted(**{name: 5e-4 if name == "learning_rate" else "other"})
    with pytest.raises(ValidationError, match=f"begun otherwise: {name} changed"):
        begin(cut_off, changed, resume=True, fresh=False)


@pytest.mark.feature("TR-062")
def test_a_run_that_was_cut_off_is_not_lost_by_accident(cut_off: Path) -> None:
    """One has to say what becomes of it; a finished one makes room by itself."""
    with pytest.raises(ValidationError, match="cut off"):
        begin(cut_off, wanted(), resume=False, fresh=False)
    (cut_off / "run/result.json").write_text(json.dumps({"result": "failed"}))
    with pytest.raises(ValidationError, match="cut off"):
        begin(cut_off, wanted(), resume=False, fresh=False)
    (cut_off / "run/result.json").write_text(json.dumps({"result": "ran"}))
    assert not begin(cut_off, wanted(), resume=False, fresh=False)
    assert checkpoint_at(cut_off) is None


def test_two_runs_do_not_tell_their_state_in_one_place(tmp_path: Path) -> None:
    """Though they work in folders of their own; the next one may, when the first is over."""
    log = tmp_path / "logs/training.log"
    refused = pytest.raises(BusyError, match="another run writes its log")
    with telling_alone(log), refused, telling_alone(log):
        pytest.fail("both tell")
    with telling_alone(log):
        assert log.read_bytes() == b""


@pytest.mark.parametrize(("resume", "fresh"), [(False, False), (True, False), (False, True)])
def test_checkpoints_of_another_program_are_not_removed(
    tmp_path: Path, resume: bool, fresh: bool
) -> None:
    """`outputs` is where other trainers write too: nobody has said that those may go."""
    (tmp_path / "checkpoint-500").mkdir()
    with alone(tmp_path), pytest.raises(ValidationError, match="not written by a run of honed"):
        begin(tmp_path, wanted(), resume=resume, fresh=fresh)
    assert (tmp_path / "checkpoint-500").exists()


@pytest.mark.feature("TR-062")
def test_a_fresh_run_takes_the_place_of_another(cut_off: Path) -> None:
    """Its checkpoints go; without any there is nothing to go on from."""
    assert not begin(cut_off, wanted(data="other"), resume=False, fresh=True)
    assert checkpoint_at(cut_off) is None
    assert not begin(cut_off, wanted(), resume=True, fresh=False)
