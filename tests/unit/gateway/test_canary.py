"""A version beside the live one, over real llama-servers: its tasks, its promotion, its end, its crashes."""

import os
import shutil
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from honed.adapter_files import ADAPTER_GGUF
from honed.domain.serving import CandidateStatus, Refusal, Switched
from honed.gateway import canary, strategy
from honed.gateway.candidate import place
from honed.machine.memory import Memory
from tests.served import CHAT, QUESTION, Served, model, servers_of, serving, text_of, until

pytestmark = pytest.mark.anyio

TASKS = [f"task-{i}" for i in range(12)]
TRIED = {task for task in TASKS if place("tiny", "tiny@2", task) < 0.5}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """As `honed serve` runs."""
    return "asyncio", {"use_uvloop": True}


async def asked(served: Served, verb: str, **order: Any) -> httpx.Response:
    """The answer to an order about the candidate."""
    async with served.control() as client:
        return await client.post(f"/v1/scenarios/tiny/{verb}", json=order)


async def tried(
    served: Served, folder: Path, *, share: float = 0.5, **more: Any
) -> CandidateStatus:
    """Try the adapter in `folder`."""
    answer = await asked(
        served, "canary", model_id=folder.name, adapter_path=str(folder), share=share, **more
    )
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=CandidateStatus)


async def done(served: Served, verb: str, model_id: str) -> Switched:
    """`promote` or `withdraw`."""
    answer = await asked(served, verb, model_id=model_id)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Switched)


async def refused(served: Served, verb: str, **order: Any) -> tuple[int, Refusal]:
    """Why an order is not carried out."""
    answer = await asked(served, verb, **order)
    assert answer.status_code >= 400, answer.text
    return answer.status_code, msgspec.json.decode(answer.content, type=Refusal)


async def candidate(served: Served) -> CandidateStatus:
    """What is told of the candidate."""
    lane = await served.lane()
    assert lane.candidate is not None
    return lane.candidate


async def one(client: httpx.AsyncClient, task: str, *, streams: bool = False) -> tuple[str, str]:
    """Version and text of the answer to a call of a task, up to what is half a character in a stream."""
    body = QUESTION | {"max_tokens": 16, "stream": streams}
    answer = await client.post(CHAT, json=body, headers={"x-honed-task": task})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-honed-model"], text_of(answer).split("\ufffd")[0]


async def by_task(served: Served) -> dict[str, tuple[str, str]]:
    """One answer for each task."""
    async with served.client() as client:
        return {task: await one(client, task) for task in TASKS}


@dataclass
class Tasks:
    """Clients that work on tasks, call after call."""

    served: Served
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    """Task, version, text."""
    failures: list[str] = field(default_factory=list)

    async def client(self, number: int) -> None:
        async with self.served.client() as client:
            while True:
                for task in TASKS[number::4]:
                    try:
                        got = await one(client, task, streams=number % 2 == 0)
                        self.answers.append((task, *got))
                    except (httpx.HTTPError, AssertionError) as error:
                        self.failures.append(repr(error))

    async def settle(self) -> None:
        """Wait until each task has had the version that it has from now on."""
        settled = {(task, "tiny@2" if task in TRIED else "tiny@1") for task in TASKS}
        with anyio.fail_after(60):
            while not settled <= {(task, version) for task, version, _ in self.answers}:
                await anyio.sleep(0.005)

    async def more(self, count: int) -> None:
        """Wait until so many answers more have come."""
        goal = len(self.answers) + count
        with anyio.fail_after(60):
            while len(self.answers) < goal:
                await anyio.sleep(0.005)


