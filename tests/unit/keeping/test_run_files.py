"""Which rows of a training's files go when episodes are forgotten."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.keeping import run_files


def run(runs_dir: Path, *metadata: dict[str, Any] | bytes, name: str = "run-1") -> Path:
    """A training of one row for each line of metadata; row n says `text n`."""
    folder = runs_dir / name
    folder.mkdir(parents=True)
    lines = [told if isinstance(told, bytes) else msgspec.json.encode(told) for told in metadata]
    (folder / "chat.meta.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (folder / "chat.jsonl").write_text("".join(f'"text {n}"\n' for n in range(len(lines))))
    return folder


def texts(folder: Path) -> list[str]:
    return [msgspec.json.decode(row) for row in (folder / "chat.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("field", ["episode_id", "rejected_episode_id", "near_duplicate_of"])
def test_a_row_goes_whichever_field_names_the_episode(tmp_path: Path, field: str) -> None:
    """A pair holds the text of the attempt that was rejected as well."""
    others = {"episode_id": "e1", "rejected_episode_id": "e3", "near_duplicate_of": "e4"}
    folder = run(tmp_path, others, others | {field: "e2"}, {"episode_id": "e5"})
    assert run_files.runs_with(tmp_path, ["e2"]) == ["run-1"]
    assert run_files.take_out(tmp_path, ["e2"]) == ["run-1"]
    assert texts(folder) == ["text 0", "text 2"]
    assert len((folder / "chat.meta.jsonl").read_bytes().splitlines()) == 2
    assert run_files.take_out(tmp_path, ["e2"]) == []


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"episode_id": "\xff"}', b"{}", b'{"episode_id": null, "model": "m"}'],
    ids=["empty", "cut", "list", "not-utf-8", "nothing", "no-name"],
)
def test_a_row_that_may_be_anybodys_goes(tmp_path: Path, line: bytes) -> None:
    """It cannot be told from the one that must go."""
    folder = run(tmp_path, {"episode_id": "e1"}, line)
    assert run_files.take_out(tmp_path, ["e2"]) == ["run-1"]
    assert texts(folder) == ["text 0"]


def test_without_an_episode_no_file_is_touched(tmp_path: Path) -> None:
    """Whose name nobody knows has no rows, and lines that name nobody stay until somebody is forgotten."""
    folder = run(tmp_path, {"episode_id": "e1"}, b"{}")
    assert run_files.runs_with(tmp_path, []) == run_files.take_out(tmp_path, []) == []
    assert texts(folder) == ["text 0", "text 1"]
