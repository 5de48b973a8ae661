"""What every learn model has of the mixin: batches, episodes of actions, errors that name their episode."""

import pytest

from honed.domain.events import ActionEvent, ActionResult
from honed.domain.outcome import Success, Timeout
from honed.errors import LearnError
from honed.learn_models import ChatLearnModel, WorkerTaskLearnModel, convert
from tests.unit.learn_models.actions import act, episode
from tests.unit.learn_models.own_model import Clumsy, Haiku, Loud, Vague

LINES = [act(name) for name in ("old pond", "frog", "splash")]


@pytest.mark.feature("SE-085")
def test_one_fault_does_not_stop_the_batch() -> None:
    """Rows in the order of their episodes, and an error for each of the others that names it."""
    batch = [
        episode("e1", Success(), *LINES),
        episode("e2", Success(), *LINES[:1]),
        episode("e3", Success(), *LINES, act("silence")),
        episode("e4", Success()),
    ]
    made = Haiku().convert_batch(batch)
    assert [row.messages[-1].text.count("\n") for row in made.rows] == [2, 3]  # type: ignore[union-attr]
    assert [str(error) for error in made.errors] == [
        "episode e2: a haiku has three lines",
        "episode e4: a haiku has three lines",
    ]
    assert [error.episode_id for error in made.errors] == ["e2", "e4"]


@pytest.mark.feature("SE-085")
def test_a_fault_in_somebodys_code_is_an_error_of_its_episode() -> None:
    """Whatever it raises: the batch goes on, and the cause is kept."""
    (error,) = Clumsy().convert_batch([episode("e1", Success(), *LINES)]).errors
    assert str(error) == "episode e1: learn model clumsy failed: IndexError: line 4"
    assert error.reason == "the learn model failed with IndexError"
    assert isinstance(error.__cause__, IndexError)


def test_what_somebodys_code_gives_is_looked_at() -> None:
    """Something else than training data is an error of the episode, and a fault is told in a few words."""
    with pytest.raises(LearnError, match="vague gave a dict: expected a ChatExample") as caught:
        convert(Vague(), episode("e1", Success(), *LINES))
    assert caught.value.advice == "this is a fault of the learn model's own code"
    with pytest.raises(LearnError, match="loud failed: IndexError: line line") as caught:
        convert(Loud(), episode("e1", Success(), *LINES))
    assert len(str(caught.value)) < 1_200


@pytest.mark.feature("SE-085")
def test_errors_of_built_in_models_name_the_episode() -> None:
    """In the message, as a field, and apart from a reason that can be counted."""
    for model in (ChatLearnModel(), WorkerTaskLearnModel()):
        with pytest.raises(LearnError, match="episode e7 cannot teach") as caught:
            convert(model, episode("e7", Success()))
        assert caught.value.episode_id == "e7"
        assert caught.value.reason
        assert "e7" not in caught.value.reason


def done(task_id: str, tick: int, *, ok: bool = True) -> ActionEvent:
    return event(task_id, "done", tick, ok=ok)


def event(task_id: str, name: str, tick: int, *, ok: bool = True) -> ActionEvent:
    return ActionEvent(
        task_id=task_id,
        tick=tick,
        worker_id=0,
        action=name,
        result=ActionResult(success=ok),
        timestamp_ms=1_000 + tick,
    )


@pytest.mark.feature("SE-084")
def test_episodes_come_of_actions_alone() -> None:
    """Group by group, without a store; unfinished groups wait, or become episodes when told so."""
    events = [
        event("t1", "look", 1),
        event("t2", "look", 1),
        event("t1", "fix", 2, ok=False),
        event("t2", "fix", 2),
        done("t1", 3),
    ]
    model = WorkerTaskLearnModel()
    (only,) = model.build_episodes_from_actions(events)
    assert (only.task_id, only.outcome, len(only.records)) == ("t1", Success(0.5), 3)
    assert only.metadata.created_at_ms == 1_003
    both = model.build_episodes_from_actions(events, final=True, now_ms=7)
    assert [found.outcome for found in both] == [Success(0.5), Timeout(1.0)]
    assert model.build_episodes_from_actions([]) == []
