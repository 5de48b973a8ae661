"""The settings of a LoRA run, as the operator chose them or a preset did."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Device = Literal["auto", "cpu", "cuda"]
TooLong = Literal["cut", "drop"]
AskedMethod = Literal["auto", "sft", "dpo", "kto", "grpo"]
Preset = Literal["swarm", "runner", "auto"]
Bias = Literal["none", "all", "lora_only"]
Optimizer = Literal["adamw_torch", "adamw_8bit", "sgd", "adafactor"]
Half = Literal["float16", "bfloat16"]


class TrainSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a LoRA run, in TRL's and PEFT's own names."""

    method: AskedMethod = "auto"
    """`auto` goes by what the data hold."""
    preset: Preset = "swarm"
    """Where settings come from that nobody has chosen; `auto`: from the data and the model (`domain.recipe`)."""
    fixed: tuple[str, ...] | None = None
    """Names of the settings that somebody has chosen, which no preset changes; None: all of them."""
    start_from: Literal["base", "adapter"] = "base"
    """`adapter`: from the one in service, if it has the shape that these settings ask for."""
    probe_path: str | None = None
    """JSON lines `{"messages": [...]}` on which forgetting is measured; None: the built-in ones."""
    r: Annotated[int, Meta(ge=1, le=256)] = 16
    lora_alpha: Annotated[float, Meta(gt=0)] = 32
    lora_dropout: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    target_modules: tuple[str, ...] | None = None
    """None means all linear layers."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead of lora_alpha / r."""
    use_dora: bool = False
    """Refused: llama.cpp has no place for it."""
    bias: Bias = "none"
    """All but `none` are refused: llama.cpp has no place for trained biases."""
    load_in_4bit: bool = False
    """Keep the base model in 4 bits meanwhile; on CUDA alone, elsewhere told and left out."""
    beta: Annotated[float, Meta(gt=0)] = 0.1
    """How strongly `dpo` and `kto` keep to the model that they started from."""
    num_train_epochs: Annotated[int, Meta(ge=1)] = 3
    max_steps: Annotated[int, Meta(ge=1)] | None = None
    """A number of steps wins over epochs."""
    per_device_train_batch_size: Annotated[int, Meta(ge=1)] = 4
    gradient_accumulation_steps: Annotated[int, Meta(ge=1)] = 4
    learning_rate: Annotated[float, Meta(gt=0, le=1e-2)] = 2e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "linear"
    warmup_steps: Annotated[int, Meta(ge=0)] = 5
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    max_length: Annotated[int, Meta(ge=16)] = 2048
    """Tokens a row may hold."""
    too_long: TooLong = "cut"
    """A longer row ends before the turn that does not fit any more, or its conversation is left out."""
    seed: int = 3407
    device: Device = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    """CPU threads of torch; 0 means all cores but one (llama-server needs the other)."""
    logging_steps: Annotated[int, Meta(ge=1)] = 5
    save_steps: Annotated[int, Meta(ge=1)] = 500
    """Steps between two checkpoints, where the run may go on from one."""
    optim: Optimizer = "adamw_torch"
    """`adamw_8bit` needs bitsandbytes and CUDA; elsewhere `adamw_torch` is taken for it."""
    half: Half | None = None
    """Type that is computed in on CUDA; None: bfloat16 where the device has it. A CPU computes in float32."""
    gradient_checkpointing: bool | None = None
    """Compute activations again instead of keeping them; None: on an accelerator, where memory is short."""
    random_state: int | None = None
    """Seed of the adapter's first weights; None: `seed`."""
    report_to: tuple[str, ...] = ()
    """Trackers by transformers' names; what they need must be installed."""
    validation_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Share of the groups that is not trained on but tells when to stop; of 20 conversations or more."""
    early_stopping_patience: Annotated[int, Meta(ge=0)] = 5
    """Evaluations, one each epoch, without a better one after which the run ends; 0 goes on. The best weights are
    kept."""
