"""What the daemon and the worker process say to each other.

`python -m honed.worker JOB.json` reads one Job, writes Progress as JSON lines on stdout and its result to
`result_path`, and ends with 0. A fault is written as a `JobFailed` result and ends with 1. Paths are absolute.
The folder named by `output_path` is filled completely by the worker and published by whoever started it.
"""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from honed.domain.dataset import Dataset
from honed.domain.episode_score import EpisodeScore as EpisodeScore
from honed.domain.evaluating import (
    EvaluateJob,
    EvaluateResult,
    TokeniseJob,
    TokeniseResult,
)
from honed.domain.rendered import RenderedExample
from honed.domain.running import RunJob as RunJob
from honed.domain.running import RunResult as RunResult
from honed.domain.train_settings import AskedMethod as AskedMethod
from honed.domain.train_settings import Bias as Bias
from honed.domain.train_settings import Device as Device
from honed.domain.train_settings import Preset as Preset
from honed.domain.train_settings import TooLong as TooLong
from honed.domain.train_settings import TrainSettings as TrainSettings
from honed.domain.trained_model import Method, TrainingMetrics
from honed.domain.verdict import Seen


class TrainJob(Struct, frozen=True, kw_only=True, tag="train", tag_field="job"):
    """Train one adapter, export it, and score the held-out episodes with it."""

    run_id: str
    model_id: str
    scenario: str
    learn_model: str
    base_model: str
    """Hub id or folder of the base model in Hugging Face's format."""
    data_path: str
    """JSON lines `{"messages": [...], "tools": [...]}`."""
    held_out_path: str | None
    """JSON lines in the same form; line n is scored as `scores[n]`."""
    incumbent_path: str | None
    """Adapter folder of the model in service; None scores against the bare base."""
    output_path: str
    result_path: str
    settings: TrainSettings
    episode_ids: tuple[str, ...] = ()
    seen: Seen | None = None
    """Which verdicts on the episodes the data were made by."""
    data_digest: str = ""
    data_reason: str | None = None
    """Why the rows are not those that are tried first; told with the method."""
    dataset: Dataset | None = None
    """How the data were chosen, for the adapter's manifest."""
    parent_id: str | None = None
    selection: Literal["successes", "blind"] = "successes"
    base_facts_path: str | None = None
    """Facts of the base model that is served: another one is not trained on. None: not known."""
    left_out: dict[str, int] = {}
    """Episodes that the data were not made of, by reason."""
    forks: dict[str, int] = {}
    """Conversations that are in no row beside the one of their attempt that is, by why they began."""
    start_path: str | None = None
    """Adapter folder that `start_from = "adapter"` begins with; None begins with the base."""
    metadata_path: str | None = None
    """JSON lines beside the data; `group` keeps conversations on one side of the validation split."""
    checkpoints_path: str | None = None
    """Folder of the checkpoints of this run; the run goes on from the last complete one. None writes none."""


class ScoreJob(Struct, frozen=True, kw_only=True, tag="score", tag_field="job"):
    """Score held-out episodes under a candidate and an incumbent, without training."""

    base_model: str
    held_out_path: str
    candidate_path: str | None
    incumbent_path: str | None
    result_path: str
    max_length: int = 2048
    device: Device = "auto"
    threads: int = 0


class ExportBaseJob(Struct, frozen=True, kw_only=True, tag="export_base", tag_field="job"):
    """Convert a base model from Hugging Face's format to GGUF."""

    base_model: str
    output_path: str
    """The GGUF file, written aside and renamed."""
    result_path: str
    outtype: Literal["f32", "f16", "bf16", "q8_0"] = "f32"
    facts_path: str | None = None
    """Where the base model's facts (`domain.base_facts`) go, once the file is there."""


class CompareBaseJob(Struct, frozen=True, kw_only=True, tag="compare_base", tag_field="job"):
    """Compare a GGUF file with the base model that it should be, and write down the base's facts."""

    base_model: str
    gguf_path: str
    facts_path: str
    """Facts that are there already save reading unchanged files again."""
    result_path: str


class ExportAdapterJob(Struct, frozen=True, kw_only=True, tag="export_adapter", tag_field="job"):
    """Make an adapter that somebody's script has trained one that can be served: GGUF, fingerprint, manifest."""

    base_model: str
    adapter_path: str
    """Folder with PEFT's files."""
    lineage: TrainJob
    """The run that made it, as a job."""
    metrics: TrainingMetrics
    method: Method
    method_reason: str
    num_rows: int
    result_path: str


class PretrainJob(Struct, frozen=True, kw_only=True, tag="pretrain", tag_field="job"):
    """Make a tiny base model (Qwen3 with a tokenizer of its own) from conversations; for demo and tests."""

    data_path: str
    """JSON lines `{"messages": [...]}`; all assistant tokens count."""
    output_path: str
    """Folder for the model in Hugging Face's format."""
    result_path: str
    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 5e-3
    hidden_size: int = 128
    num_layers: int = 2
    vocab_size: int = 1024
    seed: int = 0
    threads: int = 1


