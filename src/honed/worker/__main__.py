"""`python -m honed.worker JOB.json`: do one job of `domain.job` and end. `--warm SECONDS`: see `honed.worker.warm`.

Exit status: 0 done, 1 failed (the result file says why; after an unforeseen fault stderr does), 2
the job cannot be read, 143 ended by SIGTERM.
"""

import os
import sys
import warnings
from pathlib import Path

import msgspec

from honed.domain.evaluating import EvaluateJob, TokeniseJob
from honed.domain.job import (
    CompareBaseJob,
    ExamineJob,
    ExportBaseJob,
    Job,
    JobFailed,
    JobResult,
    PretrainJob,
    Progress,
    RenderJob,
    ScoreJob,
    TrainJob,
    parse_job,
)
from honed.errors import HonedError, UnsupportedError
from honed.worker.reporting import (
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
        case [path]:
            pipe = keep_pipe()
            end_on_sigterm()
            status = do_file(Path(path), pipe)
            sys.stderr.flush()
            # Taking down the interpreter with torch in it lasts a second, and everything is on disk.
            os._exit(status)
    sys.stderr.write("usage: python -m honed.worker JOB.json | --warm SECONDS\n")
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
    write_result(Path(job.result_path), result)
    return 1 if isinstance(result, JobFailed) else 0


def prepare_environment(job: Job) -> None:
    """Set what the libraries read when they are imported; call it before they are."""
    os.environ.update(_QUIET)
    if isinstance(job, PretrainJob | ExamineJob) or Path(job.base_model).expanduser().is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"
    # TRL refuses to train when several devices are visible to one process.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # PEFT reads it (peft_model.py); nothing here can change that.
    warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)


def _failed_or(job: Job, report: Report) -> JobResult:
    try:
        return _do(job, report)
    except HonedError as error:
        return JobFailed(kind=type(error).__name__, message=str(error), advice=error.advice)
    except ModuleNotFoundError as error:
        return JobFailed(
            kind=UnsupportedError.__name__,
            message=f"{sys.executable} has no training stack: no module named {error.name}",
            advice="pip install 'honed[train]' there",
        )
    except Exception as error:
        failed = shortage(error)
        if failed is None:
            raise
        return failed


def _do(job: Job, report: Report) -> JobResult:
    """Each job imports what it needs, so that a conversion does not wait for the trainer."""
    match job:
        case TrainJob():
            from honed.worker.train import train

            return train(job, report)
        case ScoreJob():
            from honed.worker.scores import score

            return score(job, report)
        case EvaluateJob():
            from honed.worker.evaluate import evaluate

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
