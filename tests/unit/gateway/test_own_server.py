"""vLLM and SGLang behind the gateway: versions under names, switched without anybody's notice.

The servers answer as their documentation says (`tests/own_servers.py`); none of them has run here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from structlog.testing import capture_logs

from honed.adapter_files import ADAPTER_WEIGHTS, adapter_digest
from honed.appliers import LlamaServerApplier
from honed.config import Config, ServeSection
from honed.domain.records import LlmCallRecord
from honed.domain.serving import CanaryOrder, CandidateOrder, Registration, Switched
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError
from honed.gateway.candidate import place
from honed.gateway.gateway import Gateway
from honed.gateway.versions import LoadedVersion
from honed.serve import serve
from tests.feed_parts import open_feed
from tests.own_servers import BASE, SCENARIO, SglangServer, VllmServer, published
from tests.served import CHAT, QUESTION, Load, until
from tests.unit.gateway import stub
from tests.unit.gateway.own_front import OwnFront, order

pytestmark = pytest.mark.anyio

KINDS = ("vllm", "sglang")
Fake = VllmServer | SglangServer


def made(kind: str) -> Fake:
    return VllmServer() if kind == "vllm" else SglangServer()


def weights(number: int) -> str:
    """What an answer of this version says."""
    return f"{ADAPTER_WEIGHTS} of {SCENARIO}@{number}"


@dataclass
class Front(OwnFront):
    """A gateway in front of such a server."""

    kind: str
    fake: Fake

    @property
    def loaded(self) -> set[str]:
        return set(self.fake.adapters)

    async def has(self, *names: str) -> None:
        """Wait until the server has these adapters alone."""

        async def holds() -> bool:
            return self.loaded == set(names)

        await until(holds)

    async def is_tried(self) -> bool:
        """Whether the candidate has a server."""
        trial = self.lane.arms.candidate
        assert trial is not None
        assert not trial.is_withdrawn, trial.error
        return trial.backend is not None


@asynccontextmanager
async def fronting(fake: Fake, folder: Path, **settings: Any) -> AsyncIterator[Front]:
    """A gateway over a server that listens; its lane may still come up."""
    kind = "vllm" if isinstance(fake, VllmServer) else "sglang"
    section = ServeSection(external_url=fake.url, external_kind=kind, **settings)
    gateway = Gateway(section, folder / "llama")
    async with gateway.open():
        await gateway.register(SCENARIO, Registration())
        async with stub.fronted(gateway.lanes) as address:
            yield Front(gateway, str(address), folder, kind, fake)


@pytest.fixture(params=KINDS)
async def front(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    """One that serves the base model."""
    fake = made(request.param)
    async with fake.open(), fronting(fake, tmp_path) as opened:
        await opened.serves()
        yield opened


@pytest.fixture
async def vllm(tmp_path: Path) -> AsyncIterator[Front]:
    """The same for what does not depend on the kind."""
    fake = VllmServer()
    async with fake.open(), fronting(fake, tmp_path) as opened:
        await opened.serves()
        yield opened


@pytest.mark.feature("SE-121")
async def test_alias_moves_at_the_gateway(front: Front) -> None:
    """Agents name the scenario and are answered by the version in service; it is called by its own name there."""
    assert await front.said() == ("base", "base")
    for number in (1, 2):
        switched = await front.apply(front.published(number))
        assert switched.strategy == "blue_green"
        name = f"{SCENARIO}@{number}"
        assert await front.said() == (name, weights(number))
        assert await front.said(stream=True) == (name, weights(number))
        assert front.fake.chats[-1]["model"] == (name if front.kind == "vllm" else f"{BASE}:{name}")
        assert front.fake.chats[-1]["messages"] == QUESTION["messages"]
        assert front.loaded == {name}
    await front.apply(None)
    assert await front.said() == ("base", "base")
    assert front.loaded == set()


async def test_one_version_can_be_named(front: Front) -> None:
    """The list is the gateway's own; a version is asked for while it is there, and no other adapter of the server."""
    await front.apply(front.published(1))
    front.fake.adapters["secret@1"] = "/nowhere"
    async with front.client() as client:
        told = (await client.get("/v1/models")).json()
    assert [card["id"] for card in told["data"]] == [SCENARIO, f"{SCENARIO}@1"]
    assert await front.said(model=f"{SCENARIO}@1") == (f"{SCENARIO}@1", weights(1))
    assert (await front.ask(model=f"{SCENARIO}@2")).status_code == 404
    for body in ({"model": "secret@1"}, {"model": f"{BASE}:secret@1"}, {"lora_path": "secret@1"}):
        assert await front.said(**body) == (f"{SCENARIO}@1", weights(1))


