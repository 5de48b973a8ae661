"""Canaries with the real daemon, gateway and llama-servers, decided by what clients report, and by hand.

The adapters say one word for ever (`tests.planted`), so whose answer it is can be read off it.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from msgspec.structs import replace

from honed.client import HonedClient
from honed.domain.times import now_ms
from honed.gateway.candidate import place
from honed.ports import EpisodeFilter
from honed.stores import open_store
from tests.feed_parts import action
from tests.flow import test_closed_loop as closed_loop
from tests.incidents import attempt
from tests.planted import make_planted_adapter, make_planted_base
from tests.processes import Honed, honed
from tests.served import CHAT, QUESTION, model, text_of
from tests.unit.loop.conftest import gate

SETTINGS = """\
scenario = "tiny"
[events]
settle = "0.2s"
[apply]
mode = "auto"
[apply.canary]
share = 0.5
interval = "0.2s"
max_tasks = 100
[serve]
port = 0
base_model_path = "{base}"
ctx_size = 256
threads = 1
"""
WORDS = {"tiny@1": "memory", "tiny@2": "system", "tiny@3": "network", "tiny@4": "A"}
"""What each version says; all take one token."""
TOKENS = 2
LIVE, FAILS, SUCCEEDS = "tiny@1", {"type": "failure", "reason": "no"}, {"type": "success"}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A base model as GGUF, and the adapters."""
    folder = tmp_path_factory.mktemp("planted")
    base, gguf = make_planted_base(folder)
    return gguf, {
        name: make_planted_adapter(base, folder / name, word) for name, word in WORDS.items()
    }


@pytest.fixture
def daemon(tmp_path: Path, planted: tuple[Path, dict[str, Path]]) -> Iterator[Honed]:
    """Daemon and gateway, which serve the first adapter."""
    gguf, folders = planted
    with honed(tmp_path, SETTINGS.format(base=gguf)) as found:
        found.data_dir.mkdir(parents=True)
        anyio.run(_first, found.data_dir / "honed.db", folders[LIVE])
        found.start("serve")
        found.start("run")
        found.until(lambda: _lane(found)["model_id"] == LIVE, "the first adapter serves")
        yield found


