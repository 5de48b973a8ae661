"""Settings that nobody has chosen, from the method, the data and the model."""

from typing import Any

import pytest

from honed.config import Config
from honed.domain.job import TrainSettings
from honed.domain.recipe import Base, Data, preset, recipe

SMALL = Base(family="qwen", hidden_size=1024, context=40_960, lora_parameters=250_000)
LARGE = Base(family="llama", hidden_size=4096, context=8192, lora_parameters=2_600_000)
OTHER = Base(family="other", hidden_size=2048, context=32_768, lora_parameters=700_000)
AUTO = TrainSettings(preset="auto", fixed=())
NAMES = (
    "r",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
)


@pytest.mark.parametrize(
    ("base", "num_rows", "num_tokens", "longest", "expected"),
    [
        # few rows: the smallest batches, more passes, the rate of short runs
        (SMALL, 40, 4_000, 700, (8, 7.9e-4, 6, 4, 1, 704)),
        (SMALL, 200, 40_000, 900, (8, 5.3e-4, 3, 4, 1, 960)),
        # more tokens than the smallest adapter has room for
        (SMALL, 2_000, 5_000_000, 3_000, (32, 5.3e-4, 3, 4, 8, 3008)),
        (SMALL, 40_000, 40_000_000, 12_000, (256, 5.3e-4, 1, 4, 8, 8192)),
        (LARGE, 2_000, 5_000_000, 10_000, (8, 2.9e-4, 3, 4, 8, 8192)),
        (OTHER, 2_000, 500_000, 100, (8, 4.9e-4, 3, 4, 8, 128)),
    ],
    ids=["40 rows", "200 rows", "5 M tokens", "40 M tokens", "large model", "unfitted family"],
)
def test_auto_goes_by_tokens_and_size(
    base: Base, num_rows: int, num_tokens: int, longest: int, expected: tuple[Any, ...]
) -> None:
    """Room for the tokens, ten times the rate of full training, small batches, at least 100 steps where rows allow."""
    data = Data(num_rows=num_rows, num_tokens=num_tokens, longest=longest)
    found = recipe(AUTO, "sft", data_and(data, base))
    assert tuple(getattr(found.settings, name) for name in NAMES) == expected
    assert found.settings.lora_alpha == 32
    assert set(NAMES) <= set(found.chosen)
    assert found.chosen["r"].startswith(f"{expected[0]}: room for {num_tokens} tokens")


def data_and(data: Data, base: Base) -> tuple[Data, Base]:
    return data, base


def test_what_somebody_has_chosen_stays() -> None:
    """No preset and no method changes a setting that is written down, and the others go by it."""
    config = Config(
        scenario="a",
        train={"preset": "auto", "r": 4, "num_train_epochs": 1, "learning_rate": 1e-3},  # type: ignore[arg-type]
    )
    data = Data(num_rows=200, num_tokens=10**6, longest=100)
    for method in ("sft", "dpo", "kto"):
        found = recipe(config.train.settings(), method, (data, SMALL))  # type: ignore[arg-type]
        settings = found.settings
        assert (settings.r, settings.num_train_epochs, settings.learning_rate) == (4, 1, 1e-3)
        assert settings.max_length == 128
        assert not {"r", "num_train_epochs", "learning_rate"} & set(found.chosen)


def test_preferences_have_a_rate_of_their_own() -> None:
    """DPO and KTO take 5e-6 and one pass unless somebody says otherwise; imitation keeps the preset's."""
    free = Config(scenario="a").train.settings()
    for method in ("dpo", "kto"):
        settings = recipe(free, method).settings  # type: ignore[arg-type]
        assert (settings.method, settings.learning_rate, settings.num_train_epochs) == (
            method,
            5e-6,
            1,
        )
        assert (settings.r, settings.beta) == (16, 0.1)
    kept = recipe(free, "sft")
    assert (kept.settings.learning_rate, kept.settings.num_train_epochs) == (2e-4, 3)
    assert kept.chosen == {}
    by_hand = TrainSettings(learning_rate=1e-3)  # made in code: all of it is meant
    assert recipe(by_hand, "dpo").settings.learning_rate == 1e-3
    data = Data(num_rows=200, num_tokens=10**8, longest=100)
    by_size = recipe(AUTO, "dpo", (data, SMALL)).settings
    assert (by_size.r, by_size.learning_rate, by_size.num_train_epochs) == (8, 5e-6, 1)
    assert by_size.gradient_accumulation_steps == 1
    assert by_size.warmup_steps == 5


def test_runner_is_smaller() -> None:
    """The preset of stand-alone runs, but for what is written down."""
    settings = Config(scenario="a", train={"preset": "runner", "lora_alpha": 8}).train.settings()  # type: ignore[arg-type]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (8, 8, 0)
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (2, 4)
    assert settings.load_in_4bit
    assert preset(TrainSettings()) == TrainSettings()


def test_where_a_run_starts_and_is_probed_comes_from_the_config() -> None:
    """What is written down reaches the worker."""
    train = {"start_from": "adapter", "probe_path": "/srv/probe.jsonl", "beta": 0.5}
    settings = Config(scenario="a", train=train).train.settings()  # type: ignore[arg-type]
    assert (settings.start_from, settings.probe_path) == ("adapter", "/srv/probe.jsonl")
    assert settings.beta == 0.5
    assert settings.fixed is not None
    assert set(settings.fixed) == set(train)
    with pytest.raises(ValueError, match="beta"):
        Config(scenario="a", train={"beta": 0})  # type: ignore[arg-type]
