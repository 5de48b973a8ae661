"""Several scenarios in one llama-server: each is answered by its own adapter, whatever happens to the others."""

import json
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from honed import log
from honed.config import ServeSection
from honed.errors import ApplyError, HonedError
from honed.gateway.dressing import for_shared
from honed.gateway.probe import LoraScale
from honed.gateway.refusal import Refused
from tests.neighbours import Crowd, Neighbours, letter_of, neighbours
from tests.planted import Planted
from tests.served import CHAT, model, servers_of, text_of

pytestmark = pytest.mark.anyio
EIGHT = [f"s{number}" for number in range(8)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """As `honed serve` runs."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Adapters whose tokens can be told from each other, whatever is asked."""
    return Planted(tmp_path_factory.mktemp("planted"))


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is so."""
    with anyio.fail_after(30):
        while not await found():
            await anyio.sleep(0.02)


async def ask(home: Neighbours, scenario: str, *, task: str = "") -> tuple[str, str]:
    """Version and text of one answer."""
    headers = {"x-honed-task": task} if task else {}
    body = {
        "model": scenario,
        "messages": [{"role": "user", "content": "what is wrong?"}],
        "max_tokens": 4,
        "ignore_eos": True,
    }
    async with home.served.client() as client:
        response = await client.post(CHAT, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.headers["x-honed-model"], response.json()["choices"][0]["message"]["content"]


@pytest.mark.feature("SE-121")
async def test_eight_scenarios_under_load_are_each_answered_by_their_own_adapter(
    tmp_path: Path, planted: Planted
) -> None:
    """One process, eight adapters, all asked at once: no answer has a token of another's."""
    async with neighbours(tmp_path, planted) as home:
        for number, scenario in enumerate(EIGHT):
            await home.apply(scenario, number)
        crowd = Crowd(home.served, EIGHT)
        async with crowd.asking(16):
            await crowd.more(400)
        assert crowd.wrong == []
        assert set(crowd.answers) == {f"s{number}@{number}" for number in range(8)}
        assert len(await home.servers()) == 1
        lanes = await home.lanes()
        assert {len(lane.at_hand) for lane in lanes.values()} == {8}


@pytest.mark.parametrize("strategy", ["blue_green", "hold"])
async def test_a_switch_of_one_scenario_moves_all_and_is_noticed_by_nobody(
    tmp_path: Path, planted: Planted, strategy: str
) -> None:
    """A new server comes up with all adapters; no request of any scenario fails, is cut, or mixed."""
    three = EIGHT[:3]
    async with neighbours(tmp_path, planted, strategy=strategy) as home:
        for number, scenario in enumerate(three):
            await home.apply(scenario, number)
        before = await home.servers()
        crowd = Crowd(home.served, three)
        async with crowd.asking(8):
            await crowd.more(50)
            await home.apply("s1", 5)
            await crowd.more(50)
            await home.apply("s2", 6)
            await crowd.more(50)
        assert crowd.wrong == []
        assert {"s0@0", "s1@1", "s1@5", "s2@2", "s2@6"} <= set(crowd.answers)
        after = await home.servers()
        assert len(after) == 1
        assert after != before
        lanes = await home.lanes()
        assert {lane.failed for lane in lanes.values()} == {0}


async def test_a_version_that_served_before_is_at_hand(tmp_path: Path, planted: Planted) -> None:
    """Going back takes no new server where there is room for what served before."""
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        await home.apply("s0", 2)
        before = await home.servers()
        await home.apply("s0", 0)
        assert await ask(home, "s0") == ("s0@0", "aaaa")
        assert await home.servers() == before


async def test_more_scenarios_than_places_take_turns(tmp_path: Path, planted: Planted) -> None:
    """The one that was asked longest ago is parked, and comes back with its next request."""
    async with neighbours(tmp_path, planted, max_adapters=2) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        await ask(home, "s0")
        await home.apply("s2", 2)
        lanes = await home.lanes()
        assert {name for name, lane in lanes.items() if lane.is_parked} == {"s1"}
        parked = lanes["s1"]
        assert (parked.is_serving, parked.model_id, parked.error) == (True, "s1@1", None)
        assert await home.appliers["s1"].current() == "s1@1"
        assert (await home.lanes())["s1"].is_parked, "looking does not bring it back"
        await ask(home, "s2")
        assert await ask(home, "s1") == ("s1@1", "bbbb")
        assert {name for name, lane in (await home.lanes()).items() if lane.is_parked} == {"s0"}
        assert await ask(home, "s0") == ("s0@0", "aaaa")


async def test_scenarios_that_are_too_many_all_get_on(tmp_path: Path, planted: Planted) -> None:
    """Five are asked at once where two have a place: each is answered, and no server follows another at once."""
    five = EIGHT[:5]
    # what is slow here is the machine
    async with neighbours(tmp_path, planted, max_adapters=2, hold_timeout="5m") as home:
        for number, scenario in enumerate(five):
            await home.apply(scenario, number)
        crowd = Crowd(home.served, five)
        with capture_logs() as logged:
            began = anyio.current_time()
            async with crowd.asking(10), anyio.create_task_group() as tasks:
                for scenario in five:
                    tasks.start_soon(crowd.has_asked, scenario, 3)
            took = anyio.current_time() - began
        assert crowd.wrong == []
        starts = [entry for entry in logged if entry["event"] == log.SERVER_STARTED]
        assert 2 <= len(starts) <= took + 2, "a second at least from one to the next"


async def test_a_parked_lane_waits_until_the_server_has_ended_where_two_do_not_fit(
    tmp_path: Path, planted: Planted
) -> None:
    """By its next request as by an order; the one that was asked longest ago gives way there too."""
    async with neighbours(tmp_path, planted, max_adapters=2, strategy="hold") as home:
        for number, scenario in enumerate(EIGHT[:3]):
            await home.apply(scenario, number)
        [parked] = [name for name, lane in (await home.lanes()).items() if lane.is_parked]
        with capture_logs() as logged:
            await ask(home, parked)
            [other] = [name for name, lane in (await home.lanes()).items() if lane.is_parked]
            await home.apply(other, 5)
            assert await ask(home, other) == (f"{other}@5", "ffff")
        moves = (log.SERVER_STARTED, log.SERVER_STOPPED)
        shown = [entry["event"] for entry in logged if entry["event"] in moves]
        assert shown == [log.SERVER_STOPPED, log.SERVER_STARTED] * 2


async def test_an_adapter_that_no_server_takes_keeps_nobody_from_switching(
    tmp_path: Path, planted: Planted
) -> None:
    """A scenario begins with a file that llama-server cannot read: the others get their next versions."""
    broken = tmp_path / "broken"
    shutil.copytree(planted.adapters(2)[1], broken)
    (broken / "adapter.gguf").write_bytes(b"GGUF" + bytes(64))
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        begins = {"model_id": "s1@1", "path": str(broken)}
        order = {"base_gguf": str(planted.gguf), "adapter": begins}
        async with home.served.control() as control:
            await control.put("/v1/scenarios/s1", json=order)

            async def is_told() -> bool:
                lanes = (await home.served.applier.serving()).scenarios
                return lanes["s1"].error is not None

            await until(is_told)
        await home.apply("s0", 2)
        assert await ask(home, "s0") == ("s0@2", "cccc")


async def test_servers_whose_last_answers_are_long_do_not_pile_up(
    tmp_path: Path, planted: Planted
) -> None:
    """One order after the other, while each server still has a long answer to give: four processes at most."""
    body = {
        "model": "s1",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 6000,
        "ignore_eos": True,
        "stream": True,
    }
    settings = {"ctx_size": 8192, "strategy": "blue_green", "drain_timeout": "3s"}
    async with neighbours(tmp_path, planted, **settings) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        async with home.served.client() as client, AsyncExitStack() as answers:
            counts = []
            for number in range(2, 8):
                asked = client.stream("POST", CHAT, json=body)
                await answers.enter_async_context(asked)
                await home.apply("s0", number)
                counts.append(len(list((tmp_path / "llama").glob("shared-*.pid"))))
        assert max(counts) <= 4
        assert await ask(home, "s0") == ("s0@7", "hhhh")


async def test_a_parked_lane_is_told_of_and_gets_its_candidate(
    tmp_path: Path, planted: Planted
) -> None:
    """It is not down: an order to try a version brings it back, and the version stands beside it."""
    async with neighbours(tmp_path, planted, max_adapters=2) as home:
        for number, scenario in enumerate(EIGHT[:3]):
            await home.apply(scenario, number)
        [parked] = [name for name, lane in (await home.lanes()).items() if lane.is_parked]
        async with home.served.client() as client, home.served.control() as control:
            health = (await client.get("/health")).json()
            vitals = await control.get(f"/v1/scenarios/{parked}/server")
        assert health["scenarios"][parked] == "parked"
        assert "the next request brings it back" in vitals.json()["message"]
        candidate = model(planted.adapters(6)[5], id=f"{parked}@5")
        await home.appliers[parked].canary(candidate, share=1.0, is_shadow=False)
        assert await ask(home, parked, task="t1") == (f"{parked}@5", "ffff")
        assert (await ask(home, parked))[0] != f"{parked}@5"


async def test_room_for_a_run_of_a_parked_scenario_is_made_by_those_that_serve(
    tmp_path: Path, planted: Planted
) -> None:
    """The order is answered when the larger server has ended for all, whoever was in flight there."""
    settings = {"while_training": "one_slot", "parallel": 2, "max_adapters": 2}
    async with neighbours(tmp_path, planted, **settings) as home:
        for number, scenario in enumerate(EIGHT[:3]):
            await home.apply(scenario, number)
        lanes = await home.lanes()
        [parked] = [name for name, lane in lanes.items() if lane.is_parked]
        *_, other = [name for name in lanes if name != parked]
        [before] = await home.servers()
        async with home.served.client() as client, home.served.control() as control:
            body = {
                "model": other,
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 100,
                "ignore_eos": True,
                "stream": True,
            }
            async with client.stream("POST", CHAT, json=body) as answer:
                path = f"/v1/scenarios/{parked}/training"
                noted = await control.post(path, json={"lasts_s": 300})
                assert noted.status_code == 200, noted.text
                assert before not in servers_of(tmp_path)
                await answer.aread()
            slots = (await control.get(f"/v1/scenarios/{other}/server")).json()["slots"]
        assert slots == 1
        assert text_of(answer) == letter_of(lanes[other].model_id or "") * 100


async def test_when_the_process_dies_all_of_them_come_back(
    tmp_path: Path, planted: Planted
) -> None:
    """kill -9: one new process answers for all again."""
    three = EIGHT[:3]
    async with neighbours(tmp_path, planted) as home:
        for number, scenario in enumerate(three):
            await home.apply(scenario, number)
        [pid] = await home.servers()
        os.kill(pid, signal.SIGKILL)

        async def are_back() -> bool:
            lanes = (await home.lanes()).values()
            return all(lane.is_serving for lane in lanes) and pid not in await home.servers()

        await until(lambda: quietly(are_back))
        assert [await ask(home, scenario) for scenario in three] == [
            ("s0@0", "aaaa"),
            ("s1@1", "bbbb"),
            ("s2@2", "cccc"),
        ]
        assert len(await home.servers()) == 1


async def quietly(found: Callable[[], Awaitable[bool]]) -> bool:
    """As `found`; while servers come up some questions have no answer."""
    try:
        return await found()
    except HonedError:
        return False


async def test_a_gateway_that_starts_again_brings_all_back_in_one_server(
    tmp_path: Path, planted: Planted
) -> None:
    """What was served is remembered for each scenario."""
    three = EIGHT[:3]
    async with neighbours(tmp_path, planted) as home:
        for number, scenario in enumerate(three):
            await home.apply(scenario, number)
    async with neighbours(tmp_path, planted) as home:
        for scenario in three:
            await home.move_in(scenario)
        answers = [await ask(home, scenario) for scenario in three]
        assert answers == [("s0@0", "aaaa"), ("s1@1", "bbbb"), ("s2@2", "cccc")]
        assert len(await home.servers()) == 1


async def test_a_neighbour_whose_files_are_gone_keeps_nobody_from_coming_up(
    tmp_path: Path, planted: Planted
) -> None:
    """Its own lane says so; the others are answered."""
    copied = tmp_path / "copied"
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        applier = await home.move_in("s1")
        shutil.copytree(planted.adapters(2)[1], copied)
        await applier.apply(model(copied, id="s1@1"), previous=None)
        (copied / "adapter.gguf").unlink()
        [pid] = await home.servers()
        os.kill(pid, signal.SIGKILL)

        async def is_told() -> bool:
            lanes = await home.lanes()
            return lanes["s0"].is_serving and lanes["s1"].error is not None

        async def is_other() -> bool:
            return await is_told() and "adapter.gguf" in str((await home.lanes())["s1"].error)

        await until(is_other)
        assert await ask(home, "s0") == ("s0@0", "aaaa")


async def test_a_switch_that_fails_changes_nothing_for_anybody(
    tmp_path: Path, planted: Planted
) -> None:
    """An adapter that does not answer as it should is refused, and its server ends."""
    liar = tmp_path / "liar"
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        before = await home.servers()
        a, b = planted.adapters(4)[2:4]
        shutil.copytree(a, liar)
        (liar / "fingerprint.json").write_bytes((b / "fingerprint.json").read_bytes())
        with pytest.raises(ApplyError, match="does not answer as"):
            await home.appliers["s0"].apply(model(liar, id="s0@3"), previous=None)
        assert await home.servers() == before
        assert [await ask(home, "s0"), await ask(home, "s1")] == [
            ("s0@0", "aaaa"),
            ("s1@1", "bbbb"),
        ]
        pids = list((tmp_path / "llama").glob("shared-*.pid"))
        assert [int(path.read_text()) for path in pids] == list(before)


async def test_what_a_client_says_of_adapters_is_not_heard(
    tmp_path: Path, planted: Planted
) -> None:
    """However often and however spelled, a `lora` of its own does not reach the server."""
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        body = (
            b'{"model":"s0","max_tokens":4,"ignore_eos":true,"lora":[{"id":1,"scale":1}],'
            b'"messages":[{"role":"user","content":"}"}],"\\u006cora":[{"id":1,"scale":1}]} '
        )
        async with home.served.client() as client:
            response = await client.post(CHAT, content=body)
        assert response.json()["choices"][0]["message"]["content"] == "aaaa"


async def test_anthropics_protocol_is_refused_with_what_to_do(
    tmp_path: Path, planted: Planted
) -> None:
    """llama-server takes no adapter for it, and the base would answer in the scenario's name."""
    body = {"model": "s0", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    async with neighbours(tmp_path, planted, alone=["tiny", "s1"]) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        async with home.served.client() as client:
            refused = await client.post("/v1/messages", json=body)
            counted = await client.post("/v1/messages/count_tokens", json=body)
            answered = await client.post("/v1/messages", json=body | {"model": "s1"})
    assert refused.status_code == 501
    assert refused.json()["type"] == "error", "in its caller's dialect"
    assert "serve.alone" in refused.json()["error"]["message"]
    assert counted.status_code == 200
    assert answered.json()["content"][0]["text"] == "bbbb"


async def test_a_conversation_is_known_to_nobody_but_its_client(
    tmp_path: Path, planted: Planted
) -> None:
    """Two scenarios that call theirs by one name neither cut nor read each other's answers."""
    streamed = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }
    named = {"x-conversation-id": "c1"}
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        async with home.served.client() as client:
            asked = client.stream("POST", CHAT, json=streamed | {"model": "s0"}, headers=named)
            async with asked as answer:
                await client.post(
                    CHAT, json=streamed | {"model": "s1", "max_tokens": 4}, headers=named
                )
                await answer.aread()
            read = await client.get(
                "/v1/stream", params={"conv_id": "c1"}, headers={"x-honed-scenario": "s1"}
            )
    assert text_of(answer) == "a" * 400
    assert (read.status_code, "chat.completion" in read.text) == (501, False)


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/systemone", "/v1/streams/lookup", "/v1/what-comes-next"]
)
def test_a_route_that_may_not_heed_the_adapter_is_refused(path: str) -> None:
    """What is not known to be answered by the adapter that is named might be answered by the bare base."""
    with pytest.raises(Refused, match=r"serve\.alone"):
        for_shared(())(path, b"{}")