async def _first(path: Path, folder: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        await store.add_model(model(folder))
        assert await store.push_applied("tiny", LIVE, expected=None, max_history=5, now_ms=1)


async def _pass(path: Path, folder: Path, over: str) -> None:
    """The gate has passed an adapter that was trained just now."""
    async with open_store(f"sqlite:///{path}") as store:
        passed = replace(model(folder), gate=gate("pass", over), created_at_ms=now_ms())
        await store.add_model(passed)


def _typed(process: Honed, *arguments: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(process.config)],
        env=os.environ | {"HONED__SERVE__SOCKET": str(process.serve_socket), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _order(process: Honed, verb: str = "", *, said_by: str = "ann", **order: object) -> None:
    """What somebody asks of the daemon by hand."""
    path = f"/v1/canary/{verb}".removesuffix("/")
    process.ask("POST", path, {"said_by": said_by} | order)


def _tasks(tried: str, num: int, *, scenario: str = "tiny") -> list[str]:
    """Names of tasks of which every other one is in the candidate's half."""
    names = [f"{tried}-{number}" for number in range(8 * num)]
    its = iter([name for name in names if place(scenario, tried, name) < 0.5])
    others = iter([name for name in names if place(scenario, tried, name) >= 0.5])
    return [next(its if number % 2 else others) for number in range(2 * num)]


def _ask(client: httpx.Client, **headers: str) -> str:
    """The version that answers a call, which its words agree with."""
    named = {f"x-honed-{name}": value for name, value in headers.items()}
    answer = client.post(CHAT, json=QUESTION | {"max_tokens": TOKENS}, headers=named)
    assert answer.status_code == 200, answer.text
    version = answer.headers["x-honed-model"]
    assert text_of(answer).replace(" ", "") == WORDS[version] * TOKENS
    return version


def _answered(process: Honed, tasks: list[str]) -> dict[str, str]:
    """The version that answers each task; returns when the daemon has all calls."""
    before = process.status()["records"]
    with httpx.Client(base_url=process.serving()["address"], timeout=60) as client:
        found = {task: _ask(client, task=task) for task in tasks}
    process.until(lambda: process.status()["records"] >= before + len(tasks), "calls are captured")
    return found


def _say(process: Honed, answered: dict[str, str], outcome_of: Callable[[str], object]) -> None:
    """The client tells how each task has ended."""
    said = [{"task_id": task, "outcome": outcome_of(version)} for task, version in answered.items()]
    process.ask("POST", "/v1/feedback", {"outcomes": said})


def _canaries(process: Honed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = process.ask("GET", "/v1/canary")["canaries"]
    return found


def _state(process: Honed, model_id: str) -> str | None:
    """What has become of a canary."""
    return next(
        (each["state"] for each in _canaries(process) if each["model_id"] == model_id), None
    )


def _lane(process: Honed) -> dict[str, Any]:
    lane: dict[str, Any] = process.serving()["scenarios"]["tiny"]
    return lane


def _is_tried(process: Honed, model_id: str) -> bool:
    trial = _lane(process)["candidate"]
    return bool(trial) and (trial["model_id"], trial["state"]) == (model_id, "active")


def test_one_that_does_worse_is_rolled_back_by_itself(
    daemon: Honed, planted: tuple[Path, dict[str, Path]]
) -> None:
    """Through restarts of both processes, in which each task keeps its version; then all tasks go to what serves."""
    tried = "tiny@2"
    anyio.run(_pass, daemon.data_dir / "honed.db", planted[1][tried], LIVE)
    assert _typed(daemon, "canary", tried, "--by", "ann") == "tiny@2 gets 50% of the tasks\n"
    tasks = _tasks(tried, 20)
    answered = _answered(daemon, tasks)
    assert answered == {task: (tried, LIVE)[number % 2 == 0] for number, task in enumerate(tasks)}
    assert "canary      tiny@2 is tried: 50% of the tasks, beside tiny@1" in _typed(
        daemon, "status"
    )

    daemon.kill("run")
    assert daemon.stop("serve") == 0
    daemon.start("serve")
    daemon.start("run")
    daemon.until(lambda: _is_tried(daemon, tried), "both versions are back")
    again = _answered(daemon, tasks[:8])
    assert again.items() <= answered.items()
    assert _state(daemon, tried) == "watching"

    _say(daemon, answered, lambda version: FAILS if version == tried else SUCCEEDS)
    daemon.until(lambda: _state(daemon, tried) == "rolled_back", "it is rolled back")
    assert _canaries(daemon)[0]["reason"].startswith("fewer tasks done: 0.0% of ")
    assert _lane(daemon)["candidate"] is None
    assert set(_answered(daemon, tasks).values()) == {LIVE}

    _order(daemon, model_id=tried)
    assert set(_answered(daemon, tasks[:6]).values()) == {LIVE, tried}
    _order(daemon, "withdraw", said_by="bob")
    assert set(_answered(daemon, tasks[:6]).values()) == {LIVE}
    _order(daemon, model_id=tried)
    _order(daemon, "promote")
    assert set(_answered(daemon, tasks[:6]).values()) == {tried}
    told = _typed(daemon, "canary")
    assert "tiny@2 was promoted by ann: promoted by hand\n" in told
    assert "tiny@2 was withdrawn by bob: withdrawn by hand\n" in told
    assert daemon.ask("POST", "/v1/rollback", {})["model_id"] == LIVE
    assert _lane(daemon)["model_id"] == LIVE
    assert daemon.stop("run") == 0


def test_one_that_does_better_goes_live_by_itself_unless_its_work_has_changed(
    daemon: Honed, planted: tuple[Path, dict[str, Path]]
) -> None:
    """By the server that it has; the next one, which waited, does even better without the work and is held; of what is
    tried in the shadow nobody sees a word, and nothing is learned.
    """
    path, (_, folders) = daemon.data_dir / "honed.db", planted
    better, idle, shadow = "tiny@3", "tiny@4", "tiny@2"
    anyio.run(_pass, path, folders[better], LIVE)
    _order(daemon, model_id=better)
    anyio.run(_pass, path, folders[idle], better)
    both = set(daemon.children("serve"))
    _warm_up(daemon, better)
    answered = _answered(daemon, _tasks(better, 80))
    _say(daemon, answered, lambda version: SUCCEEDS if version == better else FAILS)
    daemon.until(lambda: _state(daemon, better) == "promoted", "it is promoted")
    assert _canaries(daemon)[-1]["reason"].startswith("more tasks done: 100.0% of ")
    assert daemon.status()["current_model"] == better

    daemon.until(lambda: _is_tried(daemon, idle), "the next one has its share")
    assert len(both & set(daemon.children("serve"))) == 1, "the server of what was promoted"
    _warm_up(daemon, idle)
    answered = _answered(daemon, _tasks(idle, 80))
    with HonedClient(daemon.data_dir / "feed.sock") as client:
        for task in (task for task, version in answered.items() if version == better):
            client.send(action(task_id=task), action(task_id=task))
    _say(daemon, answered, lambda version: SUCCEEDS if version == idle else FAILS)
    daemon.until(lambda: _state(daemon, idle) == "held", "it is held")
    [held, *_] = _canaries(daemon)
    assert held["reason"].startswith("more tasks done: 100.0% of ")
    assert "; but shorter answers: 2 characters against 14" in held["reason"]
    assert "; but fewer tool calls: 0 for a task against 2" in held["reason"]
    assert "waits for you: `honed promote tiny@4` or `honed withdraw tiny@4`" in _typed(
        daemon, "status"
    )
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        _order(daemon, "promote", model_id=better)  # which is not what is tried now
    _order(daemon, "withdraw", model_id=idle)

    anyio.run(
        _pass, path, folders[shadow], idle
    )  # which does not serve, so it is not tried by itself
    _order(daemon, model_id=shadow, shadow=True, share=1.0, force=True)
    seen: dict[str, str] = {}
    names = (f"shadow-{number}" for number in count())
    while not _looked_at(daemon, "work"):
        seen |= _answered(daemon, list(islice(names, 40)))
        assert len(seen) <= 2_000, daemon.log_tail()
    assert set(seen.values()) == {better}
    _say(daemon, seen, lambda _: SUCCEEDS)
    told = 320 + len(seen)
    daemon.until(lambda: daemon.status()["episodes"] == told, "all tasks have ended")
    assert anyio.run(_answerers, path) == {LIVE: 80, better: 160 + len(seen), idle: 80}
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        _order(daemon, "promote")  # what nobody has seen
    assert _state(daemon, shadow) in ("withdrawn", "rolled_back"), (
        "by its latency, on a busy machine"
    )
    assert _lane(daemon)["candidate"] is None
    assert set(_answered(daemon, ["last"]).values()) == {better}
    assert daemon.stop("run") == 0


def _warm_up(process: Honed, version: str) -> None:
    """A server's first answers take longer; these count nowhere."""
    with httpx.Client(base_url=process.serving()["address"], timeout=60) as client:
        body = QUESTION | {"max_tokens": TOKENS, "model": version}
        for _ in range(8):
            answer = client.post(CHAT, json=body, headers={"x-honed-purpose": "evaluation"})
            assert answer.headers["x-honed-model"] == version


def _looked_at(process: Honed, family: str) -> bool:
    return bool(_canaries(process)[0]["looks"].get(family))


async def _answerers(path: Path) -> dict[str | None, int]:
    """How many episodes each version has answered."""
    async with open_store(f"sqlite:///{path}") as store:
        episodes = await store.list_episodes(EpisodeFilter(limit=10_000))
    return dict(Counter(each.adapter_id for each in episodes))


@pytest.mark.long
@pytest.mark.timeout(400)
def test_what_the_gate_has_passed_is_tried_beside_the_base_and_goes_live(
    tmp_path: Path, incident_base: Path
) -> None:
    """From events to a training, from its verdict to a share of tasks, from their outcomes into service: by itself."""
    settings = closed_loop.SETTINGS.format(base=incident_base, trigger="manual()")
    canary = '[apply.canary]\nshare = 0.5\ninterval = "0.2s"\n\n[serve]'
    with honed(tmp_path, settings.replace("[serve]", canary)) as loop:
        loop.start("serve")
        loop.start("run")
        loop.until(lambda: loop.serving()["scenarios"]["incidents"]["is_serving"], "it serves")
        closed_loop._feed(loop, [attempt(number) for number in range(500)])
        run_id = loop.ask("POST", "/v1/train-now", {})["run_id"]
        run = loop.until(lambda: loop.run(run_id), "the run has ended", limit_s=200)
        assert run["state"] == "done", run
        assert loop.model("incidents@1")["gate"]["decision"] == "pass"
        loop.until(lambda: _state(loop, "incidents@1") == "watching", "it is tried")
        assert loop.status()["current_model"] is None

        tasks = _tasks("incidents@1", 80, scenario="incidents")
        messages = attempt(1)[0][:2]
        body = {"model": "incidents", "messages": messages, "max_tokens": 4}
        before, answered = loop.status()["records"], {}
        with httpx.Client(base_url=loop.serving()["address"], timeout=60) as client:
            for task in tasks:
                answer = client.post(CHAT, json=body, headers={"x-honed-task": task})
                answered[task] = answer.headers["x-honed-model"]
        assert Counter(answered.values()) == {"incidents@1": 80, "base": 80}
        loop.until(lambda: loop.status()["records"] == before + 160, "all calls are captured")
        _say(loop, answered, lambda version: FAILS if version == "base" else SUCCEEDS)
        loop.until(lambda: _state(loop, "incidents@1") == "promoted", "it is promoted")
        assert loop.status()["current_model"] == "incidents@1"
