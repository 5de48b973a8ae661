"""Episodes as values, and the ids that processes give them."""

import subprocess
import sys

import msgspec
import pytest

from honed.domain.episode import Episode, EpisodeMetadata, as_episode
from honed.domain.message import Message
from honed.domain.outcome import Success, Unknown
from honed.domain.records import ActionRecord, LlmCallRecord, OutcomeRecord, StrategyAdviceRecord

ACT = ActionRecord(timestamp_ms=2, task_id="t", tick=1, worker_id=3, action="look")
CALL = LlmCallRecord(
    timestamp_ms=1, record_id=7, messages=(Message(role="user", content="hi"),), response="yes"
)
SAID = OutcomeRecord(timestamp_ms=3, outcome=Success(0.5))
WHOLE = Episode(
    id="0000000000001-00000000",
    learn_model="chat",
    records=(CALL, ACT, SAID, msgspec.structs.replace(ACT, action="jump", timestamp_ms=0)),
    metadata=EpisodeMetadata(
        created_at_ms=5, scenario="air", worker_id=3, adapter_id="air@1", tags={"desk": "2"}
    ),
    task_id="t",
    group_id="g",
    outcome=Success(0.5),
)


@pytest.mark.feature("SE-047")
def test_an_episode_is_made_by_naming_its_parts() -> None:
    """What nobody has judged is unknown; parts without a name are refused."""
    bare = Episode(
        id="e", learn_model="chat", records=(), metadata=EpisodeMetadata(created_at_ms=1)
    )
    assert (bare.outcome, bare.task_id, bare.group_id) == (Unknown(), None, None)
    assert (bare.metadata.scenario, bare.metadata.tags) == (None, {})
    with pytest.raises(TypeError):
        Episode("e", "chat", (), EpisodeMetadata(created_at_ms=1))  # type: ignore[misc]
    with pytest.raises(AttributeError):
        bare.outcome = Success()  # type: ignore[misc]


@pytest.mark.feature("SE-048")
def test_an_episode_survives_its_json() -> None:
    """Id, metadata, records of several kinds and outcome."""
    assert msgspec.json.decode(msgspec.json.encode(WHOLE), type=Episode) == WHOLE


@pytest.mark.feature("SE-049", "SE-044")
def test_records_are_iterated_by_kind_in_their_order() -> None:
    """The order is that of arrival, whatever times they name."""
    assert [action.action for action in WHOLE.actions] == ["look", "jump"]
    assert WHOLE.records_of(LlmCallRecord) == [CALL]
    assert WHOLE.records_of(OutcomeRecord) == [SAID]
    assert WHOLE.records_of(StrategyAdviceRecord) == []


def test_an_episode_of_our_own_stays_as_it_is() -> None:
    """Only another class is copied."""
    assert as_episode(WHOLE) is WHOLE


@pytest.mark.feature("SE-050")
def test_processes_give_different_ids() -> None:
    """Two that are started, and those that fork, in the same millisecond and at the same count."""
    code = (
        "import os\n"
        "from honed.domain.ids import EpisodeIds\n"
        "ids = EpisodeIds()\n"
        "for _ in range(3):\n"
        "    if (child := os.fork()) == 0:\n"
        "        os.write(1, f'{ids.next(5)}\\n'.encode()); os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "os.write(1, f'{ids.next(5)}\\n'.encode())\n"
    )
    made: list[str] = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        made += done.stdout.split()
    assert len(made) == 8
    # four hex digits of chance tell them apart: two equal ones are rare, and prove nothing
    assert len(set(made)) >= 7
