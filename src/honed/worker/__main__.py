"""`python -m honed.worker JOB.json`: do one job of `domain.job` and end. `--warm SECONDS`: see `honed.worker.warm`.

With other flags: one training as a script, see `honed.worker.command_line`.

Exit status: 0 done, 1 failed (the result file says why; after an unforeseen fault, and of a script, stderr does), 2
the job or the flags cannot be read, 74 there is no room for the result file, 143 ended by SIGTERM.
"""

import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

import msgspec

from honed.domain.evaluating import EvaluateJob, TokeniseJob
from honed.domain.job import (
    EXIT_UNWRITTEN,
    CompareBaseJob,
    ExamineJob,
    ExportAdapterJob,
    ExportBaseJob,
    Job,
    JobFailed,
    JobResult,
    PretrainJob,
    Progress,
    RenderJob,
    RunJob,
    ScoreJob,
    TrainJob,
    TrainResult,
    parse_job,
)
from honed.errors import ConfigError, HonedError, UnsupportedError
from honed.worker.accelerator import alone_on
from honed.worker.reporting import (
    EXIT_TERMINATED,
    Report,
    end_on_sigterm,
    keep_pipe,
    report_into,
    write_result,
)
from honed.worker.shortage import shortage

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Every TRL trainer and the hub's client report home unless told not to; threads of tokenizers
fight with torch's.
"""


def main(arguments: list[str]) -> int:
    """Do the job in the file that the one argument names, or what comes on stdin; returns the exit status."""
    match arguments:
        case ["--warm", seconds]:
            from honed.worker.warm import serve

            os._exit(serve(float(seconds), do_file, prepare_environment))
        case [path] if not path.startswith("-"):
            pipe = keep_pipe()
            end_on_sigterm()
            status = do_file(Path(path), pipe)
            sys.stderr.flush()
            # Taking down the interpreter with torch in it lasts a second, and everything is on disk.
            os._exit(status)
        case [first, *_] if first.startswith("-"):
            status = do_script(arguments)
            sys.stderr.flush()
            os._exit(status)
    sys.stderr.write("usage: python -m honed.worker JOB.json | --warm SECONDS | --help\n")
    return 2


def do_file(path: Path, pipe: int) -> int:
    """Do the job in a file, its progress into the pipe and its result into its own file; returns the exit status."""
    report = report_into(pipe)
    try:
        job = parse_job(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        sys.stderr.write(f"job {path} cannot be read: {error}\n")
        return 2
    prepare_environment(job)
    report(Progress(phase="loading"))
    result = _failed_or(job, report)
    try:
        write_result(Path(job.result_path), result)
    except OSError:
        if isinstance(result, JobFailed):
            report(Progress(phase="failing", note=result.message))
        return EXIT_UNWRITTEN
    return 1 if isinstance(result, JobFailed) else 0


def do_script(arguments: list[str]) -> int:
    """Do the training that the flags ask for; returns the exit status."""
    from honed.worker import command_line

    try:
        job, resume = command_line.job_of(arguments)
    except ConfigError as error:
        sys.stderr.write("".join(f"{fault}\n" for fault in error.faults))
        return 2
    pipe = keep_pipe()
    signal.signal(
        signal.SIGTERM, _leave
    )  # started by hand it may outlive its shell, and ^C ends it
    report = report_into(pipe)
    prepare_environment(job)
    report(Progress(phase="loading"))
    result = command_line.done(job, lambda job: _failed_or(job, report), resume=resume)
    if isinstance(result, JobFailed):
        sys.stderr.write(f"{result.message}\n" + (f"{result.advice}\n" if result.advice else ""))
        return 1
    assert isinstance(result, TrainResult)
    os.write(pipe, msgspec.json.encode(command_line.finished(result)) + b"\n")
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    """Clear away what is half done; a second signal ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(EXIT_TERMINATED)


def prepare_environment(job: Job) -> None:
    """Set what the libraries read when they are imported; call it before they are."""
    os.environ.update(_QUIET)
    if not _needs_hub(job):
        os.environ["HF_HUB_OFFLINE"] = "1"
    if isinstance(job, RunJob):
        os.environ.update(job.environment)
    # TRL refuses to train when several devices are visible to one process.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # PEFT reads it (peft_model.py); nothing here can change that.
    warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)


def _needs_hub(job: Job) -> bool:
    """Whether something may be downloaded, or is to be uploaded."""
    if isinstance(job, PretrainJob | ExamineJob):
        return False
    uploads = isinstance(job, RunJob) and job.hub_model_id is not None
    return uploads or not Path(job.base_model).expanduser().is_dir()


def _failed_or(job: Job, report: Report) -> JobResult:
    try:
        return _do(job, report)
    except HonedError as error:
        return JobFailed(kind=type(error).__name__, message=str(error), advice=error.advice)
    except ModuleNotFoundError as error:
        return JobFailed(
            kind=UnsupportedError.__name__,
            message=f"{sys.executable} has no training stack: {_lacks(error)}",
            advice="pip install 'honed[train]' there",
        )
    except Exception as error:
        failed = shortage(error, can_go_on=isinstance(job, RunJob))
        if failed is None:
            raise
        return failed


def _lacks(error: ModuleNotFoundError) -> str:
    return f"no module named {error.name}" if error.name else str(error)


def _do(job: Job, report: Report) -> JobResult:
    """Each job imports what it needs, so that a conversion does not wait for the trainer."""
    match job:
        case TrainJob():
            from honed.worker.base_model import choose_device
            from honed.worker.train import train

            with alone_on(choose_device(job.settings.device), report):
                return train(job, report)
        case RunJob():
            from honed.worker.base_model import choose_device
            from honed.worker.run import run

            with alone_on(choose_device(job.settings.device), report):
                return run(job, report)
        case ScoreJob():
            from honed.worker.base_model import choose_device
            from honed.worker.scores import score

            with alone_on(choose_device(job.device), report):
                return score(job, report)
        case EvaluateJob():
            from honed.worker.base_model import choose_device
            from honed.worker.evaluate import evaluate

            with alone_on(choose_device(job.device), report):
                return evaluate(job, report)
        case TokeniseJob():
            from honed.worker.evaluate import tokenise

            return tokenise(job)
        case ExportBaseJob():
            from honed.worker.gguf_base import export_base

            return export_base(job)
        case CompareBaseJob():
            from honed.worker.parity import compare_base

            return compare_base(job)
        case ExportAdapterJob():
            from honed.worker.complete import complete

            return complete(job)
        case PretrainJob():
            from honed.worker.pretrain import pretrain

            return pretrain(job, report)
        case ExamineJob():
            from honed.worker.examine import examine

            return examine(job)
        case RenderJob():
            from honed.worker.render import render

            return render(job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
