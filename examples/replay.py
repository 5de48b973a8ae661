"""Replays trajectories of a folder through the feed, as a live swarm would send them.

    python examples/replay.py trajectories/ --socket ~/.local/share/honed/airline/feed.sock

Every `.jsonl` file of the folder is read: rows `{"traj": [...], "reward", "task_id", "trial"}` as
tau-bench writes them, or `{"messages": [...], "reward"}`. Agents work side by side; each takes a
trajectory and sends one model call for each assistant turn, with all turns before it. The outcome
comes later, when the agent has long gone on. Ids come from the content: replaying twice adds nothing.

`honed import` brings the same files in at once; this shows what live traffic looks like, and loads a
daemon the way a swarm does.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from honed.client import AsyncHonedClient


class Trajectory(NamedTuple):
    """One attempt of one agent."""

    task_id: str
    group_id: str
    turns: list[dict[str, Any]]
    reward: float | None


class Replayed(NamedTuple):
    """What was sent, all of it acknowledged."""

    trajectories: int
    calls: int
    outcomes: int


def read_folder(folder: Path) -> Iterator[Trajectory]:
    """The trajectories of all `.jsonl` files, file by file; a row that is none is told on stderr."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as rows:
            for number, row in enumerate(rows, 1):
                try:
                    yield _trajectory(json.loads(row))
                except (ValueError, KeyError, TypeError) as error:
                    sys.stderr.write(f"{path}:{number} is no trajectory: {error!r}\n")


def _trajectory(row: dict[str, Any]) -> Trajectory:
    turns = row["traj"] if "traj" in row else row["messages"]
    group = str(row.get("task_id", _digest(turns[0])))
    trial = row.get("trial", _digest(turns))
    return Trajectory(f"replay-{group}-{trial}", f"replay-{group}", turns, row.get("reward"))


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


async def replay(
    trajectories: list[Trajectory], socket: Path, *, agents: int, pace_s: float, late_s: float
) -> Replayed:
    """Send everything; returns when all of it is on disk.

    Args:
        trajectories: what to send.
        socket: the daemon's `feed.sock`.
        agents: how many work at a time, each on a connection of its own.
        pace_s: mean pause of an agent before each call.
        late_s: an outcome comes up to this long after the last call.
    """
    queue = iter(trajectories)
    rng = random.Random(0)
    num_calls = 0

    async def agent(outcomes: asyncio.TaskGroup) -> None:
        nonlocal num_calls
        async with AsyncHonedClient(socket) as client:
            for one in queue:
                for i, turn in enumerate(one.turns):
                    if turn["role"] != "assistant" or i == 0:
                        continue
                    if pace_s:
                        await asyncio.sleep(rng.expovariate(1 / pace_s))
                    await client.llm_call(
                        one.turns[:i],
                        turn,
                        task_id=one.task_id,
                        group_id=one.group_id,
                        event_id=f"{one.task_id}-call-{i}",
                    )
                    num_calls += 1
                if one.reward is not None:
                    outcomes.create_task(tell(one, rng.uniform(0, late_s)))

    async def tell(one: Trajectory, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with AsyncHonedClient(socket) as desk:
            await desk.outcome(
                task_id=one.task_id,
                group_id=one.group_id,
                score=one.reward,
                event_id=f"{one.task_id}-outcome",
            )

    async with asyncio.TaskGroup() as outcomes, asyncio.TaskGroup() as swarm:
        for _ in range(agents):
            swarm.create_task(agent(outcomes))
    told = sum(one.reward is not None for one in trajectories)
    return Replayed(len(trajectories), num_calls, told)


def main() -> None:
    """Replay a folder and say what was sent."""
    parser = argparse.ArgumentParser(description="Replay trajectories through honed's feed.")
    parser.add_argument("folder", type=Path, help="with .jsonl files")
    parser.add_argument("--socket", type=Path, required=True, help="the daemon's feed.sock")
    parser.add_argument("--agents", type=int, default=8, help="how many work at a time")
    parser.add_argument("--pace", type=float, default=0.05, help="mean seconds before each call")
    parser.add_argument("--late", type=float, default=2.0, help="outcomes come up to this late")
    asked = parser.parse_args()
    trajectories = list(read_folder(asked.folder))
    if not trajectories:
        sys.exit(f"{asked.folder} holds no .jsonl file with a trajectory")
    print(f"replaying {len(trajectories)} trajectories with {asked.agents} agents ...", flush=True)
    began = time.monotonic()
    sent = asyncio.run(
        replay(
            trajectories,
            asked.socket.expanduser(),
            agents=asked.agents,
            pace_s=asked.pace,
            late_s=asked.late,
        )
    )
    print(
        f"{sent.calls} calls and {sent.outcomes} outcomes of {sent.trajectories} trajectories "
        f"acknowledged in {time.monotonic() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