async def test_candidate_answers_its_tasks_and_is_promoted_without_a_start(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Each task has one version while it is tried, whoever asks in whatever order; nothing fails, nothing is mixed."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        old = (await by_task(served))[TASKS[0]]
        load = Tasks(served)
        async with anyio.create_task_group() as clients:
            for number in range(4):
                clients.start_soon(load.client, number)
            await load.more(4)
            status = await tried(served, second)
            assert (status.model_id, status.share, status.state) == ("tiny@2", 0.5, "active")
            load.answers.clear()
            await load.settle()
            both = set(load.answers)
            again = await tried(served, second, share=1.0)
            assert len(servers_of(tmp_path)) == 2
            assert (again.share, again.state) == (1.0, "active")
            before = set(servers_of(tmp_path))
            switched = await done(served, "promote", "tiny@2")
            await load.more(8)
            clients.cancel_scope.cancel()
        assert load.failures == []
        new = (await by_task(served))[TASKS[0]]
        assert (old[0], new[0]) == ("tiny@1", "tiny@2")
        assert old[1] != new[1]
        # What was under way when the candidate came was the live version's.
        expected = {(task, *(new if task in TRIED else old)) for task in TASKS}
        assert expected <= both <= expected | {(task, *old) for task in TASKS}
        assert {(version, text) for _, version, text in load.answers} == {old, new}
        assert set(servers_of(tmp_path)) < before
        assert (switched.model_id, "start" in switched.seconds) == ("tiny@2", False)
        lane = await served.lane()
        assert (lane.state, lane.model_id, lane.candidate, lane.failed) == (
            "active",
            "tiny@2",
            None,
            0,
        )
        assert (await done(served, "promote", "tiny@2")).seconds == {}


async def test_withdrawn_candidate_leaves_nothing_behind(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Its tasks go to the live version at once, its requests in flight are finished, its server ends."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        await tried(served, second)
        load = Tasks(served)
        async with anyio.create_task_group() as clients:
            for number in range(4):
                clients.start_soon(load.client, number)
            await load.more(24)
            assert {(task in TRIED, version) for task, version, _ in load.answers} == {
                (True, "tiny@2"),
                (False, "tiny@1"),
            }
            counted = await candidate(served)
            assert counted.requests > 0
            assert counted.failed == 0
            switched = await done(served, "withdraw", "tiny@2")
            clients.cancel_scope.cancel()
        assert load.failures == []
        assert switched.model_id == "tiny@1"
        assert {version for version, _ in (await by_task(served)).values()} == {"tiny@1"}
        assert len(servers_of(tmp_path)) == 1
        assert (await served.lane()).candidate is None
        assert (await done(served, "withdraw", "tiny@2")).seconds == {}


async def test_shadow_comes_into_the_light(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """First it answers copies, which nobody sees; then, without another start, its share of the tasks."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served, served.client() as client:
        await served.applier.apply(model(first), previous=None)
        status = await tried(served, second, share=1.0, is_shadow=True)
        assert status.is_shadow
        both = set(servers_of(tmp_path))
        assert (await one(client, "t"))[0] == "tiny@1"

        async def is_copied() -> bool:
            told = await candidate(served)
            return (told.requests, told.in_flight) == (1, 0)

        await until(is_copied)
        assert (await candidate(served)).failed == 0
        assert not (await tried(served, second, share=1.0)).is_shadow
        assert (await one(client, "t"))[0] == "tiny@2"
        assert set(servers_of(tmp_path)) == both
        assert (await served.lane()).requests == 2


async def test_candidate_that_dies_is_started_again_and_given_up_in_the_end(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The live version has its tasks meanwhile; after three deaths it is withdrawn, and says why."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served, served.client() as client:
        await served.applier.apply(model(first), previous=None)
        [live] = servers_of(tmp_path)
        await tried(served, second, share=1.0)

        async def is_back() -> bool:
            return (await candidate(served)).state == "active"

        async def is_missed(former: set[int]) -> bool:
            has_next = bool(set(servers_of(tmp_path)) - former)
            return has_next or (await candidate(served)).state != "active"

        async def is_given_up() -> bool:
            return (await candidate(served)).state == "withdrawn"

        for deaths in (1, 2, 3):
            assert (await one(client, "t"))[0] == "tiny@2"
            [pid] = set(servers_of(tmp_path)) - {live}
            os.kill(pid, signal.SIGKILL)
            await until(partial(is_missed, {live, pid}))
            assert (await one(client, "t"))[0] in ("tiny@1", "tiny@2")
            await until(is_back if deaths < 3 else is_given_up)
        told = await candidate(served)
        assert told.error is not None
        assert "ended with status" in told.error
        assert (await one(client, "t"))[0] == "tiny@1"
        assert servers_of(tmp_path) == [live]
        assert (await served.lane()).failed == 0
        await tried(served, second, share=1.0)  # whoever asks again is obeyed
        assert (await one(client, "t"))[0] == "tiny@2"


async def test_candidate_outlives_the_gateway(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The next one comes back with both versions and the same tasks for each."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        await tried(served, second)
        before = await by_task(served)
    assert servers_of(tmp_path) == []
    async with serving(tmp_path, tiny_gguf) as served:

        async def is_back() -> bool:
            return (await candidate(served)).state == "active"

        await until(is_back)
        assert await by_task(served) == before
        assert {version for version, _ in before.values()} == {"tiny@1", "tiny@2"}
        await done(served, "withdraw", "tiny@2")
    async with serving(tmp_path, tiny_gguf) as served:
        assert (await served.lane()).candidate is None


async def test_candidate_that_does_not_fit_any_more_waits_for_room(
    tmp_path: Path,
    tiny_gguf: Path,
    tiny_adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a restart with less memory the live version has all tasks, and status says why; it comes when there is
    room.
    """
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        await tried(served, second)
    available = [1 << 20]
    monkeypatch.setattr(canary, "ROOM_LOOK_S", 0.05)
    monkeypatch.setattr(strategy, "memory", lambda: Memory(total=1 << 34, available=available[0]))
    with capture_logs() as logs:
        async with serving(tmp_path, tiny_gguf) as served:

            async def is_waiting() -> bool:
                return (await candidate(served)).state == "down"

            async def is_back() -> bool:
                return (await candidate(served)).state == "active"

            await until(is_waiting)
            told = await candidate(served)
            assert told.error is not None
            assert told.error.startswith("it waits for room: a second server takes about ")
            assert {version for version, _ in (await by_task(served)).values()} == {"tiny@1"}
            assert len(servers_of(tmp_path)) == 1
            available[0] = 1 << 34
            await until(is_back)
            versions = {version for version, _ in (await by_task(served)).values()}
            assert versions == {"tiny@1", "tiny@2"}
            assert (await candidate(served)).error is None
    assert [each["event"] for each in logs].count("canary.delayed") == 1


async def test_switch_ends_the_trial(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """To the candidate it is a promotion, to the live one nothing; before any other the candidate goes."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        await tried(served, second)
        both = set(servers_of(tmp_path))
        await served.applier.apply(model(first), previous=None)
        assert set(servers_of(tmp_path)) == both
        await served.applier.apply(model(second), previous=None)
        assert set(servers_of(tmp_path)) < both
        lane = await served.lane()
        assert (lane.model_id, lane.candidate) == ("tiny@2", None)
        await tried(served, first)
        await served.applier.apply(None, previous=None)
        lane = await served.lane()
        assert (lane.model_id, lane.candidate) == (None, None)
        assert len(servers_of(tmp_path)) == 1


async def test_what_cannot_be_tried_disturbs_nobody(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """An order that is refused says why, and everything stays as it was."""
    first, second = tiny_adapters
    wrong = tmp_path / "tiny@9"
    shutil.copytree(second, wrong)
    shutil.copy(first / ADAPTER_GGUF, wrong)
    async with serving(tmp_path, tiny_gguf) as served:
        await served.applier.apply(model(first), previous=None)
        place_of = {"adapter_path": str(second), "share": 0.5}
        for verb, order, status, code, message in (
            ("canary", {"model_id": "tiny@1"} | place_of, 409, "CONFLICT", "is live already"),
            (
                "canary",
                {"model_id": "tiny@9", "adapter_path": str(wrong), "share": 0.5},
                502,
                "PROBE_FAILED",
                "does not answer as tiny@9 should",
            ),
            (
                "canary",
                {"model_id": "tiny@5", "adapter_path": str(tmp_path / "no"), "share": 0.5},
                409,
                "ADAPTER_NOT_FOUND",
                "",
            ),
            ("canary", {"model_id": "tiny@2"} | place_of | {"share": 0}, 422, "INVALID_INPUT", ""),
            (
                "canary",
                {"model_id": "tiny@2"} | place_of | {"share": 1.1},
                422,
                "INVALID_INPUT",
                "",
            ),
            ("promote", {"model_id": "tiny@2"}, 409, "CONFLICT", "is no candidate"),
            ("withdraw", {"model_id": "tiny@1"}, 409, "CONFLICT", "is live, not a candidate"),
        ):
            found, refusal = await refused(served, verb, **order)
            assert (found, refusal.code) == (status, code)
            assert message in refusal.message
        assert (await served.lane()).candidate is None
        assert len(servers_of(tmp_path)) == 1
        await tried(served, second)
        for verb in ("promote", "withdraw"):
            _, refusal = await refused(served, verb, model_id="tiny@7")
            assert "tiny@2 is tried now, not tiny@7" in refusal.message
        _, refusal = await refused(served, "canary", model_id="tiny@7", **place_of)
        assert "tiny@2 is tried now" in refusal.message
        assert (await candidate(served)).state == "active"


async def test_nothing_is_tried_where_one_server_is_all_there_is_room_for(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Who has asked for one server at a time gets no second one."""
    first, second = tiny_adapters
    async with serving(tmp_path, tiny_gguf, strategy="hold") as served:
        await served.applier.apply(model(first), previous=None)
        _, refusal = await refused(
            served, "canary", model_id="tiny@2", adapter_path=str(second), share=0.5
        )
        assert "nothing can be tried beside the live version" in refusal.message
        assert len(servers_of(tmp_path)) == 1
