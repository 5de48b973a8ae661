"""llama-server's router behind the gateway: each version a model of its presets file, switched unnoticed.

The router answers as its documentation says (`tests/own_router.py`).
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
from pydantic import ValidationError

from honed.config import ServeSection
from honed.domain.base_facts import (
    BaseDigests,
    BaseFacts,
    FileFacts,
    RenderedConversation,
    TokenizedText,
)
from honed.domain.serving import CanaryOrder, CandidateOrder, Registration
from honed.errors import (
    ApplyError,
    BaseMismatchError,
    HealthTimeoutError,
    ProbeFailedError,
    ServerStartError,
)
from honed.gateway import presets
from honed.gateway.candidate import place
from honed.gateway.gateway import Gateway
from tests.own_router import TEXT, RouterServer
from tests.own_servers import SCENARIO
from tests.served import Load, until
from tests.unit.gateway import stub
from tests.unit.gateway.own_front import OwnFront

pytestmark = pytest.mark.anyio

THEIRS = """version = 1

; what all have
[*]
c = 8192

[theirs]  ; of somebody else
model = /srv/theirs.gguf
jinja = true
"""


def weights(number: int) -> str:
    """What an answer of this version says."""
    return f"adapter.gguf of {SCENARIO}@{number}"


@dataclass
class Front(OwnFront):
    """A gateway in front of a router."""

    fake: RouterServer

    @property
    def file(self) -> str:
        return self.fake.presets.read_text()


@asynccontextmanager
async def fronting(fake: RouterServer, folder: Path, **settings: Any) -> AsyncIterator[Front]:
    """A gateway over a router that listens; its lane may still come up."""
    section = ServeSection(
        external_url=fake.url,
        external_kind="llama_router",
        external_presets=fake.presets,
        **settings,
    )
    base = folder / "base.gguf"
    base.touch()
    gateway = Gateway(section, folder / "llama")
    async with gateway.open():
        await gateway.register(SCENARIO, Registration(base_gguf=str(base)))
        async with stub.fronted(gateway.lanes) as address:
            yield Front(gateway, str(address), folder, fake)


def router(folder: Path, **settings: Any) -> RouterServer:
    file = folder / "presets.ini"
    file.write_text(THEIRS)
    return RouterServer(file, **settings)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """One that serves the base model."""
    fake = router(tmp_path)
    async with fake.open(), fronting(fake, tmp_path) as opened:
        await opened.serves()
        yield opened


@pytest.mark.feature("SE-121")
async def test_alias_moves_at_the_gateway(front: Front) -> None:
    """Agents name the scenario; each version is a model of the router, and goes when the next one serves."""
    assert await front.said() == ("base", "base")
    assert front.fake.loaded == {f"{SCENARIO}@base"}
    for number in (1, 2):
        await front.apply(front.published(number))
        assert await front.said() == (f"{SCENARIO}@{number}", weights(number))
        assert await front.said(stream=True) == (f"{SCENARIO}@{number}", weights(number))
        assert front.fake.loaded == {f"{SCENARIO}@{number}"}
        assert presets.names_in(front.fake.presets) == ["*", "theirs", f"{SCENARIO}@{number}"]
    await front.apply(None)
    assert await front.said() == ("base", "base")


async def test_a_version_is_started_as_a_server_of_ours(front: Front) -> None:
    """Base, adapter, context of all slots together; what else stands in the file stays byte for byte."""
    model = front.published(1)
    await front.apply(model)
    assert front.fake.models[model.id] == {
        "model": str(front.folder / "base.gguf"),
        "lora": f"{model.adapter_path}/adapter.gguf",
        "ctx-size": "16384",
        "parallel": "4",
        "n-gpu-layers": "99",
        "threads-http": "64",
        "metrics": "true",
    }
    assert front.file.startswith(THEIRS)
    assert front.file.count("[") == THEIRS.count("[") + 1


async def test_switches_under_load_are_noticed_by_nobody(front: Front) -> None:
    """Every answer is whole, and of the version that its header names; no model ends while it answers."""
    load = Load(front)
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(load.client, number % 2 == 0)
        for number in (1, 2, 3):
            await front.apply(front.published(number))
            await load.more(20)
        tasks.cancel_scope.cancel()
    assert load.failures == []
    assert {said for version, said in load.answers if version == f"{SCENARIO}@2"} == {weights(2)}
    assert front.fake.dropped_in_use == []
    assert front.fake.loaded == {f"{SCENARIO}@3"}


async def test_answer_that_runs_ends_as_it_began(front: Front) -> None:
    """Its process is ended after its last words, however long that takes."""
    first, second = front.published(1), front.published(2)
    await front.apply(first)
    front.lane.section = front.lane.section.model_copy(update={"drain_timeout": timedelta(0)})
    front.fake.gate = anyio.Event()
    said: list[tuple[str, str]] = []

    async def ask() -> None:
        said.append(await front.said(stream=True))

    async def answers() -> bool:
        return front.fake.in_use[first.id] == 1

    async def is_alone() -> bool:
        return front.fake.loaded == {second.id}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(answers)
        await front.apply(second)
        assert front.fake.loaded == {first.id, second.id}
        front.fake.gate.set()
    assert said == [(first.id, weights(1))]
    await until(is_alone)
    assert front.fake.dropped_in_use == []


async def test_what_a_killed_gateway_has_left_is_cleared(tmp_path: Path) -> None:
    """Sections of this scenario alone, and their processes; a name that only begins alike is another scenario's."""
    fake = router(tmp_path)
    left = (
        "[airline@8]\nmodel = /a.gguf\nlora = /b.gguf\n; a remark\n[airline2@8]\nmodel = /c.gguf\n"
    )
    fake.presets.write_text(THEIRS + left)
    fake.read()
    fake.status["airline@8"] = {"value": "loaded"}
    async with fake.open(), fronting(fake, tmp_path) as front:
        await front.serves()
        assert front.file.startswith(THEIRS + "; a remark\n[airline2@8]\nmodel = /c.gguf\n")
        assert set(fake.models) == {"theirs", "airline2@8", f"{SCENARIO}@base"}