@pytest.mark.parametrize(
    "body", [b"{}", b" { } ", b'{"n":1}', b'{"n":"{"}\r\n\t ', b'{"lora":[],"n":[{"lora":1}]}']
)
def test_the_list_of_adapters_is_the_last_word_of_a_body(body: bytes) -> None:
    """However the client writes it; nothing else changes."""
    dressed = json.loads(for_shared((LoraScale(0, 1.0),))("/completion", body))
    assert dressed == json.loads(body) | {"lora": [{"id": 0, "scale": 1.0}]}


async def ask_in_turns(home: Neighbours, scenarios: list[str], *, probes: int) -> None:
    """Ask all of them the same two prompts in all orders; each answer must be the one without any cache."""
    # as different as can be: what a slot forgets for the other one, the host's cache would keep
    prompts = ["you operate services. " * 8, "what is wrong with the disk? " * 8]
    async with home.served.client() as client:

        async def answer(scenario: str, prompt: str, *, cache: bool) -> str:
            asked = {
                "model": scenario,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 8,
                "ignore_eos": True,
                "temperature": 0,
                "cache_prompt": cache,
            }
            return text_of(await client.post(CHAT, json=asked))

        asked = [(scenario, prompt) for scenario in scenarios for prompt in prompts]
        fresh = {each: await answer(*each, cache=False) for each in asked}
        for prompt in prompts:
            assert len({fresh[each, prompt] for each in scenarios}) == len(scenarios)
        chance = random.Random(1)
        for _ in range(probes):
            each = chance.choice(asked)
            assert await answer(*each, cache=True) == fresh[each]


