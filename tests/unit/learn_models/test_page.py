"""docs/learn-models.md: its events become its rows."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.domain.episode import Episode
from honed.domain.events import parse_event
from honed.domain.outcome import Success, Unknown
from honed.domain.records import ActionRecord, Record, record_from_event
from honed.errors import LearnError
from honed.learn_models import BUILT_IN, DpoLearnModel, LearnModel, convert, create
from honed.learn_models.attempt import SYSTEM_EVENTS
from honed.learn_models.choice import _check
from honed.training_sets.rows import format_row
from tests.unit.learn_models.actions import act

PAGE = (Path(__file__).parents[3] / "docs" / "learn-models.md").read_text()
EVENTS = dict(re.findall(r"```jsonl events (\S+)\n(.*?)```", PAGE, re.DOTALL))
ROWS = dict(re.findall(r"```json row (\S+)\n(.*?)```", PAGE, re.DOTALL))
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def episodes(model: LearnModel, lines: str) -> list[Episode]:
    """What becomes of the events, as the sink would build it."""
    groups: dict[str, list[Record]] = {}
    for line in lines.strip().splitlines():
        record = record_from_event(parse_event(line.encode()), received_ms=1)
        key = model.group_key(record)
        assert key is not None
        groups.setdefault(key, []).append(record)
    made = [model.build_episodes(records, now_ms=1) for records in groups.values()]
    return [episode for each in made for episode in each]  # type: ignore[misc]


def row(model: LearnModel, made: list[Episode]) -> Any:
    actions = sorted({action.action for episode in made for action in episode.actions})
    if isinstance(model, DpoLearnModel):
        (pair,) = model.build_pairs(made, available_actions=actions)
        return msgspec.json.decode(format_row(model.convert_pair(pair)))
    (episode,) = made
    return msgspec.json.decode(format_row(model.convert(episode, available_actions=actions)))


@pytest.mark.parametrize("name", EVENTS)
def test_the_events_become_the_row(name: str) -> None:
    """As it is printed there; of the chat's row the page leaves the tools out, and says so."""
    model = create(name)
    found = row(model, episodes(model, EVENTS[name]))
    if name == "chat":
        assert [tool["function"]["name"] for tool in found.pop("tools")] == ["read_logs"]
    assert found == msgspec.json.decode(ROWS[name])


def test_every_model_and_option_is_on_the_page() -> None:
    """With the engine's own events, and an example for each form of row."""
    assert all(f"`{name}`" in PAGE for name in (*BUILT_IN, *SYSTEM_EVENTS))
    assert (
        EVENTS.keys()
        == ROWS.keys()
        == {*BUILT_IN, "dpo(worker_task)"} - {"worker_decision_sequence"}
    )
    for key in (
        "min_actions",
        "system_prompt",
        "available_actions",
        "system_events",
        "too_long",
        "unlabelled",
    ):
        assert f"learn.{key}" in PAGE


def test_the_class_on_the_page_is_a_learn_model() -> None:
    """It passes the checks of the start, builds, judges and converts."""
    space: dict[str, Any] = {}
    exec(compile(CODE[0], "docs/learn-models.md", "exec"), space)
    model = space["LastWords"]()
    _check("my_swarm.learning:LastWords", model)
    done = [_said("fixed"), act("done")]
    (episode,) = model.build_episodes(done, now_ms=1)
    assert (episode.learn_model, episode.outcome) == ("last_words", Success())
    assert convert(model, episode).messages[-1].text == "fixed"  # type: ignore[union-attr]
    (silent,) = model.build_episodes([act("look"), act("done")], now_ms=1)
    with pytest.raises(LearnError, match=silent.id):
        convert(model, silent)
    assert model.evaluate([]) == Unknown()


def _said(output: str) -> ActionRecord:
    return msgspec.structs.replace(act("fix"), output=output)  # type: ignore[return-value,type-var]
