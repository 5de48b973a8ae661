"""A stand-alone run: what `honed train` asks of the worker process, and what it hears back."""

from typing import Literal

from msgspec import Struct

from honed.domain.train_settings import TrainSettings
from honed.domain.trained_model import Method, TrainingMetrics

TemplateName = Literal["gemma-3", "llama-3", "mistral", "chatml", "zephyr"]
Quantization = Literal["Q4_K_M", "Q5_K_M", "Q8_0", "f16", "bf16"]


class RunJob(Struct, frozen=True, kw_only=True, tag="run", tag_field="job"):
    """Train an adapter from files, and write what was asked for beside it. Paths are absolute."""

    run_id: str
    base_model: str
    """Hub id or folder of the base model in Hugging Face's format."""
    data_path: str
    """JSON lines `{"text": ...}`, or in the form of `TrainJob.data_path`."""
    validation_path: str | None
    """The same form; the run is evaluated on it each epoch."""
    corpus_path: str
    """The file that the operator named, for the manifest."""
    data_digest: str
    """SHA-256 of that file."""
    lora_path: str
    """The adapter's folder, published when it is complete."""
    checkpoints_path: str
    result_path: str
    settings: TrainSettings
    may_lack_targets: bool = False
    """Whether target modules that the model does not have are passed over: nobody has chosen them."""
    chat_template: TemplateName | None = None
    merged_path: str | None = None
    """Folder for the merged model in 16 bits."""
    gguf_path: str | None = None
    """File for the merged model as GGUF."""
    gguf_quantization: Quantization = "Q8_0"
    quantizer: str | None = None
    """llama.cpp's `llama-quantize`, for the types that need it."""
    hub_model_id: str | None = None
    """Where the adapter is uploaded to in the end."""
    environment: dict[str, str] = {}
    """What trackers read."""


class RunResult(Struct, frozen=True, kw_only=True, tag="ran", tag_field="result"):
    """A finished RunJob."""

    metrics: TrainingMetrics
    method: Method
    num_rows: int
    """Rows that were learned from."""
    num_validation_rows: int
    num_parameters: int
    """Of the base model."""
    num_trainable: int
    total_steps: int
    """That were planned; early stopping may end sooner."""
    epochs: float
    is_diverged: bool
    """Whether the loss ended above where it began."""
