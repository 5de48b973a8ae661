"""What a run takes the place of when it is done: only what a run has written, never somebody's other files."""

from pathlib import Path

from honed.adapter_files import ADAPTER_CONFIG, MANIFEST_FILE
from honed.errors import ValidationError


def check_places(lora: Path, merged: Path | None, output_dir: Path) -> None:
    """Refuse folders whose content would be lost, before anything is trained.

    Args:
        lora: where the adapter goes; one that lies there is replaced.
        merged: where the merged model goes; one of a former run is replaced.
        output_dir: where the run works.

    Raises:
        ValidationError: one of them holds something else, or they lie inside each other.
    """
    _check(lora, "save.lora_path", ADAPTER_CONFIG)
    _check_outside(output_dir, lora, "training.output_dir", "save.lora_path")
    if merged is not None:
        _check(merged, "save.merged_path", MANIFEST_FILE)
        _check_outside(lora, merged, "save.lora_path", "save.merged_path")
        _check_outside(output_dir, merged, "training.output_dir", "save.merged_path")


def _check(place: Path, key: str, mark: str) -> None:
    if place.is_dir():
        if (place / mark).is_file() or not any(place.iterdir()):
            return
        what = f"holds other files than a run writes ({mark} is not among them)"
    elif place.exists():
        what = "is a file"
    else:
        return
    raise ValidationError(
        f"{key} {place} {what}, which would be lost: expected a new folder, or that of a former run",
        advice=f"name another folder in {key}",
    )


def _check_outside(inner: Path, outer: Path, inner_key: str, outer_key: str) -> None:
    if inner.absolute().is_relative_to(outer.absolute()):
        raise ValidationError(
            f"{inner_key} {inner} is in {outer_key} {outer}, which is replaced whole in the end",
            advice=f"name another folder in {outer_key}",
        )
