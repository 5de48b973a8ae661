"""How much memory and disk a scenario needs, estimated from the shape of its base model."""

from dataclasses import dataclass
from typing import Final

from honed.domain.job import TrainSettings
from honed.machine.model import Shape

GIB: Final = 1 << 30
GGUF_BYTES: Final = 4
"""Per parameter: the base model is converted to F32."""
_STACK: Final = 480 << 20
"""The training stack without a model. Measured: 473 to 483 MiB."""
_CONTEXT: Final = GIB
"""Of CUDA, with the kernels of its libraries."""
TOKENS_ON_CPU: Final = 2048
"""Of one pass of `sft`, padding counted: the same number as in `worker.sft`."""
LOGITS_ON_CPU: Final = 1 << 24
"""Of a tile of `sft`: the same number as in `worker.head_loss`."""
_COUNTED: Final = 4
"""One in so many tokens counts, and has logits: agents' conversations have fewer (docs/training.md)."""
_HEAD_TOKENS: Final = 4096
_HEAD_COLUMNS: Final = 32_768
"""A tile of TRL's head."""
_HEAP: Final = 1.8
_HEAP_BY_REFERENCE: Final = 2.15
"""Where a reference's pass comes between."""
_SERVER: Final = 64 << 20
"""A llama-server without a model."""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """How the servers are set up."""

    ctx_size: int
    parallel: int
    gguf_bytes: int | None = None
    """Size of the base model as GGUF, where it is known already."""


def serving_bytes(shape: Shape, plan: ServingPlan, *, servers: int, on_gpu: bool) -> int:
    """Memory of llama-servers with this base; two run during a swap.

    On the CPU they map one file and share its pages; a GPU holds a copy for each.
    """
    weights = plan.gguf_bytes or shape.num_parameters * GGUF_BYTES
    kv_values = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    cache = kv_values * 2 * plan.ctx_size * plan.parallel  # F16
    return weights * (servers if on_gpu else 1) + servers * (cache + _SERVER)


def training_bytes(shape: Shape, settings: TrainSettings, *, on_gpu: bool) -> int:
    """Peak memory of a run whose longest rows fill `max_length`; method `auto` is taken for `sft`.

    On a CPU in float32, held against measured peaks (benchmarks/memory.py; docs/training.md has the figures). On a GPU
    by calculation: bfloat16, or 4 bits for the matrices, and activation checkpointing.
    """
    # weights, gradients, two moments of AdamW
    adapter = 16 * shape.lora_parameters(settings.r)
    if settings.start_from == "adapter" and settings.method in ("dpo", "kto"):
        adapter += 4 * shape.lora_parameters(settings.r)  # the reference
    tokens = _tokens_of_pass(settings, on_gpu=on_gpu)
    if on_gpu:
        return (
            _CONTEXT
            + _weights_on_gpu(shape, in_4bit=settings.load_in_4bit)
            + adapter
            + tokens * _activations_on_gpu(shape, settings)
            + 2 * 2 * min(tokens, _HEAD_TOKENS) * min(shape.vocab_size, _HEAD_COLUMNS)
        )
    return (
        _STACK
        + 4 * shape.num_parameters
        + adapter
        + tokens * _activations_on_cpu(shape, settings)
        + 4 * _logits_on_cpu(shape, settings.method, tokens)
    )


def _tokens_of_pass(settings: TrainSettings, *, on_gpu: bool) -> int:
    """Of what goes through the model at once and is kept for the way back."""
    rows, length = settings.per_device_train_batch_size, settings.max_length
    match settings.method:
        case "dpo":  # a pair is two rows; the reference's pass keeps nothing
            return 2 * rows * length
        case "kto":  # each answer is compared with a neighbour's
            return max(2, rows) * length
        case _ if on_gpu:
            return rows * length
        case _:  # the rows of a step are divided further, but none is cut
            return min(rows * length, max(TOKENS_ON_CPU, length))


def _activations_on_cpu(shape: Shape, settings: TrainSettings) -> int:
    """Bytes for each token.

    Blocks of less than 32 MiB come from the C library's heap, where freed ones leave holes that the next of the same
    size does not fit: measured, what is kept takes about twice its size, but for copies made by dropout.
    """
    kept, dropped = _layer_values(shape, settings)
    heap = _HEAP_BY_REFERENCE if settings.method in ("dpo", "kto") else _HEAP
    layer = round(4 * (heap * kept + dropped))
    if settings.gradient_checkpointing:
        return 4 * shape.hidden_size * shape.num_layers + layer
    return layer * shape.num_layers


def _activations_on_gpu(shape: Shape, settings: TrainSettings) -> int:
    """Bytes for each token: what is kept, one layer's gradients, and the last states' in float32."""
    layer = 2 * sum(_layer_values(shape, settings))
    ends = 8 * shape.hidden_size
    if settings.gradient_checkpointing is False:
        return layer * (shape.num_layers + 1) + ends
    return 2 * shape.hidden_size * shape.num_layers + 2 * layer + ends


def _layer_values(shape: Shape, settings: TrainSettings) -> tuple[int, int]:
    """Numbers that one layer keeps of a token for the way back: by itself, and more with dropout before each matrix.

    Counted by torch's hooks on Qwen3: the inputs of both norms and of each matrix (LoRA's first matrix needs them),
    queries and keys before and after their norms, values, what attention gave, gate, its activation and the product.
    """
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    kept = 4 * hidden + 3 * (queries + keys) + 4 * inner + 7 * settings.r
    # a copy and a mask of each matrix's input, in the place of the inputs that several share
    has_dropout = settings.lora_dropout > 0 and settings.method not in ("dpo", "kto")  # TRL's way
    return kept, 8 * hidden + 2 * queries + inner if has_dropout else 0


def _logits_on_cpu(shape: Shape, method: str, tokens: int) -> int:
    """Values, with those that the loss and its gradient are worked out by."""
    if method in ("dpo", "kto"):  # TRL's own head: all positions, in tiles
        return 7 * min(tokens, _HEAD_TOKENS) * min(shape.vocab_size, _HEAD_COLUMNS)
    return 5 * min(tokens // _COUNTED * shape.vocab_size, LOGITS_ON_CPU)


def _weights_on_gpu(shape: Shape, *, in_4bit: bool) -> int:
    """bfloat16; in 4 bits the matrices of the layers, with their scales (QLoRA, section 3: 0.127 bits a value)."""
    if not in_4bit:
        return 2 * shape.num_parameters
    matrices = shape.layer_parameters
    return round(matrices * (4 + 0.127) / 8) + 2 * max(0, shape.num_parameters - matrices)


def adapter_bytes(shape: Shape, settings: TrainSettings) -> int:
    """Disk of one adapter: float32, once for PEFT and once as GGUF."""
    return 8 * shape.lora_parameters(settings.r)
