"""What the checks take from the config of a run."""

from pathlib import Path

import pytest

from honed.checks.run_config import plan_of
from honed.checks.run_plan import RunPlan
from honed.config.run_file import RunFile, default_table, run_file_of
from honed.errors import ConfigError

TOML = """
[model]
name = "m"
max_seq_length = 512
[lora]
r = 16
[training]
[dataset]
path = "d/train.jsonl"
chat_template = "chatml"
[save]
lora_path = "out"
"""


@pytest.mark.feature("TR-007")
def test_places_and_settings_are_those_of_the_file(tmp_path: Path) -> None:
    """What it leaves out is as by default."""
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    assert plan_of(path) == RunPlan(
        base_model="m",
        max_length=512,
        r=16,
        train_path=Path("d/train.jsonl"),
        chat_template="chatml",
        adapter_path=Path("out"),
        config_path=path,
    )
    assert plan_of(path).splits == {
        "train": Path("d/train.jsonl"),
        "validation": Path("d/val.jsonl"),
        "test": Path("d/test.jsonl"),
    }


@pytest.mark.feature("TR-007")
def test_without_a_file_the_defaults_are_those_of_a_run(tmp_path: Path) -> None:
    """Key by key the same as in a file that says nothing but the model."""
    assert plan_of(None) == RunPlan()
    path = tmp_path / "run.json"
    path.write_text('{"model": {"name": "m"}, "lora": {}, "training": {}, "dataset": {}}')
    assert plan_of(path) == RunPlan(base_model="m", config_path=path)
    assert isinstance(run_file_of(default_table("m"), "defaults"), RunFile)
    assert RunPlan().settings == "batch 2, accumulation 4, r 8, length 2048, 4-bit"


@pytest.mark.feature("TR-007")
@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (TOML.replace("r = 16", "r = 7").replace("512", "5"), 2),
        ("[", 0),
        (None, 0),
    ],
    ids=["values", "no-toml", "absent"],
)
def test_a_file_that_cannot_be_used_says_all_its_faults(
    tmp_path: Path, text: str | None, faults: int
) -> None:
    """At once, for the report."""
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        plan_of(path)
    assert len(error.value.faults) == faults
