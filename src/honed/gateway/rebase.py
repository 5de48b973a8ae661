"""A lane's base model: another one, or none that may be served."""

from pathlib import Path

from honed.gateway.lane import Lane


async def rebase(lane: Lane, base_gguf: Path, base_facts: Path | None) -> None:
    """Serve another base model from now on, alone: adapters belong to one base. What is in flight at a server of the
    lane's own is cut.
    """
    async with lane.switching(), lane.servers.starting:
        old, lane.backend = lane.backend, None
        trial = lane.arms.drop_candidate()
        lane.base_gguf, lane.base_facts = base_gguf, base_facts
        lane.adapter, lane.state, lane.base_problem = None, "down", None
        lane.is_parked = False
        lane.attempts.begin_anew()
        for each in (old, trial):
            if each is not None:
                await lane.stop(each.server, grace_s=0)
    lane.notify()


def refuse_base(lane: Lane, problem: str) -> None:
    """There is no base model that may be served; what serves already goes on."""
    lane.base_problem = problem
    if lane.backend is None:
        lane.error = problem
    lane.waiting.tell()


def look_again(lane: Lane) -> None:
    """Try at once what was refused: the files may be others now."""
    if lane.backend is None and lane.base_problem is not None:
        lane.attempts.begin_anew()
        lane.notify()
