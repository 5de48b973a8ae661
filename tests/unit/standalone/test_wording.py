"""Advice of the worker, in the words of a run's config."""

import pytest

from honed.standalone.wording import in_keys_of_a_run


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("raise train.max_length, or", "raise model.max_seq_length, or"),
        ("lower train.learning_rate to", "lower training.learning_rate to"),
        ("check train.target_modules", "check lora.target_modules"),
        ("leave train.load_in_4bit out", "leave model.load_in_4bit out"),
        ('set train.method to "sft"', 'set training.method to "sft"'),
        ("set train.start_from to", "set train.start_from to"),
        ("honed[train] retrain.seed", "honed[train] retrain.seed"),
    ],
    ids=["length", "rate", "targets", "bits", "method", "unknown", "other"],
)
def test_settings_are_named_as_the_config_names_them(said: str, wanted: str) -> None:
    """A key that the config has not stays as the worker said it."""
    assert in_keys_of_a_run(said) == wanted
