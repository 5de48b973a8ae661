"""What learned from an episode, and by which verdict, as a person sees it."""

import json
from pathlib import Path

import anyio
import msgspec
import pytest
from typer.testing import CliRunner

from honed.cli.app import app
from honed.domain.run import Run
from honed.domain.verdict import Seen
from honed.stores import open_store
from tests.contract.test_store import model
from tests.feed_parts import call, close_all, failure, incoming, success


@pytest.fixture
def told(tmp_path: Path) -> tuple[str, str]:
    """A config, and an episode that an adapter learned from before its verdict was turned around."""
    (tmp_path / "honed.toml").write_text(f'scenario = "airline"\ndata_dir = "{tmp_path}"\n')

    async def fill() -> str:
        async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
            said = success(0.75, task_id="t1", source="ann", version="v2")
            await store.append([incoming(event) for event in (call(task_id="t1"), said)])
            [episode] = await close_all(store)
            material = await store.lessons.material("airline", "chat", limit=9)
            await store.append([incoming(failure(task_id="t1", source="ben"))])
            learned = model(1)
            seen = Seen(newest=material.reach)
            learned = msgspec.structs.replace(learned, episode_ids=(episode.id,), seen=seen)
            await store.add_model(learned)
            await store.add_model(
                msgspec.structs.replace(model(2), episode_ids=(episode.id,), run_id="old")
            )
            run = Run(
                id="run-1",
                scenario="airline",
                learn_model="chat",
                state="done",
                started_at_ms=1,
                reason="count(1)",
                num_episodes=12,
                num_new=3,
                num_changed=2,
                left_out={"held out": 1, "not a success": 4},
            )
            await store.add_run(run)
            return episode.id

    return str(tmp_path / "honed.toml"), anyio.run(fill)


def test_an_episode_names_the_adapters_that_learned_from_it(told: tuple[str, str]) -> None:
    """As they saw it, not as it stands now."""
    config, episode = told
    asked = ["feedback", "--list", episode, "--config", config]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0
    assert "counts: failure 0.00" in shown.stdout
    assert "airline@1 learned from it in run" in shown.stdout
    assert "as success 0.75, said by ann v2" in shown.stdout
    assert "airline@2 learned from it in run old, by which verdict was not written" in shown.stdout
    lessons = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["lessons"]
    assert [lesson["model_id"] for lesson in lessons] == ["airline@1", "airline@2"]
    assert lessons[0]["outcome"] == {"type": "success", "score": 0.75}


def test_runs_say_what_they_looked_at(told: tuple[str, str]) -> None:
    """New and changed episodes, and those that were left out, the commonest reason first."""
    shown = CliRunner().invoke(app, ["runs", "--config", told[0]]).stdout
    assert "12 episodes  3 new  2 changed" in shown
    assert "left out: 4 not a success, 1 held out" in shown
