"""A run that does not fit into memory goes on smaller, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from honed.domain.job import JobResult, TrainResult, TrainSettings, parse_result
from honed.worker.smaller import smaller
from tests.tiny_models import conversations
from tests.unit.worker.test_train import job

SETTINGS = TrainSettings(
    r=4,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=1,
    num_train_epochs=1,
    max_length=1024,
    threads=1,
    logging_steps=1,
    validation_fraction=0.0,
    device="cpu",
)

LIMITED = """
import resource, sys
from pathlib import Path
import datasets, peft, torch, transformers, trl
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[2]) << 20),) * 2)
from honed.worker.__main__ import main
main([sys.argv[1]])
"""
"""A worker that may take so many MiB more than its libraries need."""


def long_data(path: Path) -> Path:
    """Eight rows of about 900 tokens."""
    rows = [row["messages"] for row in conversations(64)]
    talk = [turn for messages in rows for turn in messages if turn["role"] != "system"][:90]
    lines = [
        json.dumps({"messages": [{"role": "system", "content": str(number)}, *talk]})
        for number in range(8)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def limited(base: Path, folder: Path, mib: int) -> tuple[JobResult, list[str]]:
    """What came of a run, and what it told."""
    data = long_data(folder / "train.jsonl")
    todo = job(base, data, folder, settings=SETTINGS, held_out_path=None)
    path = folder / "job.json"
    path.write_bytes(msgspec.json.encode(todo))
    with (folder / "worker.log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(path), str(mib)],
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    assert done.returncode in (0, 1), (folder / "worker.log").read_text()[-2000:]
    lines = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    result = parse_result(Path(todo.result_path).read_bytes())
    return result, [line["note"] for line in lines if "note" in line]


@pytest.mark.feature("TR-087")
def test_batches_are_halved_until_they_fit(tiny_base: Path, tmp_path: Path) -> None:
    """A step learns from as many rows as before; the manifest has the settings that it was done with."""
    result, notes = limited(tiny_base, tmp_path, 500)
    assert isinstance(result, TrainResult)
    assert result.metrics.num_steps == 1
    assert notes[0] == (
        "out of memory: goes on with batches of 4, 2 to a step, rows of up to 1024 tokens"
    )
    done_with = json.loads((tmp_path / "adapter/manifest.json").read_text())["settings"]
    assert 1 <= done_with["per_device_train_batch_size"] < 8
    rows = done_with["per_device_train_batch_size"] * done_with["gradient_accumulation_steps"]
    assert rows == 8


def test_smaller_keeps_the_rows_of_a_step_and_then_shortens() -> None:
    """Odd batches round up; rows go down to what still holds a conversation."""
    settings: TrainSettings | None = TrainSettings(
        per_device_train_batch_size=6, gradient_accumulation_steps=3, max_length=4096
    )
    tried = []
    while settings := smaller(settings, longest=1800):
        tried.append(
            (
                settings.per_device_train_batch_size,
                settings.gradient_accumulation_steps,
                settings.max_length,
            )
        )
    assert tried == [(3, 6, 4096), (1, 18, 4096), (1, 18, 900), (1, 18, 450)]