async def test_adapters_are_the_gateways_business(vllm: Front) -> None:
    """Orders that would change them are refused; other paths get what the server says."""
    async with vllm.client() as client:
        for path in ("/v1/load_lora_adapter", "/load_lora_adapter", "/v1/unload_lora_adapter"):
            answer = await client.post(path, json={"lora_name": "x", "lora_path": "/x"})
            assert answer.status_code == 403
        assert (await client.post("/lora-adapters-of-none", json={})).status_code == 404
        assert (await client.get("/metrics")).status_code == 404
    assert vllm.loaded == set()


async def test_swaps_under_load_lose_and_mix_nothing(front: Front) -> None:
    """Every answer is whole and by the version that its header names; nothing is unloaded while it is used."""
    models = [front.published(number) for number in (1, 2, 3)]
    load = Load(front)
    async with anyio.create_task_group() as clients:
        for i in range(4):
            clients.start_soon(load.client, i % 2 == 0)
        for version in (*models, None, *reversed(models)):
            await load.more(8)
            await front.apply(version)
        await load.more(8)
        clients.cancel_scope.cancel()
    expected = {model.id: weights(number) for number, model in enumerate(models, 1)}
    expected["base"] = "base"
    assert load.failures == []
    assert [each for each in load.answers if expected[each[0]] != each[1]] == []
    assert {name for name, _ in load.answers} == set(expected)
    assert front.fake.dropped_in_use == []
    assert front.loaded == {models[0].id}


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_thousand_requests_across_ten_swaps(front: Front) -> None:
    """16 clients, half of them streaming: none fails, none is cut, none mixed, each is of the version it names."""
    models = [front.published(number) for number in range(1, 11)]
    await front.apply(models[-1])
    load = Load(front)
    async with anyio.create_task_group() as clients:
        for i in range(16):
            clients.start_soon(load.client, i % 2 == 0)
        for version in models:
            with anyio.fail_after(300):
                while len(load.answers) < 1000 * (models.index(version) + 1):
                    await anyio.sleep(0.1)
            await front.apply(version)
        clients.cancel_scope.cancel()
    expected = {model.id: weights(number) for number, model in enumerate(models, 1)}
    assert load.failures == []
    assert [each for each in load.answers if expected[each[0]] != each[1]] == []
    assert {name for name, _ in load.answers} == set(expected)
    assert len(load.answers) >= 10_000
    assert front.fake.dropped_in_use == []
    assert front.loaded == {models[-1].id}


async def test_version_is_unloaded_after_its_last_request(front: Front) -> None:
    """Until then the server has both: what runs ends as it began, what comes gets the new one, nobody waits."""
    first, second = front.published(1), front.published(2)
    await front.apply(first)
    front.fake.gate = anyio.Event()
    switched: list[Switched] = []

    async def switch() -> None:
        switched.append(await front.apply(second))

    async def flipped() -> bool:
        return (await front.said())[0] == second.id

    async with (
        front.client() as client,
        anyio.create_task_group() as tasks,
        client.stream("POST", CHAT, json=QUESTION | {"stream": True}) as response,
    ):
        pieces = response.aiter_bytes()
        begun = await anext(pieces)
        tasks.start_soon(switch)
        await until(flipped)
        assert switched == []
        assert front.loaded == {first.id, second.id}
        front.fake.gate.set()
        whole = begun + b"".join([piece async for piece in pieces])
        assert response.headers["x-honed-model"] == first.id
    said = [
        msgspec.json.decode(line[6:])["choices"][0]["delta"].get("content", "")
        for line in whole.decode().splitlines()
        if line.startswith('data: {"id"')
    ]
    assert "".join(said) == weights(1)
    assert [each.model_id for each in switched] == [second.id]
    assert front.loaded == {second.id}
    assert front.fake.dropped_in_use == []


