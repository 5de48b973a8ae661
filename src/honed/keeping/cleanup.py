"""Clearing away what is old, a little at a time, while events go on coming in.

What never goes: what no training has had the chance to learn from (unless the config says so), adapters
that are or were in service, every manifest. Episodes that are held out go by age like others; which
side of the split a task is on follows from its name and the secret, so nothing moves.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio.lowlevel
import anyio.to_thread
from msgspec import Struct

from honed.adapter_files import ADAPTER_FILES
from honed.domain.run import Run
from honed.domain.trained_model import TrainedModel
from honed.errors import StoreError
from honed.keeping.room import Made, OnStep, look, make_room, over
from honed.ports import Aged, Keeping, Room, Store

_STEP: Final = 1_000
"""Attempts looked up at a time."""
_ALL: Final = 1_000_000


class KeepFor(NamedTuple):
    """For how long each class of data is kept, milliseconds, and how much of it; 0 means for ever, or all."""

    loose_ms: int = 0
    unlabelled_ms: int = 0
    seen_ms: int = 0
    unseen_ms: int = 0
    runs_ms: int = 0
    rejected_ms: int = 0
    max_bytes: int = 0
    """Of the database's data."""
    max_bytes_untrained: bool = False
    """Whether what no training has seen may go for that."""


class Cleaned(Struct, frozen=True, kw_only=True):
    """What was cleared away, or would be."""

    done: bool
    records: int
    episodes: int
    runs: tuple[str, ...]
    """Trainings whose folders went; what they were is still listed."""
    adapters: tuple[str, ...]
    """Rejected adapters whose weights went; their manifests stay."""
    freed_bytes: int = 0
    """Bytes of files that went, the store's left out."""
    given_back_bytes: int = 0
    """Bytes that the store's file is smaller."""
    over_bytes: int = 0
    """Bytes that the store's data take beyond their limit."""
    room_records: int = 0
    """Where it was only looked: the oldest records that may go to make room, whatever their age."""
    room_episodes: int = 0
    """The same of episodes; no more of them go than is needed."""


class Cleanup:
    """Clears one scenario's data folder."""

    def __init__(
        self,
        store: Store,
        keeping: Keeping,
        *,
        scenario: str,
        keep_for: KeepFor,
        runs_dir: Path,
        adapters_dir: Path,
        on_step: OnStep = lambda used_bytes, episodes: None,
    ) -> None:
        """`on_step` hears how making room goes: bytes that the data take, and episodes that have gone."""
        self._store = store
        self._keeping = keeping
        self._scenario = scenario
        self._keep_for = keep_for
        self._runs_dir = runs_dir
        self._adapters_dir = adapters_dir
        self._on_step = on_step

    async def clean(self, *, now_ms: int, dry: bool = False) -> Cleaned:
        """Clear away what is old, oldest first; safe to cut off at any moment.

        Raises:
            StoreError: the store cannot be written, or a file cannot be removed.
        """
        records, episodes = await self._rows(now_ms, dry)
        made = await self._make_room(now_ms, dry)
        runs = await self._old_runs(now_ms)
        models = await self._rejected(now_ms)
        freed = 0
        try:
            for run in runs:
                freed += await anyio.to_thread.run_sync(_remove_folder, self._runs_dir / run, dry)
            for model in models:
                folder = self._adapters_dir / model
                freed += await anyio.to_thread.run_sync(_remove_weights, folder, dry)
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be removed: {error.strerror}") from error
        given_back = 0 if dry else await self._keeping.give_back(self._on_room)
        return Cleaned(
            done=not dry,
            records=records + (0 if dry else made.records),
            episodes=episodes + (0 if dry else made.episodes),
            runs=tuple(runs),
            adapters=tuple(models),
            freed_bytes=freed,
            given_back_bytes=given_back,
            over_bytes=made.over_bytes,
            room_records=made.records if dry else 0,
            room_episodes=made.episodes if dry else 0,
        )

    async def is_over(self) -> bool:
        """Whether the data take more than they may."""
        limit = self._keep_for.max_bytes
        return limit > 0 and await over(self._keeping, limit) > 0

    async def _make_room(self, now_ms: int, dry: bool) -> Made:
        limit = self._keep_for.max_bytes
        if not limit:
            return Made()
        untrained = self._keep_for.max_bytes_untrained
        if dry:
            return await look(self._keeping, now_ms=now_ms, max_bytes=limit, untrained=untrained)
        return await make_room(
            self._keeping,
            now_ms=now_ms,
            max_bytes=limit,
            untrained=untrained,
            on_step=self._on_step,
        )

    def _on_room(self, room: Room) -> None:
        self._on_step(room.used_bytes, 0)

    async def _rows(self, now_ms: int, dry: bool) -> tuple[int, int]:
        keep = self._keep_for
        aged = Aged(
            loose_before_ms=_before(now_ms, keep.loose_ms),
            unlabelled_before_ms=_before(now_ms, keep.unlabelled_ms),
            seen_before_ms=_before(now_ms, keep.seen_ms),
            unseen_before_ms=_before(now_ms, keep.unseen_ms),
        )
        records = episodes = 0
        while extent := await self._keeping.aged(aged, limit=_ALL if dry else _STEP):
            records += len(extent.record_ids)
            episodes += len(extent.episode_ids)
            if dry:
                break
            await self._keeping.remove(extent, forever=False, while_aged=aged)
            await anyio.lowlevel.checkpoint()
        return records, episodes

    async def _old_runs(self, now_ms: int) -> list[str]:
        before = _before(now_ms, self._keep_for.runs_ms)
        if before is None:
            return []
        found: Sequence[Run] = await self._store.list_runs(self._scenario, limit=_ALL)
        old = [run for run in found if run.ended_at_ms is not None and run.ended_at_ms < before]
        return [run.id for run in reversed(old) if (self._runs_dir / run.id).is_dir()]

    async def _rejected(self, now_ms: int) -> list[str]:
        """Adapters that the gate has refused, that never served, and that are old enough."""
        before = _before(now_ms, self._keep_for.rejected_ms)
        if before is None:
            return []
        models: Sequence[TrainedModel] = await self._store.list_models(self._scenario, limit=_ALL)
        served = {entry.model_id for entry in await self._store.history(self._scenario)}
        parents = {model.parent_id for model in models}
        return [
            model.id
            for model in reversed(models)
            if model.gate is not None
            and model.gate.decision == "fail"
            and model.created_at_ms < before
            and model.id not in served | parents
            and _weights(self._adapters_dir / model.id)
        ]


def _before(now_ms: int, age_ms: int) -> int | None:
    return now_ms - age_ms if age_ms else None


def _remove_folder(folder: Path, dry: bool) -> int:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    if not dry:
        shutil.rmtree(folder)
    return size


def _remove_weights(folder: Path, dry: bool) -> int:
    """Remove what weighs; config, manifest and fingerprint stay."""
    size = 0
    for path in _weights(folder):
        size += path.stat().st_size
        if not dry:
            path.unlink()
    return size


def _weights(folder: Path) -> list[Path]:
    paths = (folder / name for name in ADAPTER_FILES if not name.endswith(".json"))
    return [path for path in paths if path.exists()]