async def test_version_that_cannot_be_loaded_leaves_the_former_in_service(front: Front) -> None:
    """The error says how it ended; no section of it is left."""
    first, second = front.published(1), front.published(2)
    await front.apply(first)
    front.fake.cannot_load.add(second.id)
    with pytest.raises(ServerStartError, match=f"{second.id}: it is unloaded with status 1"):
        await front.apply(second)
    assert await front.said() == (first.id, weights(1))
    assert second.id not in front.file
    assert front.fake.loaded == {first.id}


async def test_version_that_does_not_come_up_in_time_is_ended(front: Front) -> None:
    """Bounded by startup_timeout."""
    own = front.lane.servers._own
    assert own is not None
    own._section = own._section.model_copy(update={"startup_timeout": timedelta(seconds=0.2)})
    front.fake.loading = anyio.Event()
    with pytest.raises(HealthTimeoutError, match=r"within 0 s"):
        await front.apply(front.published(1))
    assert f"{SCENARIO}@1" not in front.file
    assert await front.said() == ("base", "base")


async def test_version_that_does_not_answer_as_it_should_gets_no_request(front: Front) -> None:
    """It is probed by its fingerprint, as a server of ours is."""
    first, second = front.published(1), front.published(2)
    await front.apply(first)
    front.fake.answers_as[second.id] = Path(first.adapter_path)
    with pytest.raises(ProbeFailedError):
        await front.apply(second)
    assert await front.said() == (first.id, weights(1))
    assert front.fake.loaded == {first.id}


async def test_router_without_room_is_not_made_to_unload_what_others_use(tmp_path: Path) -> None:
    """One more than --models-max would end the model that was asked longest ago: the switch is refused before."""
    fake = router(tmp_path, max_models=2)
    fake.status["theirs"] = {"value": "loaded"}
    async with fake.open(), fronting(fake, tmp_path) as front:
        await front.serves()
        with pytest.raises(
            ApplyError, match="has 2 models loaded, airline@base, theirs"
        ) as refused:
            await front.apply(front.published(1))
        assert "--models-max" in (refused.value.advice or "")
        assert fake.loaded == {"theirs", f"{SCENARIO}@base"}


async def test_process_that_dies_is_replaced_and_proved_again(front: Front) -> None:
    """Within a second, without anybody asking for it."""
    model = front.published(1)
    await front.apply(model)
    front.fake.end(model.id, failed=True, exit_code=-9)

    async def is_back() -> bool:
        return front.fake.processes.count(model.id) == 2 and front.lane.backend is not None

    await until(is_back)
    assert await front.said() == (model.id, weights(1))


async def test_candidate_stands_beside_the_live_version(front: Front) -> None:
    """It is one more model: its tasks go to it, promoting it is a flip."""
    first, second = front.published(1), front.published(2)
    await front.apply(first)
    await front.gateway.canary(
        SCENARIO,
        CanaryOrder(
            model_id=second.id, adapter_path=second.adapter_path, digest=second.digest, share=0.5
        ),
    )
    for task in [f"task-{i}" for i in range(6)]:
        is_tried = place(SCENARIO, second.id, task) < 0.5
        said = await front.said(headers={"x-honed-task": task})
        assert said == ((second.id, weights(2)) if is_tried else (first.id, weights(1)))
    await front.gateway.promote(SCENARIO, CandidateOrder(model_id=second.id))
    assert await front.said() == (second.id, weights(2))
    assert front.fake.loaded == {second.id}
    assert front.fake.processes.count(second.id) == 1


