"""An alarm about the reward, as an operator comes to see it: status, its JSON, and the probe."""

import json
from pathlib import Path

import anyio

from honed.domain.times import now_ms
from honed.stores import open_store
from honed.training_sets import load_or_make_secret
from tests.contract.test_store import model
from tests.feed_parts import call, close_all, failure, incoming, success
from tests.flow.test_command_line import _honed
from tests.processes import honed

SETTINGS = 'scenario = "airline"\n[apply]\nkind = "none"\n'


async def _fill(path: Path) -> None:
    """Long answers of which half succeed, an adapter, then short ones that all succeed."""
    async with open_store(f"sqlite:///{path}") as store:
        applied_ms = now_ms() - 60_000
        await store.add_model(model(1))
        for at_ms, outcome, answer in (
            (applied_ms - 1, failure, "x" * 400),
            (applied_ms, success, "ok"),
        ):
            message = {"role": "assistant", "content": answer}
            events = []
            for number in range(80):
                task = f"{at_ms}.{number}"
                events.append(call(response_message=message, task_id=task))
                events.append((outcome if number % 2 else success)(task_id=task))
            await store.append([incoming(event) for event in events])
            await close_all(store, now_ms=at_ms)
        await store.push_applied(
            "airline", "airline@1", expected=None, max_history=5, now_ms=applied_ms
        )


def test_an_alarm_about_the_reward_is_seen_on_the_command_line(tmp_path: Path) -> None:
    """`honed status` says it in words, `--json` lists it, and `honed health daemon` answers with it."""
    with honed(tmp_path, SETTINGS) as daemon:
        daemon.data_dir.mkdir()
        load_or_make_secret(daemon.data_dir / "secret.key", may_make=True)
        anyio.run(_fill, daemon.data_dir / "honed.db")
        daemon.start("run")
        config = ("--config", str(daemon.config))
        [alarm] = daemon.until(lambda: daemon.status()["rewards"]["alarms"], "it has looked")
        found = json.loads(_honed(tmp_path, "status", "--json", *config).stdout)
        assert found["rewards"]["alarms"] == [alarm]
        assert "shorter answers: 400" in alarm
        assert f"suspicious  {alarm}\n" in _honed(tmp_path, "status", *config).stdout
        probe = _honed(tmp_path, "health", "daemon", *config)
        assert (probe.returncode, f"suspicious: {alarm}\n" in probe.stdout) == (0, True)
        assert daemon.stop("run") == 0
