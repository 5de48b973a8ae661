"""Which requests a candidate gets: a share of the tasks, each of them wholly, or the version that a request names."""

from pathlib import Path

import httpx
import pytest

from honed.domain.serving import AdapterRef, CanaryOrder
from honed.gateway.arms import Arms
from honed.gateway.candidate import Candidate, place
from honed.gateway.labels import Labels
from honed.gateway.refusal import Refused
from honed.gateway.upstream import Address
from honed.gateway.wanted import ANY, Wanted
from tests.unit.gateway.stub import CHAT, answering, backend_at, fronted, lane_to, upstream

LIVE = Address("127.0.0.1", 1)
TASKS = [f"task-{i}" for i in range(2000)]


def tried(share: float, *, is_shadow: bool = False) -> Arms:
    """Live `tiny@3`, and `tiny@4` tried beside it."""
    arms = Arms()
    arms.live = backend_at(LIVE)
    order = CanaryOrder(
        model_id="tiny@4", adapter_path="/nowhere", share=share, is_shadow=is_shadow
    )
    arms.candidate = Candidate("tiny", order)
    trial = backend_at(Address("127.0.0.1", 2))
    trial.adapter = AdapterRef("tiny@4", "/nowhere")
    arms.candidate.serve(trial)
    return arms


def taken(arms: Arms) -> set[str]:
    """The tasks that the candidate answers."""
    return {task for task in TASKS if arms.pick(Wanted(task)) is not arms.live}


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_share_of_the_tasks_is_what_was_ordered(share: float) -> None:
    """Of 2000 tasks the candidate gets its share, but for chance (three standard deviations)."""
    spread = 3 * (share * (1 - share) / len(TASKS)) ** 0.5
    assert abs(len(taken(tried(share))) / len(TASKS) - share) < spread


def test_whole_share_is_every_task() -> None:
    """With share 1 no task is left to the live version."""
    assert taken(tried(1.0)) == set(TASKS)


def test_larger_share_keeps_the_tasks_it_has() -> None:
    """Nobody changes the version in the middle of a task because more tasks are tried."""
    assert taken(tried(0.1)) < taken(tried(0.3)) < taken(tried(0.8))


def test_each_candidate_has_other_tasks() -> None:
    """It is not always the same tasks that are tried upon."""
    first = {task for task in TASKS if place("tiny", "tiny@4", task) < 0.1}
    second = {task for task in TASKS if place("tiny", "tiny@5", task) < 0.1}
    assert len(first & second) < len(first) / 2


def test_place_is_the_same_in_every_process() -> None:
    """Task, candidate and scenario decide alone: another gateway, another day, the same version."""
    assert place("tiny", "tiny@4", "task-1") == 0.21912109150618708


def test_request_is_told_by_task_then_session_then_group() -> None:
    """What belongs to nothing that could be kept together goes to the live version."""
    assert Wanted.by(Labels(task_id="t", session_id="s", group_id="g"), version=None).unit == "t"
    assert Wanted.by(Labels(session_id="s", group_id="g"), version=None).unit == "s"
    assert Wanted.by(Labels(group_id="g"), version=None).unit == "g"
    arms = tried(1.0)
    assert arms.pick(Wanted.by(Labels(), version=None)) is arms.live
    assert arms.pick(ANY) is arms.live


def test_shadow_answers_nobody() -> None:
    """All tasks are the live version's, and some of them the shadow's to copy."""
    arms = tried(0.5, is_shadow=True)
    assert taken(arms) == set()
    assert arms.candidate is not None
    assert 900 < sum(arms.candidate.has(Wanted(task)) for task in TASKS) < 1100


def test_candidate_without_a_server_leaves_its_tasks_to_the_live_version() -> None:
    """They come back to it when it has one again; the live one's never go to the candidate."""
    arms = tried(0.5)
    before = taken(arms)
    assert arms.candidate is not None
    server = arms.candidate.backend
    assert server is not None
    arms.candidate.fault("it died")
    assert taken(arms) == set()
    arms.candidate.serve(server)
    assert taken(arms) == before
    arms.live = None
    left = {task for task in TASKS if arms.pick(Wanted(task)) is None}
    assert left == set(TASKS) - before


@pytest.mark.anyio
async def test_request_may_name_a_version(tmp_path: Path) -> None:
    """`scenario@n` is listed and answered while it is resident; another one is a 404 that says which are."""
    lane = lane_to(None, tmp_path)
    lane.arms = tried(0.5)
    lane.adapter = AdapterRef("tiny@3", "/nowhere")
    async with upstream(answering()) as live, upstream(answering()) as trial:
        assert lane.arms.live is not None
        assert lane.arms.candidate is not None
        assert lane.arms.candidate.backend is not None
        lane.arms.live.address = live.address
        lane.arms.candidate.backend.address = trial.address
        async with (
            fronted({"tiny": lane, "other": lane_to(None, tmp_path, scenario="other")}) as address,
            httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        ):
            models = (await client.get("/v1/models")).json()["data"]
            assert [each["id"] for each in models] == ["tiny", "tiny@3", "tiny@4", "other"]
            assert (await client.get("/v1/models/tiny@4")).json()["id"] == "tiny@4"
            assert (await client.get("/v1/models/tiny@5")).status_code == 404
            for version in ("tiny@3", "tiny@4"):
                answer = await client.post(CHAT, json={"model": version, "messages": []})
                assert (answer.status_code, answer.headers["x-honed-model"]) == (200, version)
            assert len(live.requests) == len(trial.requests) == 1
            gone = await client.post(CHAT, json={"model": "tiny@5", "messages": []})
            assert gone.status_code == 404
            assert "there is: tiny@3, tiny@4" in gone.json()["error"]["message"]
            unknown = await client.post(CHAT, json={"model": "tiny@latest", "messages": []})
            assert unknown.status_code == 404
    names = [(call.adapter_id, call.labels.purpose) for call in lane.captured._calls]
    assert names == [("tiny@3", "work"), ("tiny@4", "work")]


def test_named_version_answers() -> None:
    """Whatever the task; one that is not there is told, with those that are."""
    arms = tried(0.5)
    live = AdapterRef("tiny@3", "/nowhere")
    for task in TASKS[:50]:
        assert arms.pick(Wanted(task, "tiny@3")) is arms.live
        picked = arms.pick(Wanted(task, "tiny@4"))
        assert picked is not None
        assert picked.model_id == "tiny@4"
    assert arms.pick(Wanted(None, "tiny@5")) is None
    arms.see(Wanted(None, "tiny@4"), live)
    with pytest.raises(
        Refused, match=r"tiny@5 is not served now; there is: tiny@3, tiny@4"
    ) as told:
        arms.see(Wanted(None, "tiny@5"), live)
    assert told.value.status == 404
    assert arms.candidate is not None
    arms.candidate.state = "withdrawn"
    with pytest.raises(Refused, match=r"there is: tiny@3$"):
        arms.see(Wanted(None, "tiny@4"), live)
