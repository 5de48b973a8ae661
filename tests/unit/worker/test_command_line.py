"""The worker as a script: its flags, what it leaves, how it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from honed.domain.job import JobFailed, JobResult, TrainJob, TrainResult
from honed.domain.script import FLAGS, Said
from honed.domain.trained_model import TrainingMetrics
from honed.errors import ConfigError
from honed.worker.command_line import done, job_of
from tests.tiny_models import conversations


def data_in(folder: Path) -> Path:
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(8)))
    return path


def flags(folder: Path, **changed: str) -> list[str]:
    told = {"data": str(data_in(folder)), "output": str(folder / "air@3"), "model": "org/tiny"}
    return [part for name, value in (told | changed).items() for part in (f"--{name}", value)]


@pytest.mark.feature("SE-109", "SE-111")
def test_script_by_hand_leaves_a_whole_folder(tiny_base: Path, tmp_path: Path) -> None:
    """Flags win over the file; each line of stdout is JSON, the last one with loss, time and memory; PEFT loads it."""
    settings = tmp_path / "settings.toml"
    settings.write_text('device = "cpu"\nthreads = 1\nmax_steps = 3\nr = 32\nlogging_steps = 1\n')
    (tmp_path / "chat.meta.jsonl").write_text('{"episode_id": "e1"}\n' * 8)
    command = flags(tmp_path, model=str(tiny_base), config=str(settings), rank="4", lr="1e-3")
    ended = subprocess.run(
        [sys.executable, "-m", "honed.worker", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    *steps, last = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [step["step"] for step in steps if "loss" in step] == [1, 2, 3]
    assert last["type"] == "trained"
    assert last["final_loss"] == [step["loss"] for step in steps if "loss" in step][-1]
    assert last["training_time_secs"] > 0
    assert last["gpu_memory_mb"] is None
    output = tmp_path / "air@3"
    assert json.loads((output / "adapter_config.json").read_text())["r"] == 4
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["model_id"], manifest["scenario"]) == ("air@3", "air")
    assert manifest["episode_ids"] == ["e1"]
    assert manifest["settings"]["learning_rate"] == 1e-3
    kept = {"air@3", "chat.jsonl", "chat.meta.jsonl", "settings.toml"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    from peft import PeftModel

    from honed.worker.base_model import load_model

    PeftModel.from_pretrained(load_model(tiny_base, "cpu"), output)


@pytest.mark.feature("SE-109")
def test_flags_become_settings(tmp_path: Path) -> None:
    """Each of the eleven flags sets what it names; the other three say method, file and going on."""
    (tmp_path / "more.json").write_text('{"seed": 5, "method": "dpo"}')
    job, resume = job_of(
        [
            *flags(tmp_path, rank="8", alpha="16.5", dropout="0", epochs="2", lr="1e-4"),
            *("--batch-size", "1", "--grad-accum", "2", "--max-seq-length", "512"),
            *("--method", "kto", "--config", str(tmp_path / "more.json"), "--resume"),
        ]
    )
    assert resume
    told = job.settings
    assert (told.r, told.lora_alpha, told.lora_dropout, told.num_train_epochs) == (8, 16.5, 0, 2)
    assert (told.per_device_train_batch_size, told.gradient_accumulation_steps) == (1, 2)
    assert (told.learning_rate, told.max_length) == (1e-4, 512)
    assert (told.method, told.seed) == ("kto", 5)
    assert job.checkpoints_path == f"{tmp_path / 'air@3'}.checkpoints"
    assert len(FLAGS) + len(("--data", "--output")) == 11


@pytest.mark.feature("SE-109")
def test_wrong_flags_are_told_all_at_once(tmp_path: Path) -> None:
    """What is missing, unknown, no number or out of its limits; exit status 2, and nothing is written."""
    (tmp_path / "air@3").mkdir()
    (tmp_path / "air@3" / "adapter_config.json").touch()
    settings = tmp_path / "settings.toml"
    settings.write_text("warmup_steps = -1\nwarm_up = 3\n")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "honed.worker", "--output", str(tmp_path / "air@3")),
            *("--model", "m", "--rank", "0", "--lr", "fast", "--max-seq-length", "128"),
            *("--method", "magic", "--speed", "--config", str(settings)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    told = ended.stderr.splitlines()
    for words in (
        "--speed is no flag of this script",
        "--data is missing",
        "--rank is 0: expected a whole number in 1..256",
        "--lr is 'fast': expected a number above 0, up to 0.01",
        "--max-seq-length is 128: expected a whole number of 256 or more",
        "--method is 'magic': expected one of auto, sft, dpo, kto, grpo",
        f"--output {tmp_path / 'air@3'} exists: expected a new folder",
    ):
        assert words in told
    assert sum(line.startswith("--config: warm") for line in told) == 2
    with pytest.raises(ConfigError):
        job_of(["--rank"])


def test_a_flag_by_itself_is_no_job_file() -> None:
    """It is told as a flag that lacks its value."""
    done = subprocess.run(
        [sys.executable, "-m", "honed.worker", "--data"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "argument --data: expected one argument\n"


def test_failed_script_leaves_its_checkpoints(tmp_path: Path) -> None:
    """The folder comes only whole; checkpoints stay for `--resume`, and go with success or a new beginning."""
    job, _ = job_of(flags(tmp_path))
    output, checkpoints = Path(job.output_path), Path(str(job.checkpoints_path))
    seen: list[bool] = []

    def fail(job: TrainJob) -> JobResult:
        (Path(job.output_path) / "half").touch()
        checkpoints.mkdir(exist_ok=True)
        seen.append((checkpoints / "checkpoint-1").exists())
        (checkpoints / "checkpoint-1").touch()
        return JobFailed(kind="TrainingError", message="no")

    def succeed(job: TrainJob) -> JobResult:
        seen.append((checkpoints / "checkpoint-1").exists())
        return TrainResult(digest="d", metrics=TrainingMetrics())

    assert isinstance(done(job, fail, resume=True), JobFailed)
    assert not output.exists()
    assert isinstance(done(job, fail, resume=True), JobFailed)
    assert isinstance(done(job, fail, resume=False), JobFailed)
    assert isinstance(done(job, succeed, resume=True), TrainResult)
    assert seen == [False, True, False, True]
    assert output.is_dir()
    assert not checkpoints.exists()


@pytest.mark.feature("SE-116")
@pytest.mark.parametrize(
    ("lines", "loss", "final_loss", "gpu"),
    [
        (['{"loss": 2}', '{"loss": 1.5}'], 1.5, None, None),
        (['{"loss": 2}', '{"final_loss": 1.25, "gpu_memory_mb": 512}'], 2.0, 1.25, 512.0),
        (['{"loss": 2}', '{"loss": NaN}', '{"loss": "low"}', "loss: 3", "[1]"], 2.0, None, None),
    ],
)
def test_lines_tell_loss_and_memory(lines: list[str], loss: Any, final_loss: Any, gpu: Any) -> None:
    """The last number of each counts; what is no number, or no JSON object, says nothing."""
    said = Said()
    for line in lines:
        said.take(line.encode())
    assert (said.loss, said.final_loss, said.gpu_memory_mb) == (loss, final_loss, gpu)