async def test_request_that_lasts_longer_than_the_drain_keeps_its_adapter(tmp_path: Path) -> None:
    """The switch does not wait for it any longer; the adapter is unloaded when it has ended."""
    fake = SglangServer()
    async with fake.open(), fronting(fake, tmp_path, drain_timeout=timedelta(0)) as front:
        await front.serves()
        await front.apply(front.published(1))
        fake.gate = anyio.Event()
        async with (
            front.client() as client,
            client.stream("POST", CHAT, json=QUESTION | {"stream": True}) as response,
        ):
            pieces = response.aiter_bytes()
            await anext(pieces)
            await front.apply(front.published(2))
            for _ in range(5):  # time enough to unload it too early
                assert await front.said() == (f"{SCENARIO}@2", weights(2))
            assert front.loaded == {f"{SCENARIO}@1", f"{SCENARIO}@2"}
            fake.gate.set()
            assert (b"".join([piece async for piece in pieces])).endswith(b"data: [DONE]\n\n")
        await front.has(f"{SCENARIO}@2")
        assert fake.dropped_in_use == []


async def test_server_that_forgot_its_adapters_gets_them_again(vllm: Front) -> None:
    """It was started anew between two looks, or somebody has unloaded them."""
    await vllm.apply(vllm.published(1))
    vllm.fake.restart()
    await vllm.has(f"{SCENARIO}@1")
    await vllm.serves()
    assert await vllm.said() == (f"{SCENARIO}@1", weights(1))


async def test_server_that_went_and_came_back_serves_what_it_served(tmp_path: Path) -> None:
    """It is looked for while it is away; live version and candidate are loaded again when it is there."""
    fake, port = VllmServer(), stub.quiet_port()
    async with fake.open(port=port), fronting(fake, tmp_path) as front:
        await front.serves()
        await front.apply(front.published(1))
    # the gateway's own end leaves the server as it is
    assert set(fake.adapters) == {f"{SCENARIO}@1"}
    fake.restart()
    async with fronting(fake, tmp_path) as front:  # nobody is there yet

        async def is_told() -> bool:
            return front.lane.error is not None

        await until(is_told)
        assert front.lane.error is not None
        assert "does not answer" in front.lane.error
        async with fake.open(port=port):
            await front.serves()
            assert await front.said() == (f"{SCENARIO}@1", weights(1))
            await front.gateway.canary(SCENARIO, _canary(front.published(2)))
            trial = front.lane.arms.candidate
            assert trial is not None
            assert trial.backend is not None
            assert front.lane.backend is not None
            versions = (front.lane.backend.server, trial.backend.server)
        with capture_logs() as logs:
            # whoever notices first: a candidate that is started while its live version seems to be up fails for nothing
            assert isinstance(versions[1], LoadedVersion)
            assert front.lane.servers._own is not None
            await front.lane.servers._own.gone(versions[1])
            assert versions[0].has_ended

            async def is_down() -> bool:
                return front.lane.backend is None

            await until(is_down)
        fake.restart()
        async with fake.open(port=port):
            await front.serves()
            assert await front.said() == (f"{SCENARIO}@1", weights(1))
            await front.has(f"{SCENARIO}@1", f"{SCENARIO}@2")
            await until(front.is_tried)
            assert await front.said(model=f"{SCENARIO}@2") == (f"{SCENARIO}@2", weights(2))
    assert any(each["event"] == "server.died" for each in logs)


async def test_adapters_of_others_are_left_alone(tmp_path: Path) -> None:
    """What a gateway that was killed has left of this scenario is unloaded, and nothing else."""
    fake = VllmServer()
    others = {"theirs": "/theirs", "airline2@1": "/x", "airlin@1": "/y"}
    fake.adapters = others | {f"{SCENARIO}@8": "/left/over"}
    async with fake.open(), fronting(fake, tmp_path) as front:
        await front.serves()
        assert fake.adapters == others
        for number in (1, 2):
            await front.apply(front.published(number))
        await front.apply(None)
        assert fake.adapters == others


async def test_two_scenarios_share_a_server(vllm: Front) -> None:
    """Each has its own versions there, and its own alias."""
    second = "tau"
    await vllm.gateway.register(second, Registration())
    for number, scenario in ((1, SCENARIO), (2, second), (3, SCENARIO)):
        model = vllm.published(number)
        adapter = msgspec.structs.replace(order(model), model_id=f"{scenario}@{number}")
        await vllm.gateway.switch(scenario, adapter)
    assert await vllm.said() == (f"{SCENARIO}@3", weights(3))
    assert await vllm.said(model=second) == (f"{second}@2", weights(2))
    assert vllm.loaded == {f"{SCENARIO}@3", f"{second}@2"}