class Tiny(Planted):
    """Adapters that change what every layer computes, and so what a prompt cache holds."""

    def __init__(self, gguf: Path, made: tuple[Path, ...]) -> None:
        self.gguf, self._made = gguf, made

    def adapters(self, count: int) -> list[Path]:
        """The first so many."""
        return list(self._made[:count])


@pytest.mark.parametrize(
    "probes", [pytest.param(30, id="short"), pytest.param(1000, id="long", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("parallel", [1, 4])
async def test_no_cache_of_a_neighbour_answers(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path], parallel: int, probes: int
) -> None:
    """The same prompt for one scenario after the other, in one slot and in several, prompt caching on."""
    async with neighbours(tmp_path, Tiny(tiny_gguf, tiny_adapters), parallel=parallel) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        await home.move_in("s2")
        await ask_in_turns(home, ["s0", "s1", "s2"], probes=probes)


async def test_a_candidate_stands_beside_the_live_version_in_one_server(
    tmp_path: Path, planted: Planted
) -> None:
    """It gets its share, is promoted without a start, and its neighbours are where they were."""
    async with neighbours(tmp_path, planted) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        candidate = model(planted.adapters(6)[5], id="s0@5")
        await home.appliers["s0"].canary(candidate, share=1.0, is_shadow=False)
        assert len(await home.servers()) == 1
        assert await ask(home, "s0", task="t1") == ("s0@5", "ffff")
        assert await ask(home, "s0") == ("s0@0", "aaaa")
        assert await ask(home, "s0@5") == ("s0@5", "ffff")
        before = await home.servers()
        await home.apply("s0", 5)
        assert await home.servers() == before
        assert [await ask(home, "s0"), await ask(home, "s1")] == [
            ("s0@5", "ffff"),
            ("s1@1", "bbbb"),
        ]


async def test_a_server_grows_again_when_the_last_of_its_scenarios_has_trained(
    tmp_path: Path, planted: Planted
) -> None:
    """While one of them trains it stays small for all, whoever else has ended."""
    settings = {"while_training": "one_slot", "parallel": 2}

    async def note(home: Neighbours, scenario: str, lasts_s: float) -> int:
        async with home.served.control() as control:
            path = f"/v1/scenarios/{scenario}"
            answer = await control.post(f"{path}/training", json={"lasts_s": lasts_s})
            assert answer.status_code == 200, answer.text
            return int((await control.get(f"{path}/server")).json()["slots"])

    async with neighbours(tmp_path, planted, **settings) as home:
        await home.apply("s0", 0)
        await home.apply("s1", 1)
        slots = [
            await note(home, *each) for each in (("s0", 300), ("s1", 300), ("s0", 0), ("s1", 0))
        ]
        assert slots == [1, 1, 1, 2]
        assert [await ask(home, "s0"), await ask(home, "s1")] == [
            ("s0@0", "aaaa"),
            ("s1@1", "bbbb"),
        ]
        assert len(await home.servers()) == 1


async def test_the_bare_base_has_neighbours_too(tmp_path: Path, planted: Planted) -> None:
    """A scenario that has learned nothing yet is answered by no adapter of another's."""
    async with neighbours(tmp_path, planted) as home:
        await home.move_in("s0")
        await home.apply("s1", 1)
        async with home.served.client() as client:
            body = {"model": "s0", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            answer = await client.post(CHAT, json=body)
        assert answer.headers["x-honed-model"] == "base"
        assert "b" not in answer.json()["choices"][0]["message"]["content"]
        assert await ask(home, "s1") == ("s1@1", "bbbb")


@pytest.mark.parametrize(
    "other", [{"external_url": "http://127.0.0.1:1"}, {"strategy": "in_place"}], ids=["url", "way"]
)
def test_servers_that_cannot_be_shared_are_told_at_the_start(other: dict[str, Any]) -> None:
    """What would contradict each other is refused with both names."""
    with pytest.raises(ValueError, match="max_adapters = 4"):
        ServeSection(max_adapters=4, **other)


def test_the_letters_are_those_of_the_versions() -> None:
    """What the tests above read answers by."""
    assert (letter_of("s1@1"), letter_of("s0@5")) == ("b", "f")