class ExamineJob(Struct, frozen=True, kw_only=True, tag="examine", tag_field="job"):
    """Say what the training stack finds on this machine, and whether it can use the base model."""

    base_model: str | None
    """A folder; nothing is downloaded."""
    result_path: str


class RenderJob(Struct, frozen=True, kw_only=True, tag="render", tag_field="job"):
    """Show conversations as a run would train on them; the model's weights are not loaded."""

    base_model: str
    data_path: str
    """JSON lines in the form of `TrainJob.data_path`."""
    max_length: int
    result_path: str
    too_long: TooLong = "cut"
    left_out: tuple[dict[int, str], ...] = ()
    """For line n, why which of its turns are not to be learned from."""


Job = (
    TrainJob
    | RunJob
    | ScoreJob
    | EvaluateJob
    | TokeniseJob
    | ExportBaseJob
    | CompareBaseJob
    | ExportAdapterJob
    | PretrainJob
    | ExamineJob
    | RenderJob
)


EXIT_UNWRITTEN: Final = 74
"""A worker's exit status when it could not write its result (EX_IOERR of sysexits.h)."""


class Progress(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag="progress", tag_field="type"
):
    """One line of the worker's stdout."""

    phase: str
    """`loading`, `waiting`, `training`, `exporting`, `scoring`, `pretraining`, `failing`."""
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    rss_mb: float | None = None
    reward_margin: float | None = None
    """Of `dpo` and `kto`: how much more the better answers have gained than the worse ones, beta times nats."""
    reward_accuracy: float | None = None
    """Of `dpo`: share of the pairs whose better answer has gained more."""
    validation_loss: float | None = None
    note: str | None = None
    """Something to tell the operator once, for example that the run goes on with a smaller batch."""


class TrainResult(Struct, frozen=True, kw_only=True, tag="trained", tag_field="result"):
    """A finished TrainJob."""

    digest: str
    """SHA-256 over the adapter's files."""
    metrics: TrainingMetrics
    scores: tuple[EpisodeScore, ...] = ()
    method: Method = "sft"
    method_reason: str = ""
    """Why that one."""
    started_from: str | None = None
    """The adapter that it went on from; None: it began with the bare base."""


class ScoreResult(Struct, frozen=True, kw_only=True, tag="scored", tag_field="result"):
    """A finished ScoreJob."""

    scores: tuple[EpisodeScore, ...]


class ExportBaseResult(Struct, frozen=True, kw_only=True, tag="exported", tag_field="result"):
    """A finished ExportBaseJob."""

    architecture: str
    size_bytes: int
    digest: str


class CompareBaseResult(Struct, frozen=True, kw_only=True, tag="compared", tag_field="result"):
    """A finished CompareBaseJob: they are the same model."""

    quantisation: str
    """Types of the file's matrices, the most frequent first."""


class ExportAdapterResult(
    Struct, frozen=True, kw_only=True, tag="exported_adapter", tag_field="result"
):
    """A finished ExportAdapterJob."""

    digest: str
    """SHA-256 over the adapter's files."""
    is_new: bool
    """False where its GGUF had been made of these very files."""


class PretrainResult(Struct, frozen=True, kw_only=True, tag="pretrained", tag_field="result"):
    """A finished PretrainJob."""

    num_parameters: int
    final_loss: float
    seconds: float


class TorchDevice(Struct, frozen=True, kw_only=True):
    """An accelerator as torch sees it."""

    name: str
    total_bytes: int
    free_bytes: int
    problem: str | None = None
    """Why a small computation on it failed; None when it did not."""


class ExamineResult(Struct, frozen=True, kw_only=True, tag="examined", tag_field="result"):
    """A finished ExamineJob."""

    torch: str
    """Version, with the build: `2.13.0+cpu`."""
    build: str
    """What torch was built for: `cpu`, `cuda 13.0`, `rocm 7.0`."""
    devices: tuple[TorchDevice, ...]
    architecture: str | None = None
    """Of the base model, as GGUF calls it; None when it was not asked for or cannot be used."""
    base_problem: str | None = None
    base_advice: str | None = None


class RenderResult(Struct, frozen=True, kw_only=True, tag="rendered", tag_field="result"):
    """A finished RenderJob."""

    examples: tuple[RenderedExample, ...]


class JobFailed(Struct, frozen=True, kw_only=True, tag="failed", tag_field="result"):
    """A job that ended with a fault."""

    kind: str
    """Name of the error class, for example `EmptyDataError`."""
    message: str
    advice: str | None = None


JobResult = (
    TrainResult
    | RunResult
    | ScoreResult
    | EvaluateResult
    | TokeniseResult
    | ExportBaseResult
    | CompareBaseResult
    | ExportAdapterResult
    | PretrainResult
    | ExamineResult
    | RenderResult
    | JobFailed
)


def parse_job(data: bytes) -> Job:
    """Read a job; raises msgspec.ValidationError."""
    job: Job = msgspec.json.decode(data, type=Job)
    return job


def parse_result(data: bytes) -> JobResult:
    """Read a result; raises msgspec.ValidationError."""
    result: JobResult = msgspec.json.decode(data, type=JobResult)
    return result
