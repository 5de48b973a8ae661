"""Records of actions and verdicts, for tests of the learn models that read them."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import parse_event
from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.records import Record, record_from_event

NAMES = ("look", "fix", "test", "tick_start", "idle")


def record(**fields: Any) -> Record:
    """The record of an event."""
    return record_from_event(parse_event(msgspec.json.encode(fields)), received_ms=1_000)


def act(
    name: str, *, worker: int = 1, ok: bool = True, kpi: float | None = None, **fields: Any
) -> Record:
    """An action of task `t`."""
    result = {"success": ok, "kpi_contribution": kpi}
    common = {"task_id": "t", "tick": 1, "worker_id": worker}
    return record(action=name, result=result, **(common | fields))


def seen(text: str) -> dict[str, Any]:
    """The field that says what a worker observed."""
    return {"context": {"observation": text}}


def told(outcome: Outcome) -> Record:
    """A verdict on task `t`."""
    return record(type="outcome", task_id="t", outcome=msgspec.to_builtins(outcome))


def episode(
    id: str, outcome: Outcome, *records: Record, group: str | None = "g", task: str = "t"
) -> Episode:
    """An episode as a learn model would have built it."""
    return Episode(
        id=id,
        learn_model="worker_task",
        records=records,
        metadata=EpisodeMetadata(created_at_ms=1, scenario="triage"),
        task_id=task,
        group_id=group,
        outcome=outcome,
    )


shares = st.none() | st.floats(-1, 1)
actions = st.lists(
    st.builds(
        lambda name, ok, kpi, tick, worker: act(name, ok=ok, kpi=kpi, tick=tick, worker=worker),
        st.sampled_from(NAMES),
        st.booleans(),
        shares,
        st.integers(0, 3),
        st.integers(1, 2),
    ),
    max_size=8,
)
"""Actions of one task, of the engine too, by two workers, in any order of ticks."""

outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0]).map(Success),
    st.sampled_from([0.1, 0.2, 0.3, None]).map(Timeout),
    st.just(Failure("no")),
    st.just(Unknown()),
)
