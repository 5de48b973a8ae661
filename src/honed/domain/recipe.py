"""The settings that nobody has chosen, from the method, the data and the model; explicit ones always stay.

    preset    what it is
    swarm     the defaults of `TrainSettings`
    runner    those of a stand-alone run: a smaller adapter, smaller batches
    auto      rank, rate, epochs, batch and length from the number of tokens and the model's size

Sources of `auto`:

- Schulman and Thinking Machines Lab, "LoRA Without Regret" (2025): LoRA learns as full training does when it sits on
  all linear layers and has room for what is in the data; the best rate is about 10 times that of full training (15
  times in runs of about 100 steps), does not depend on the rank with alpha 32 and a scale of alpha / r; large batches
  cost LoRA more; a preference or reward holds about one bit an episode, for which any rank is enough.
- tinker-cookbook, `hyperparam_utils.get_lr` (read 2026-11): 5e-5 * 10 * (2000 / hidden_size) ** p with p 0.0775 for
  Qwen and 0.781 for Llama, fitted to sweeps. Other families were not fitted: they get the lower of the two rates.
- Tinker's LoRA primer: as many parameters in the adapter as there are tokens to learn.
- tinker-cookbook's guide to supervised learning: 100 steps at least, 1000 or more are best.
- Batches of 4 are the smallest: measured with the demo (docs/training.md), steps count there and not rows per step.
"""

import math
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from honed.domain.job import TrainSettings
from honed.domain.trained_model import Method

Family = Literal["qwen", "llama", "other"]

RUNNER: Final[dict[str, Any]] = {
    "r": 8,
    "lora_alpha": 16.0,
    "lora_dropout": 0.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "load_in_4bit": True,
    "logging_steps": 1,
}
"""What `runner` says otherwise than `swarm`."""
PREFERENCE_RATE: Final = 5e-6
"""Ten times the 5e-7 with which full models are trained by DPO (Tunstall et al. 2023, "Zephyr") and KTO."""
PREFERENCE_EPOCHS: Final = 1
FEWEST_STEPS: Final = 100
ENOUGH_STEPS: Final = 1000
BATCHES: Final = (32, 16, 8, 4)
"""Rows to a step, the largest first; 32 is what "LoRA Without Regret" compares with full training."""
RANKS: Final = (8, 16, 32, 64, 128, 256)
EPOCHS: Final = (1, 3, 6)
"""Few, as many as usual, and as many as small data need to come to `FEWEST_STEPS`."""
LENGTH_STEP: Final = 64
LONGEST: Final = 8192
"""No finding: a bound on what a run that nobody watches may cost."""


class Data(Struct, frozen=True, kw_only=True):
    """What there is to learn from."""

    num_rows: int
    num_tokens: int
    """That count."""
    longest: int
    """Tokens of the longest row."""


class Base(Struct, frozen=True, kw_only=True):
    """What the rule needs to know of the base model."""

    family: Family
    hidden_size: int
    context: int
    """Tokens that it takes."""
    lora_parameters: int
    """Of an adapter of rank 1 on the target modules."""


class Recipe(Struct, frozen=True, kw_only=True):
    """The settings of a run, complete."""

    settings: TrainSettings
    chosen: dict[str, str]
    """By name of a setting that was chosen here: its value and why."""


def preset(settings: TrainSettings) -> TrainSettings:
    """With what the preset `runner` says; the other two change nothing before the data are known."""
    if settings.preset != "runner":
        return settings
    return replace(settings, **{name: RUNNER[name] for name in RUNNER if _is_free(settings, name)})


def recipe(
    settings: TrainSettings, method: Method, sizes: tuple[Data, Base] | None = None
) -> Recipe:
    """The settings of a run by a method; the preset `auto` needs the sizes of data and model."""
    wanted: dict[str, tuple[Any, str]] = {}
    if settings.preset == "auto" and sizes is not None:
        wanted |= _by_size(settings, method, *sizes)
    if method in ("dpo", "kto"):
        wanted["learning_rate"] = (PREFERENCE_RATE, f"method {method}")
        wanted["num_train_epochs"] = (PREFERENCE_EPOCHS, f"method {method}")
    free = {name: told for name, told in wanted.items() if _is_free(settings, name)}
    values = {name: value for name, (value, _) in free.items()}
    chosen = {name: f"{value:g}: {why}" for name, (value, why) in free.items()}
    return Recipe(settings=replace(settings, method=method, **values), chosen=chosen)


def _is_free(settings: TrainSettings, name: str) -> bool:
    return settings.fixed is not None and name not in settings.fixed


def _by_size(
    settings: TrainSettings, method: Method, data: Data, base: Base
) -> dict[str, tuple[Any, str]]:
    epochs = settings.num_train_epochs
    if _is_free(settings, "num_train_epochs"):
        epochs = _epochs(data.num_rows) if method == "sft" else PREFERENCE_EPOCHS
    batch, steps = _batch(data.num_rows * epochs)
    steps = settings.max_steps or steps
    size = min(4, batch)
    return {
        "r": _rank(method, data.num_tokens, base.lora_parameters),
        "lora_alpha": (32.0, "the best rate does not depend on the rank then"),
        "learning_rate": (
            _rate(base, steps),
            f"hidden size {base.hidden_size}, family {base.family}, {steps} steps",
        ),
        "num_train_epochs": (epochs, f"{data.num_rows} rows"),
        "per_device_train_batch_size": (size, f"{batch} rows to a step"),
        "gradient_accumulation_steps": (batch // size, f"{batch} rows to a step"),
        "max_length": (_length(data.longest, base.context), f"the longest row has {data.longest}"),
        "warmup_steps": (min(5, steps // 10), f"{steps} steps"),
    }


def _epochs(num_rows: int) -> int:
    """Few passes over much, more over little: from `ENOUGH_STEPS` of the largest batch on one is enough."""
    few, usual, many = EPOCHS
    if num_rows >= ENOUGH_STEPS * BATCHES[0]:
        return few
    return usual if num_rows * usual >= FEWEST_STEPS * BATCHES[-1] else many


def _batch(num_seen: int) -> tuple[int, int]:
    """Rows to a step and steps: the largest batch that leaves enough steps, else the smallest."""
    for batch in BATCHES:
        if num_seen >= batch * FEWEST_STEPS:
            break
    return batch, max(1, math.ceil(num_seen / batch))


def _rank(method: Method, num_tokens: int, parameters: int) -> tuple[int, str]:
    """As many parameters as tokens; a preference holds about one bit, so that the smallest rank is enough."""
    if method in ("dpo", "kto"):
        return RANKS[0], f"method {method}, about a bit a row"
    rank = next((rank for rank in RANKS if rank * parameters >= num_tokens), RANKS[-1])
    return rank, f"room for {num_tokens} tokens, {parameters} parameters a rank"


def _rate(base: Base, steps: int) -> float:
    full, over_full = 5e-5, 15 if steps <= FEWEST_STEPS else 10
    ratio = 2000 / base.hidden_size
    by_family = {"qwen": ratio**0.0775, "llama": ratio**0.781}
    factor = by_family.get(base.family, min(by_family.values()))
    return min(1e-2, float(f"{full * over_full * factor:.2g}"))


def _length(longest: int, context: int) -> int:
    """Room for every row, as far as the model takes it."""
    needed = -(-longest // LENGTH_STEP) * LENGTH_STEP
    return max(16, min(needed, context, LONGEST))
