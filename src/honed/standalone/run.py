"""A run from its config to the adapter: the worker process does it, what can be said of it is written here.

    training-status.json, logs/training.log    while it works
    metrics/training-stats.json                when it is done

Whatever ends the run (a fault, a kill for memory, ^C), the status says so before the error goes up.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
from msgspec import Struct

from honed.adapter_files import file_digest
from honed.checks.files import write_json
from honed.config.run_file import RunFile
from honed.domain.ids import run_id
from honed.domain.job import Progress, RunJob, RunResult
from honed.domain.times import iso_utc
from honed.errors import HonedError, ValidationError
from honed.processors import run_job
from honed.standalone.keeper import LOG_FILE, Keeper
from honed.standalone.places import check_places
from honed.standalone.quality import Remark, remarks
from honed.standalone.quantizer import find_quantizer
from honed.standalone.resuming import alone, begin, identity, telling_alone
from honed.standalone.rows import write_rows
from honed.standalone.status import STATUS_FILE, read_status
from honed.standalone.training_log import RunStatus
from honed.standalone.wording import in_keys_of_a_run

STATS_FILE: Final = "metrics/training-stats.json"
SILENCE_MAX: Final = timedelta(hours=6)
"""A large model may be downloaded meanwhile, and a step of one takes long on a CPU."""
NOTHING_LEFT: Final = "there is no checkpoint to go on from: the run begins anew"
STOP_GRACE: Final = timedelta(minutes=5)
"""A step ends and a checkpoint is written before a run stops."""


class TrainingStats(Struct, frozen=True, kw_only=True):
    """`metrics/training-stats.json`."""

    model: str
    dataset_samples: int
    final_loss: float | None
    """The last one that was logged."""
    total_steps: int
    epochs: float
    completed_at: str


class Finished(Struct, frozen=True, kw_only=True):
    """What a run has made."""

    result: RunResult
    lora_path: str
    merged_path: str | None
    gguf_path: str | None
    stats: TrainingStats
    remarks: tuple[Remark, ...]


async def train(
    run: RunFile,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    on_start: Callable[[RunStatus], None] = lambda status: None,
    on_progress: Callable[[Progress, RunStatus], None] = lambda progress, status: None,
) -> Finished:
    """Do a run; paths of its config are relative to `folder`, as are status, log and figures.

    Args:
        run: its config.
        folder: usually the present one.
        resume: go on from the last checkpoint.
        fresh: begin anew, even if a former run was cut off.
        on_start: called once with the status as the run begins.
        on_progress: called for all that the worker reports, with the status after it.

    Raises:
        ValidationError: its data cannot be read, or a former run is in the way.
        BusyError: another run works in the same folder.
        TrainingError: the run failed; the status has the reason too.
    """
    output_dir = folder / run.training.output_dir
    merged = run.save.merged_path
    check_places(
        folder / run.save.lora_path, None if merged is None else folder / merged, output_dir
    )
    with alone(output_dir) as work, telling_alone(folder / LOG_FILE):
        job = _job(run, folder, work)
        wanted = identity(
            job.settings,
            base_model=job.base_model,
            chat_template=job.chat_template,
            data=job.data_digest,
            validation=_digest(job.validation_path),
        )
        goes_on = begin(output_dir, wanted, resume=resume, fresh=fresh)
        former = _former(folder) if goes_on else None
        keeper = Keeper(
            folder, output_dir, job.settings, started_at=former.started_at if former else None
        )
        on_start(keeper.status)

        def take(progress: Progress) -> None:
            keeper.take(progress)
            on_progress(progress, keeper.status)

        if resume and not goes_on:
            take(Progress(phase="loading", note=NOTHING_LEFT))
        try:
            result = await run_job(
                job, work, take, stop_grace=STOP_GRACE, silence_limit=SILENCE_MAX
            )
        except HonedError as error:
            _word(error)
            advice = f" ({error.advice})" if error.advice else ""
            keeper.fail(f"{error}{advice}")
            raise
        except anyio.get_cancelled_exc_class():
            keeper.fail("stopped; the same command with --resume goes on")
            raise
        except BaseException as error:
            keeper.fail(repr(error))
            raise
        assert isinstance(result, RunResult)
        return _finish(run, folder, job, result, keeper)


def _word(error: HonedError) -> None:
    """Name settings in its advice as the config file does."""
    notes: list[str] = getattr(error, "__notes__", [])
    notes[:] = map(in_keys_of_a_run, notes)


def _finish(run: RunFile, folder: Path, job: RunJob, result: RunResult, keeper: Keeper) -> Finished:
    stats = TrainingStats(
        model=run.model.name,
        dataset_samples=result.num_rows,
        final_loss=result.metrics.final_loss,
        total_steps=result.metrics.num_steps or 0,
        epochs=result.epochs,
        completed_at=iso_utc(),
    )
    write_json(folder / STATS_FILE, stats)
    said = remarks(result.metrics.extra.get("first_loss"), result.metrics.final_loss)
    for remark in said:
        keeper.note(f"{remark.level}: {remark.text}")
    keeper.complete()
    return Finished(
        result=result,
        lora_path=job.lora_path,
        merged_path=job.merged_path,
        gguf_path=job.gguf_path,
        stats=stats,
        remarks=said,
    )


def _job(run: RunFile, folder: Path, work: Path) -> RunJob:
    """The worker's job; the rows lie beside it in one form."""
    corpus = folder / run.dataset.path
    data = work / "train.jsonl"
    write_rows(corpus, data, text_field=run.dataset.text_field)
    validation = None
    if (named := _validation(run, folder)) is not None:
        validation = work / "validation.jsonl"
        write_rows(named, validation, text_field=run.dataset.text_field)
    quantization = run.save.gguf_quantization
    needs_tool = (
        run.save.gguf_path is not None and quantization.startswith("Q") and quantization != "Q8_0"
    )
    return RunJob(
        run_id=run_id("lora", Path(run.model.name).name),
        base_model=_base_model(run, folder),
        data_path=str(data.absolute()),
        validation_path=None if validation is None else str(validation.absolute()),
        corpus_path=str(corpus.absolute()),
        data_digest=file_digest(corpus),
        lora_path=str((folder / run.save.lora_path).absolute()),
        checkpoints_path=str(work.parent.absolute()),
        result_path=str((work / "result.json").absolute()),
        settings=run.settings(),
        may_lack_targets="target_modules" not in run.lora.model_fields_set,
        chat_template=run.dataset.chat_template,
        merged_path=_absolute(folder, run.save.merged_path),
        gguf_path=_gguf(folder, run),
        gguf_quantization=quantization,
        quantizer=find_quantizer(quantization) if needs_tool else None,
        hub_model_id=run.save.hub_model_id if run.save.push_to_hub else None,
        environment=_environment(run),
    )


