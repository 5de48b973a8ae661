"""How much memory and disk a scenario needs, estimated from the shape of its base model."""

from dataclasses import dataclass
from typing import Final

from honed.domain.job import TrainSettings
from honed.machine.model import Shape

GIB: Final = 1 << 30
GGUF_BYTES: Final = 4
"""Per parameter: the base model is converted to F32."""
_STACK: Final = GIB
"""The training stack without a model: torch's libraries; on a GPU its context."""
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
    """Peak memory of a run whose longest rows fill `max_length`.

    CPU: float32, all activations kept. GPU: bfloat16 with activation checkpointing. The logits of a batch
    are held several times over; with a vocabulary of 150,000 they are the largest part.
    Measured on the CPU (4 shapes, 16 to 53 M parameters): the peak was 0.5 to 1.05 of this.
    """
    tokens = settings.per_device_train_batch_size * settings.max_length
    adapter = 16 * shape.lora_parameters(settings.r)  # weights, gradients, two moments of AdamW
    heads = (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    layer = 16 * shape.hidden_size + 6 * heads + 7 * shape.intermediate_size
    if on_gpu:
        kept = 2 * shape.hidden_size * shape.num_layers + 2 * layer
        return _STACK + 2 * shape.num_parameters + adapter + tokens * (kept + 14 * shape.vocab_size)
    kept = 4 * layer * shape.num_layers
    return _STACK + 4 * shape.num_parameters + adapter + tokens * (kept + 16 * shape.vocab_size)


def adapter_bytes(shape: Shape, settings: TrainSettings) -> int:
    """Disk of one adapter: float32, once for PEFT and once as GGUF."""
    return 8 * shape.lora_parameters(settings.r)
