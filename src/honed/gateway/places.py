"""Which adapters a shared server has: those that serve or are waited for, then those that served last.

Files that are not as they were published are left out: their own lane tells of them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from honed.domain.serving import AdapterRef
from honed.errors import ApplyError
from honed.gateway.arms import Arms
from honed.gateway.backend import Backend
from honed.gateway.launch import Launch
from honed.gateway.waiting import Waiting


class Member(Protocol):
    """A lane, as far as its neighbours move it."""

    scenario: str
    base_gguf: Path | None
    adapter: AdapterRef | None
    arms: Arms
    waiting: Waiting
    is_parked: bool

    @property
    def used_at(self) -> float:
        """When it was asked last, on the monotonic clock."""

    async def see_files(self, adapter: AdapterRef | None) -> Launch:
        """Everything that a server of the adapter is launched with; raises ApplyError."""

    def move(self, former: Backend, backend: Backend) -> None:
        """Serve from `backend` what `former` served; that one drains."""

    def park(self) -> None:
        """Serve nothing until somebody asks."""

    async def step_out(self) -> None:
        """Let what is in flight end, and leave the server; come back when one comes up."""


_Rank = tuple[int, int, float]
"""How dear a place is: by what needs it, whether requests wait for it or are answered, when it was asked last."""


class Place(NamedTuple):
    """An adapter that a server might have, and whose it is."""

    member: Member
    adapter: AdapterRef


async def others(
    members: Iterable[Member],
    member: Member,
    adapter: AdapterRef | None,
    *,
    former: Sequence[AdapterRef],
    room: int,
) -> tuple[list[AdapterRef], list[Place]]:
    """The adapters that a server should have beside this one of a member, at most `room`; and those that find none.

    `former` are those at hand now: what serves no more stands behind, the latest first.
    """
    found: list[AdapterRef] = []
    left_out: list[Place] = []
    wanted = _wanted(members, member, adapter)
    for place in [*wanted, *(Place(member, ref) for ref in former)]:
        if place.adapter in (adapter, *found):
            continue
        if len(found) >= room:
            left_out.append(place)
        elif await _is_whole(place):
            found.append(place.adapter)
    return found, left_out


def _wanted(members: Iterable[Member], member: Member, adapter: AdapterRef | None) -> list[Place]:
    """All adapters that are worth a place, the dearest first."""
    ranked: list[tuple[_Rank, Place]] = []
    for each in members:
        trial = each.arms.candidate
        if each.adapter is not None and not each.is_parked:
            # the lane's own is what a candidate is compared with, or is about to be replaced
            need = 1 if each is not member else 2 if each.arms.is_tried(adapter) else 0
            ranked.append(((need, *_ask(each)), Place(each, each.adapter)))
        if trial is not None and not trial.is_withdrawn:
            is_asked = trial.backend is not None and trial.backend.in_flight > 0
            used_at = trial.backend.used_at if trial.backend else 0.0
            ranked.append(((1, int(is_asked), used_at), Place(each, trial.adapter)))
    ranked.sort(key=lambda one: one[0], reverse=True)
    return [place for _, place in ranked]


def _ask(member: Member) -> tuple[int, float]:
    """How much a lane is asked: first come those for which requests wait, of them the one that has done so longest."""
    if member.waiting.num:
        return 2, -member.used_at
    live = member.arms.live
    return int(live is not None and live.in_flight > 0), member.used_at


async def _is_whole(place: Place) -> bool:
    """Whether its files are as they should be: one that is not is told of by its own lane."""
    try:
        await place.member.see_files(place.adapter)
    except ApplyError:
        return False
    return True
