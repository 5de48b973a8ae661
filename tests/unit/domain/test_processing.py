"""Modes of a run, and what came of one."""

import pytest

from honed.domain.processing import (
    OFFLINE_IS_MISSING,
    ProcessorMode,
    ProcessResult,
    parse_mode,
    result_of,
)
from honed.domain.run import Run, RunState
from honed.errors import ConfigError


def run(state: RunState, message: str | None = None, model_id: str | None = None) -> Run:
    return Run(
        id="run-1",
        scenario="airline",
        learn_model="chat",
        state=state,
        started_at_ms=1,
        reason="train-now",
        message=message,
        model_id=model_id,
    )


@pytest.mark.feature("SE-147", "SE-148")
@pytest.mark.parametrize(
    ("spelling", "mode"),
    [
        ("offline", "offline"),
        ("offline_only", "offline"),
        ("lora", "lora"),
        ("lora_only", "lora"),
        ("full", "full"),
        ("both", "full"),
    ],
)
def test_six_spellings_in_any_case(spelling: str, mode: str) -> None:
    """Each is read in any case, and printed as the mode that it means."""
    for text in (spelling, spelling.upper(), spelling.title()):
        assert str(parse_mode(text)) == mode
    assert parse_mode(ProcessorMode(mode)) is ProcessorMode(mode)


@pytest.mark.feature("SE-147", "SE-148")
@pytest.mark.parametrize(
    ("text", "near"),
    [("lorra", "lora"), ("OFFLINE-ONLY", "offline_only"), ("", ""), (" full", "full")],
)
def test_anything_else_is_refused_with_the_nearest(text: str, near: str) -> None:
    """The message lists all six."""
    with pytest.raises(ConfigError, match="expected one of offline, offline_only, lora") as caught:
        parse_mode(text)
    assert near in (caught.value.advice or "")


@pytest.mark.feature("SE-147", "SE-148")
@pytest.mark.parametrize("value", [None, True, 1, ["full"]])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    """A mode is a text."""
    with pytest.raises(ConfigError, match="is no processor mode"):
        parse_mode(value)


@pytest.mark.feature("SE-149")
def test_a_result_says_what_was_made_and_why_the_rest_was_not() -> None:
    """Done, skipped and failed are told apart; in `full` the offline half says that it is not there."""
    done = result_of(run("done", "in service", "airline@1"), ProcessorMode.FULL)
    assert done == ProcessResult(
        mode=ProcessorMode.FULL,
        run_id="run-1",
        trained_model="airline@1",
        skipped=OFFLINE_IS_MISSING,
    )
    only = result_of(run("done", None, "airline@1"), ProcessorMode.LORA)
    assert (only.trained_model, only.skipped, only.errors) == ("airline@1", None, ())
    skipped = result_of(run("skipped", "no episodes"), ProcessorMode.LORA)
    assert (skipped.trained_model, skipped.skipped, skipped.errors) == (None, "no episodes", ())


@pytest.mark.feature("SE-150")
def test_a_failed_half_is_an_error_and_the_other_half_is_told_by_itself() -> None:
    """What failed is in `errors`, what was not tried in `skipped`."""
    failed = result_of(run("failed", "TrainingError: out of memory"), ProcessorMode.FULL)
    assert failed.errors == ("TrainingError: out of memory",)
    assert failed.skipped == OFFLINE_IS_MISSING
    assert failed.offline_model is failed.trained_model is None
