"""Trackers: none by themselves, and only those that are installed."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from honed.config import Config
from honed.domain.job import TrainJob, TrainSettings
from honed.errors import ConfigError, UnsupportedError
from honed.worker.arguments import arguments
from honed.worker.trackers import places, use_trackers
from tests.unit.test_in_process import config_in


def job(folder: Path, *trackers: str) -> TrainJob:
    """A run whose base model is not there."""
    return TrainJob(
        run_id="r",
        model_id="air@1",
        scenario="air",
        learn_model="chat",
        base_model=str(folder / "nowhere"),
        data_path=str(folder / "chat.jsonl"),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(folder / "adapter"),
        result_path=str(folder / "result.json"),
        settings=TrainSettings(report_to=trackers),
    )


def test_nothing_is_tracked_by_itself(tmp_path: Path) -> None:
    """transformers would report to whatever is installed; here it is told to report to nothing."""
    settings = config_in(tmp_path).train.settings()
    told = arguments(settings, tmp_path, on_cpu=True, validates=False)
    assert told["report_to"] == "none"


def test_trackers_of_the_config_reach_the_trainer(tmp_path: Path) -> None:
    """By transformers' own names; another name is refused with the file."""
    settings = config_in(tmp_path, train={"report_to": ["tensorboard", "trackio"]}).train.settings()
    told = arguments(settings, tmp_path, on_cpu=True, validates=False)
    assert told["report_to"] == ["tensorboard", "trackio"]
    assert told["project"] == "honed"
    with pytest.raises((ConfigError, ValueError), match="report_to"):
        cast(Any, Config)(**{"scenario": "a", "train": {"report_to": ["papyrus"]}})


def test_missing_package_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    """The first that is missing, and what to do; the base model has not been looked for yet."""
    from honed.worker.train import train

    with pytest.raises(UnsupportedError, match="no_such_tracker, which is not installed") as found:
        train(job(tmp_path, "no_such_tracker"), lambda progress: None)
    assert "pip install no_such_tracker" in str(found.value.advice)
    assert not (tmp_path / "adapter").exists()


def test_what_trackers_write_stays_with_the_run(tmp_path: Path) -> None:
    """Unless the environment names a place."""
    named = {"MLFLOW_TRACKING_URI": "http://tracking.example"}
    assert places(["tensorboard", "mlflow", "wandb"], tmp_path) == {
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tensorboard"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "WANDB_DIR": str(tmp_path),
    }
    assert places(["trackio"], tmp_path) == {}
    before = dict(os.environ)
    use_trackers([], tmp_path, named)
    assert (named, dict(os.environ)) == ({"MLFLOW_TRACKING_URI": "http://tracking.example"}, before)