async def test_client_reaches_the_version_in_service_alone(front: Front) -> None:
    """Neither another model of the router nor the routes that load, unload or tell of them."""
    model = front.published(1)
    await front.apply(model)
    assert (await front.said(lora=[{"id": 0, "scale": 0.0}]))[1] == weights(1)
    async with front.client() as client:
        for path in ("/models/load", "/models/unload", "/models", "/v1/stream"):
            answer = await client.post(path, json={"model": "theirs"})
            assert answer.status_code in (403, 404, 405, 501), path
        for path in ("/slots?model=theirs", "/models?reload=1", "/props?model=theirs"):
            answer = await client.get(path)
            assert b"theirs" not in answer.content
    assert front.fake.loaded == {model.id}
    assert "GET /slots" not in front.fake.asked


async def test_vitals_are_those_of_the_version(front: Front) -> None:
    """A router is asked for those of one model."""
    told = await front.gateway.vitals(SCENARIO)
    assert (told.is_healthy, told.generated_tokens) == (True, 750)


@pytest.mark.parametrize("text", [TEXT, "another one"], ids=["same", "other"])
async def test_version_is_compared_with_the_base_model(front: Front, text: str) -> None:
    """It must tokenise and render as training does; the router is asked for this model's."""
    facts = BaseFacts(
        base_model="base",
        gguf=FileFacts("base.gguf", 0, 0),
        quantisation="F16",
        architecture="qwen3",
        vocab_size=8,
        bos_token_id=None,
        bos_token=None,
        eos_token_id=0,
        is_tied=False,
        digests=BaseDigests(base_model="", tokenizer="", chat_template=""),
        files=(),
        strings=(TokenizedText(text="x", token_ids=(7,)),),
        conversations=(
            RenderedConversation(
                name="plain",
                messages=[],
                tools=None,
                add_generation_prompt=True,
                text=text,
                token_ids=(7,),
            ),
        ),
    )
    base = front.folder / "base.gguf"
    of_base = msgspec.structs.replace(facts, gguf=FileFacts(str(base), 0, base.stat().st_mtime_ns))
    path = front.folder / "facts.json"
    path.write_bytes(msgspec.json.encode(of_base))
    front.lane.base_facts = path
    if text != TEXT:
        with pytest.raises(BaseMismatchError, match="renders the conversation 'plain' otherwise"):
            await front.lane.start(None)
        return
    backend = await front.lane.start(None)
    assert backend.facts == of_base


async def test_file_that_the_router_does_not_read_is_told(tmp_path: Path) -> None:
    """The section is taken out again."""
    fake, other = router(tmp_path), tmp_path / "other.ini"
    other.write_text(THEIRS)
    async with fake.open():
        section = ServeSection(
            external_url=fake.url, external_kind="llama_router", external_presets=other
        )
        gateway = Gateway(section, tmp_path / "llama")
        (tmp_path / "base.gguf").touch()
        async with gateway.open():
            registration = Registration(base_gguf=str(tmp_path / "base.gguf"))
            await gateway.register(SCENARIO, registration)

            async def is_told() -> bool:
                return "does not list airline@base" in (gateway.lanes[SCENARIO].error or "")

            await until(is_told)
            assert other.read_text() == THEIRS


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n; the end"])
def test_sections_of_others_stay_byte_for_byte(tmp_path: Path, end: str) -> None:
    """Whatever ends their lines, before ours, behind it, and when it has gone."""
    file = tmp_path / "presets.ini"
    file.write_bytes(f"[a]\r\nmodel = x ; y{end}".encode())
    file.chmod(0o640)
    link = tmp_path / "link.ini"
    link.symlink_to(file)
    presets.put(link, "s@1", presets.section("s@1", {"model": "m", "lora": "l"}))
    behind = b"; mine\n[b]\nmodel = z\n"
    file.write_bytes(file.read_bytes() + behind)
    presets.put(link, "s@1", presets.section("s@1", {"model": "n"}))
    assert presets.names_in(link) == ["a", "b", "s@1"]
    presets.remove(link, {"s@1"})
    before = f"[a]\r\nmodel = x ; y{end}".encode()
    assert file.read_bytes() == before + (b"" if end.endswith("\n") else b"\n") + behind
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.glob(".*")] == []


def test_value_that_the_format_cannot_say_is_refused() -> None:
    """A path with ; or # would be cut there."""
    for value in ("/a;b", "/a#b", "/a ", "/a\nb"):
        with pytest.raises(ApplyError, match="cannot stand in a presets file"):
            presets.section("s@1", {"model": value})


def test_router_without_its_file_is_refused() -> None:
    """The config says what is missing."""
    with pytest.raises(ValidationError, match="expected external_presets"):
        ServeSection(external_url="http://127.0.0.1:1", external_kind="llama_router")
