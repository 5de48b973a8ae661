"""What the checks take from the config of a run."""

from pathlib import Path

import pytest

from honed.checks.run_config import plan_of
from honed.checks.run_plan import RunPlan
from honed.errors import ConfigError


@pytest.mark.feature("TR-007")
@pytest.mark.parametrize("form", ["toml", "json"])
def test_places_and_settings_are_those_of_the_file(tmp_path: Path, form: str) -> None:
    """What it leaves out is as by default; sections that the checks do not need are left alone."""
    path = tmp_path / f"run.{form}"
    path.write_text(
        '[model]\nname = "m"\nmax_seq_length = 512\n[lora]\nr = 16\n'
        '[dataset]\npath = "d/train.jsonl"\n[save]\nlora_path = "out"\n[wandb]\nenabled = 1\n'
        if form == "toml"
        else '{"model": {"name": "m", "max_seq_length": 512}, "lora": {"r": 16}, "wandb": 1,'
        ' "dataset": {"path": "d/train.jsonl"}, "save": {"lora_path": "out"}}'
    )
    assert plan_of(path) == RunPlan(
        base_model="m",
        max_length=512,
        r=16,
        train_path=Path("d/train.jsonl"),
        adapter_path=Path("out"),
        config_path=path,
    )
    assert plan_of(path).splits == {
        "train": Path("d/train.jsonl"),
        "validation": Path("d/val.jsonl"),
        "test": Path("d/test.jsonl"),
    }


@pytest.mark.feature("TR-007")
def test_without_a_file_the_defaults_hold() -> None:
    """Those of a stand-alone run."""
    assert plan_of(None) == RunPlan()
    assert RunPlan().settings == "batch 2, accumulation 4, r 8, length 2048, 4-bit"


@pytest.mark.feature("TR-007")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[lora]\nr = 'x'", r"\$.lora.r"),
        ("model = 1", r"\$.model"),
        ("[", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, text: str | None, says: str) -> None:
    """By the path of the value."""
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        plan_of(path)