async def test_server_without_room_refuses_and_the_former_serves_on(tmp_path: Path) -> None:
    """The error says what the server said; what is in service does not notice."""
    fake = SglangServer(max_loaded=1)
    async with fake.open(), fronting(fake, tmp_path) as front:
        await front.serves()
        await front.apply(front.published(1))
        with pytest.raises(ApplyError, match=r"Maximum number of LoRA adapters \(1\) loaded"):
            await front.apply(front.published(2))
        assert await front.said() == (f"{SCENARIO}@1", weights(1))
        assert front.loaded == {f"{SCENARIO}@1"}
        assert front.lane.state == "active"


async def test_vllm_without_runtime_loading_says_how_to_start_it(tmp_path: Path) -> None:
    """The base serves on."""
    fake = VllmServer(updating=False)
    async with fake.open(), fronting(fake, tmp_path) as front:
        await front.serves()
        with pytest.raises(ApplyError, match="Not Found") as refused:
            await front.apply(front.published(1))
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in (refused.value.advice or "")
        assert await front.said() == ("base", "base")


async def test_server_that_does_not_load_in_time_is_not_waited_for(vllm: Front) -> None:
    """The switch fails; when the server has loaded it after all, the next start clears that."""
    first, second = vllm.published(1), vllm.published(2)
    vllm.fake.faults["/v1/load_lora_adapter"] = vllm.fake.hang
    own = vllm.lane.servers._own
    assert own is not None
    patient = own._section
    own._section = patient.model_copy(update={"startup_timeout": timedelta(seconds=0.2)})
    with pytest.raises(ApplyError, match=r"gave no answer to POST .* within 0.2 s"):
        await vllm.apply(first)
    assert await vllm.said() == ("base", "base")
    vllm.fake.faults.clear()
    own._section = patient
    vllm.fake.adapters[first.id] = first.adapter_path
    await vllm.apply(second)
    assert vllm.loaded == {second.id}


async def test_vitals_are_those_of_the_whole_server(front: Front) -> None:
    """From its metrics, where it tells them; there are no slots."""
    before = await front.gateway.vitals(SCENARIO)
    assert (before.is_healthy, before.slots, before.generated_tokens) == (True, None, None)
    waiting, hits = (
        ("num_requests_waiting", "prefix_cache_hits_total")
        if front.kind == "vllm"
        else ("num_queue_reqs", "cached_tokens_total")
    )
    lines = [
        f"# TYPE {front.kind}:generation_tokens_total counter",
        f'{front.kind}:generation_tokens_total{{engine="0",model_name="{BASE}"}} 7.5e+02',
        f'{front.kind}:generation_tokens_total{{engine="1",model_name="{BASE}"}} 50.0',
        f'{front.kind}:{waiting}{{model_name="{BASE}"}} 3.0',
        f'{front.kind}:{hits}{{model_name="{BASE}"}} 12.0',
        f'{front.kind}:prompt_tokens_total{{model_name="{BASE}"}} 40.0',
    ]

    async def metrics(request: Request) -> Response:
        return PlainTextResponse("\n".join(lines))

    front.fake.faults["/metrics"] = metrics
    now = await front.gateway.vitals(SCENARIO)
    assert (now.generated_tokens, now.deferred, now.prompt_tokens) == (800, 3, 40)
    assert now.cached_tokens == 12


async def test_files_that_the_server_does_not_see_are_named(front: Front) -> None:
    """With where it looked, and which setting says where it sees them."""
    model = front.published(1)
    config = Path(model.adapter_path) / "adapter_config.json"
    front.gateway.lanes.clear()
    section = ServeSection(
        external_url=front.fake.url,
        external_kind="vllm" if front.kind == "vllm" else "sglang",
        external_adapters_at=front.folder / "elsewhere",
    )
    gateway = Gateway(section, front.folder / "other")
    async with gateway.open():
        await gateway.register(SCENARIO, Registration())
        with pytest.raises(AdapterNotFoundError, match=f"elsewhere/{SCENARIO}@1") as refused:
            await gateway.switch(SCENARIO, order(model))
        assert "adapters_at" in (refused.value.advice or "")
        (front.folder / "elsewhere").symlink_to(config.parents[1])
        await gateway.switch(SCENARIO, order(model))
    assert front.fake.adapters == {model.id: str(front.folder / "elsewhere" / model.id)}


