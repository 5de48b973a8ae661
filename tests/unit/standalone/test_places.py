"""What a run may take the place of."""

import re
from pathlib import Path

import pytest

from honed.errors import ValidationError
from honed.standalone.places import check_places


def check(folder: Path, lora: str = "lora", merged: str | None = None) -> None:
    check_places(
        folder / lora, None if merged is None else folder / merged, folder / "work/outputs"
    )


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_new_folders_and_those_of_a_former_run_are_taken(tmp_path: Path) -> None:
    """So are empty ones."""
    check(tmp_path, merged="merged")
    write(tmp_path / "lora/adapter_config.json")
    write(tmp_path / "merged/manifest.json")
    check(tmp_path, merged="merged")
    (tmp_path / "empty").mkdir()
    check(tmp_path, "empty")


@pytest.mark.parametrize("mine", ["notes.txt", "config.json", "sub/adapter_config.json"])
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, mine: str) -> None:
    """Whatever it holds: a project, a base model, a folder of adapters."""
    write(tmp_path / "place" / mine)
    with pytest.raises(ValidationError, match=r"save\.lora_path .* would be lost"):
        check(tmp_path, "place")
    with pytest.raises(ValidationError, match=r"save\.merged_path .* would be lost"):
        check(tmp_path, merged="place")
    assert (tmp_path / "place" / mine).exists()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    """By an adapter's folder."""
    write(tmp_path / "lora")
    with pytest.raises(ValidationError, match="is a file"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("lora", "merged", "inner"),
    [
        ("work", None, "training.output_dir"),
        ("work/outputs", None, "training.output_dir"),
        ("one", "one", "save.lora_path"),
        ("one/lora", "one", "save.lora_path"),
        ("lora", "work", "training.output_dir"),
    ],
    ids=["around", "same", "both", "inside", "merged"],
)
def test_no_output_takes_another_one_with_it(
    tmp_path: Path, lora: str, merged: str | None, inner: str
) -> None:
    """What is replaced whole in the end holds nothing that the run still needs."""
    with pytest.raises(ValidationError, match=f"^{re.escape(inner)} .* replaced whole"):
        check(tmp_path, lora, merged)
