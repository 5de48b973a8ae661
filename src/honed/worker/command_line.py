"""`python -m honed.worker --data FILE --output FOLDER --model MODEL ...`: one training as a script (`domain.script`).

`--config FILE` (TOML or JSON, names and values of `domain.train_settings`) says what no flag does; a flag wins over it.
A run writes checkpoints into `FOLDER.checkpoints`, and `--resume` goes on from the last whole one; they go when the
adapter is there. Each line of stdout is a JSON object, the last one with loss, time and GPU memory.
"""

import argparse
import json
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

import msgspec

from honed.domain.ids import parse_adapter_id
from honed.domain.job import AskedMethod, JobResult, TrainJob, TrainResult, TrainSettings
from honed.domain.script import FLAGS, LIMITS, Finished, fault_of
from honed.errors import ConfigError, ValidationError
from honed.worker.files import whole_folder

SETTINGS: Final[Mapping[str, str]] = {
    "--rank": "r",
    "--alpha": "lora_alpha",
    "--dropout": "lora_dropout",
    "--epochs": "num_train_epochs",
    "--batch-size": "per_device_train_batch_size",
    "--grad-accum": "gradient_accumulation_steps",
    "--lr": "learning_rate",
    "--max-seq-length": "max_length",
    "--method": "method",
}
"""The field of `TrainSettings` that a flag sets."""
_REQUIRED: Final = ("--data", "--output", "--model")
_METADATA: Final = ".meta.jsonl"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, faults=[message])


def job_of(arguments: Sequence[str]) -> tuple[TrainJob, bool]:
    """The training that a command line asks for, and whether it goes on from a checkpoint.

    Raises:
        ConfigError: something in it is wrong; `faults` has all that is.
    """
    given, unknown = _parser().parse_known_args(list(arguments))
    said = {f"--{name.replace('_', '-')}": value for name, value in vars(given).items() if value}
    faults = [f"{each} is no flag of this script" for each in unknown]
    faults += [f"{flag} is missing" for flag in _REQUIRED if flag not in said]
    settings = _from_flags(said, faults)
    try:
        settings = _from_file(said.get("--config"), faults) | settings
    except (OSError, ValueError) as error:
        faults.append(f"--config {said['--config']} cannot be read: {error}")
    if "--output" in said:
        faults += _faults_of_output(Path(said["--output"]))
    if "--data" in said and not Path(said["--data"]).is_file():
        faults.append(f"--data {said['--data']} is no file")
    if faults:
        raise ConfigError("; ".join(faults), faults=faults)
    return _job(said, msgspec.convert(settings, TrainSettings, strict=False)), given.resume


def run(
    job: TrainJob,
    do: Callable[[TrainJob], JobResult],
    *,
    resume: bool = False,
) -> JobResult:
    """Have the job done aside, and put its folder where it belongs, whole.

    Args:
        job: of `job_of`.
        do: trains into `output_path`; gives the result, or what failed.
        resume: go on from the last checkpoint, if there is one.
    """
    assert job.checkpoints_path is not None
    output, checkpoints = Path(job.output_path), Path(job.checkpoints_path)
    if not resume and checkpoints.exists():
        shutil.rmtree(checkpoints)
    with whole_folder(output) as aside:
        result = do(msgspec.structs.replace(job, output_path=str(aside)))
        if not isinstance(result, TrainResult):
            raise _FailedError(result)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def done(job: TrainJob, do: Callable[[TrainJob], JobResult], *, resume: bool) -> JobResult:
    """As `run`; a failure is a result, too."""
    try:
        return run(job, do, resume=resume)
    except _FailedError as failed:
        return failed.result


def finished(result: TrainResult) -> Finished:
    """The last line of stdout."""
    metrics = result.metrics
    return Finished(
        final_loss=metrics.final_loss,
        mean_loss=metrics.mean_loss,
        training_time_secs=metrics.training_time_secs,
        gpu_memory_mb=metrics.gpu_memory_mb,
        num_steps=metrics.num_steps,
        method=result.method,
        method_reason=result.method_reason,
    )


class _FailedError(Exception):
    """Leaves the folder unmade."""

    def __init__(self, result: JobResult) -> None:
        super().__init__()
        self.result = result


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m honed.worker", allow_abbrev=False)
    parser.add_argument("--data", help="JSON lines to learn from")
    parser.add_argument("--output", help="folder for the adapter; made")
    parser.add_argument("--model", help="base model: hub id or folder")
    for flag in FLAGS:
        if flag != "--model":
            parser.add_argument(flag, help=LIMITS[FLAGS[flag]].expected)
    parser.add_argument("--method", help=", ".join(get_args(AskedMethod)))
    parser.add_argument(
        "--config", help="TOML or JSON file with settings in TRL's and PEFT's names"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


def _from_flags(said: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for flag, field in SETTINGS.items():
        if flag not in said:
            continue
        value: Any = said[flag]
        if flag in FLAGS:
            value = _number(value, LIMITS[FLAGS[flag]].kind)
            fault = fault_of(FLAGS[flag], value, said=flag)
        else:
            fault = None if value in get_args(AskedMethod) else f"{flag} is {value!r}: expected one"
            fault = fault and f"{fault} of {', '.join(get_args(AskedMethod))}"
        if fault:
            faults.append(fault)
        settings[field] = value
    return settings


def _number(text: str, kind: type[int] | type[float]) -> int | float | str:
    try:
        return kind(text)
    except ValueError:
        return text


def _from_file(path: str | None, faults: list[str]) -> dict[str, Any]:
    """The settings of a file; raises OSError or ValueError where it cannot be read."""
    if path is None:
        return {}
    text = Path(path).read_text(encoding="utf-8")
    table = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    if not isinstance(table, dict):
        raise ValueError("expected a table of settings")
    for name, value in table.items():
        try:
            msgspec.convert({name: value}, TrainSettings, strict=False)
        except msgspec.ValidationError as error:
            faults.append(f"--config: {name}: {error}")
    return table


def _faults_of_output(output: Path) -> list[str]:
    if output.is_dir() and not any(output.iterdir()):
        return []
    if output.exists():
        return [f"--output {output} exists: expected a new folder"]
    return []


def _job(said: Mapping[str, str], settings: TrainSettings) -> TrainJob:
    data, output = Path(said["--data"]).absolute(), Path(said["--output"]).absolute()
    metadata = data.with_suffix(_METADATA)
    try:
        scenario, _ = parse_adapter_id(output.name)
    except ValidationError:
        scenario = output.name
    return TrainJob(
        run_id=output.name,
        model_id=output.name,
        scenario=scenario,
        learn_model=data.stem.removesuffix(".dpo"),
        base_model=said["--model"],
        data_path=str(data),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(output),
        result_path="",
        settings=settings,
        episode_ids=_episodes(metadata),
        metadata_path=str(metadata) if metadata.is_file() else None,
        checkpoints_path=f"{output}.checkpoints",
    )


def _episodes(metadata: Path) -> tuple[str, ...]:
    """The episodes of the rows, where a file beside them tells.

    Raises:
        ConfigError: it cannot be read.
    """
    found: set[str] = set()
    if not metadata.is_file():
        return ()
    try:
        for line in metadata.read_bytes().splitlines():
            told = json.loads(line)
            names = (told.get("episode_id"), told.get("rejected_episode_id"))
            found.update(name for name in names if isinstance(name, str))
    except (OSError, ValueError, AttributeError) as error:
        fault = f"{metadata}, beside --data, cannot be read: {error}"
        raise ConfigError(fault, faults=[fault]) from error
    return tuple(sorted(found))