async def test_version_that_does_not_answer_as_it_should_gets_no_request(vllm: Front) -> None:
    """It is unloaded again; the former one serves on."""
    first, second = vllm.published(1), vllm.published(2)
    await vllm.apply(first)
    vllm.fake.answers_as[second.id] = first.adapter_path
    with pytest.raises(ProbeFailedError, match="does not answer as it does"):
        await vllm.apply(second)
    assert vllm.loaded == {first.id}
    assert await vllm.said() == (first.id, weights(1))


@pytest.mark.parametrize("kind", KINDS)
async def test_key_of_the_server_is_the_operators(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nothing is served, and the log says what to do; with it clients' own keys do not get there."""
    fake = made(kind)
    fake.key = "s3cret"
    async with fake.open():
        with capture_logs() as logs:
            async with fronting(fake, tmp_path) as front:

                async def is_told() -> bool:
                    return front.lane.error is not None

                await until(is_told)
                assert "Unauthorized" in (front.lane.error or "")
        assert any("HONED_SERVER_KEY" in str(each.get("advice")) for each in logs)
        monkeypatch.setenv("HONED_SERVER_KEY", "s3cret")
        async with fronting(fake, tmp_path, hold_timeout=timedelta(0)) as front:
            await front.serves()
            await front.apply(front.published(1))
            fake.keys.clear()
            for shown in ({}, {"authorization": "Bearer mine"}, {"x-api-key": "mine"}):
                said = await front.said(headers=shown)
                assert said == (f"{SCENARIO}@1", weights(1))
            assert set(fake.keys) == {"Bearer s3cret"}
            fake.key = "another"

            async def is_left() -> bool:
                return front.lane.backend is None

            await until(is_left)
            assert (await front.ask()).status_code == 503


async def test_number_that_was_given_twice_is_another_adapter(front: Front) -> None:
    """Other weights under a number in service: a name of their own, so what runs ends as it began."""
    first = front.published(1)
    await front.apply(first)
    before = await front.said()
    again = _rewritten(first, "other weights")
    await front.apply(again)
    assert before == (f"{SCENARIO}@1", weights(1))
    assert await front.said() == (f"{SCENARIO}@1", "other weights")
    assert front.loaded == {f"{SCENARIO}@1-{again.digest[:12]}"}
    assert front.fake.dropped_in_use == []


async def test_states_of_former_weights_answer_nobody(tmp_path: Path) -> None:
    """vLLM keeps its prefix cache by name: a later gateway that gives the name again salts it by the weights."""
    fake = VllmServer()
    async with fake.open():
        async with fronting(fake, tmp_path / "a") as front:
            await front.serves()
            model = front.published(1)
            await front.apply(model)
            assert (await front.said())[1] == weights(1)
        again = _rewritten(model, "other weights")
        async with fronting(fake, tmp_path / "b") as front:
            await front.serves()
            await front.apply(again)
            assert front.loaded == {f"{SCENARIO}@1"}
            assert (await front.said())[1] == "other weights"
            assert (await front.said(cache_salt="mine"))[1] == "other weights"
    salts = [chat["cache_salt"] for chat in fake.chats]
    assert salts[:2] == [f"honed:{model.digest}", f"honed:{again.digest}"]
    assert "mine" not in salts[2]
    assert len(set(salts)) == 3


async def test_candidate_stands_beside_the_live_version(front: Front) -> None:
    """It takes no second server: its tasks go to it, promoting it is a flip, withdrawing it unloads it."""
    first, second, third = (front.published(number) for number in (1, 2, 3))
    await front.apply(first)
    tasks = [f"task-{i}" for i in range(8)]
    await front.gateway.canary(SCENARIO, _canary(second))
    tried = {each for each in tasks if place(SCENARIO, second.id, each) < 0.5}
    for task in tasks:
        version, text = await front.said(headers={"x-honed-task": task})
        assert (version, text) == (
            (second.id, weights(2)) if task in tried else (first.id, weights(1))
        )
    assert await front.said(model=second.id) == (second.id, weights(2))
    await front.gateway.promote(SCENARIO, CandidateOrder(model_id=second.id))
    assert await front.said() == (second.id, weights(2))
    assert front.loaded == {second.id}
    await front.gateway.canary(SCENARIO, _canary(third))
    assert front.loaded == {second.id, third.id}
    await front.gateway.withdraw(SCENARIO, CandidateOrder(model_id=third.id))
    assert front.loaded == {second.id}


async def test_gateway_that_comes_back_brings_both_versions(tmp_path: Path) -> None:
    """From what it remembers; the server has kept them, and they are loaded anew all the same."""
    fake = VllmServer()
    async with fake.open():
        async with fronting(fake, tmp_path, strategy="hold") as front:
            await front.serves()
            first, second = front.published(1), front.published(2)
            await front.apply(first)
            await front.gateway.canary(SCENARIO, _canary(second))
        async with fronting(fake, tmp_path, strategy="hold") as front:

            async def both() -> bool:
                trial = front.lane.arms.candidate
                return (
                    front.lane.backend is not None and trial is not None and trial.state == "active"
                )

            await until(both)
            assert await front.said(model=first.id) == (first.id, weights(1))
            assert await front.said(model=second.id) == (second.id, weights(2))
            assert front.loaded == {first.id, second.id}


async def test_calls_are_captured_with_their_version(vllm: Front) -> None:
    """Streamed or not, as from llama-server."""
    async with open_feed(vllm.folder) as intake:
        feed = str(vllm.folder / "feed.sock")
        await vllm.gateway.register(SCENARIO, Registration(feed_socket=feed))
        await vllm.apply(vllm.published(1))
        for is_stream in (False, True):
            await vllm.said(stream=is_stream, headers={"x-honed-task": "t-1"})
        with anyio.fail_after(30):
            await vllm.lane.captured.wait_empty()
        far = 1 << 50
        [group] = await intake.store.open_groups(
            settled_before_ms=far, idle_before_ms=far, now_ms=far
        )
        records = (await intake.store.group_records([group.id]))[group.id]
    calls = [each for each in records if isinstance(each, LlmCallRecord)]
    assert [call.adapter_id for call in calls] == [f"{SCENARIO}@1"] * 2
    assert [call.response_message and call.response_message.content for call in calls] == [
        weights(1)
    ] * 2


async def test_serve_and_its_applier_work_as_ever(tmp_path: Path) -> None:
    """A base model that is named is not converted for such a server; the daemon's orders are the same."""
    fake = VllmServer()
    async with fake.open(), anyio.create_task_group() as tasks:
        config = Config(
            scenario=SCENARIO,
            data_dir=tmp_path,
            base_model="/nowhere/at/all",
            apply={"kind": "gateway"},
            serve={
                "port": 0,
                "socket": tmp_path / "serve.sock",
                "external_url": fake.url,
                "external_kind": "vllm",
                "base_model_path": tmp_path / "nothing.gguf",
            },
        )
        ready, stop = anyio.Event(), anyio.Event()

        async def run() -> None:
            await serve(config, ready=ready.set, stop=stop)

        tasks.start_soon(run)
        await ready.wait()
        applier = LlamaServerApplier(
            config.serve_socket, scenario=SCENARIO, feed_socket=tmp_path / "feed.sock"
        )

        async def is_serving() -> bool:
            try:
                return await applier.current() is None
            except ApplyError:
                return False

        await until(is_serving)
        await applier.apply(published(tmp_path / "adapters", 1), previous=None)
        assert await applier.current() == f"{SCENARIO}@1"
        assert set(fake.adapters) == {f"{SCENARIO}@1"}
        stop.set()


def _canary(model: TrainedModel) -> CanaryOrder:
    return CanaryOrder(
        model_id=model.id, adapter_path=model.adapter_path, digest=model.digest, share=0.5
    )


def _rewritten(model: TrainedModel, text: str) -> TrainedModel:
    """The same number and folder with other weights."""
    folder = Path(model.adapter_path)
    (folder / ADAPTER_WEIGHTS).write_text(text)
    return msgspec.structs.replace(model, digest=adapter_digest(folder))