def _validation(run: RunFile, folder: Path) -> Path | None:
    """The file to evaluate on; one that is named must be there, `val.jsonl` need not."""
    named = run.dataset.validation_path
    path = folder / (named or Path(run.dataset.path).with_name("val.jsonl"))
    return path if named is not None or path.is_file() else None


def _base_model(run: RunFile, folder: Path) -> str:
    """A folder as an absolute path, else the hub id as it is."""
    path = folder / Path(run.model.name).expanduser()
    return str(path.absolute()) if path.is_dir() else run.model.name


def _gguf(folder: Path, run: RunFile) -> str | None:
    """The file; where a folder is named, a file in it."""
    if run.save.gguf_path is None:
        return None
    path = folder / run.save.gguf_path
    if path.suffix != ".gguf":
        path /= f"model-{run.save.gguf_quantization}.gguf"
    return str(path.absolute())


def _absolute(folder: Path, path: str | None) -> str | None:
    return None if path is None else str((folder / path).absolute())


def _environment(run: RunFile) -> dict[str, str]:
    told = {"RAYON_NUM_THREADS": str(run.dataset.num_proc)}
    if run.wandb.enabled:
        told |= {"WANDB_PROJECT": run.wandb.project or "honed"}
        if run.wandb.run_name:
            told |= {"WANDB_NAME": run.wandb.run_name}
    return told


def _digest(path: str | None) -> str | None:
    return None if path is None else file_digest(Path(path))


def _former(folder: Path) -> RunStatus | None:
    """The status of the run that goes on."""
    try:
        return read_status(folder / STATUS_FILE, folder / "logs/training.log")
    except ValidationError:
        return None
