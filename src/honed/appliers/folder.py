"""Puts adapters into service as a folder: for any server that reads adapters from a disk, told by a command.

In the folder, `scenario@n` is a copy of an adapter, whole from the moment it has that name, and `scenario` a link to
the one in service. The link moves in one step (rename); then the hook runs. Where the hook fails, the link goes back.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import anyio
from anyio import to_thread

from honed import log
from honed.adapter_files import adapter_digest, remove_adapter
from honed.appliers.adapter_folder import see_adapter
from honed.appliers.hook import run_hook
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError


class FolderApplier:
    """An Applier for one scenario.

    Args:
        folder: where the adapters and the link are put; scenarios may share it.
        scenario: the link's name.
        hook: a command and its arguments; empty for none.
        hook_timeout: how long it may take.
    """

    def __init__(
        self, folder: Path, *, scenario: str, hook: Sequence[str] = (), hook_timeout: timedelta
    ) -> None:
        self._folder = folder
        self._scenario = scenario
        self._hook = tuple(hook)
        self._hook_timeout = hook_timeout
        self._link = folder / scenario

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Have the link lead to the model (None: no link), and the hook know; true afterwards.

        Raises:
            AdapterNotFoundError: its files are not there, or were changed.
            ApplyError: the folder cannot be written, or the hook failed; the link leads where it did.
        """
        before = await self.current()
        model_id = model.id if model else None
        if model is not None:
            await see_adapter(model)
            try:
                await to_thread.run_sync(self._publish, model)
            except OSError as error:
                raise self._unwritable(error) from error
        if model_id == before:
            return
        await self._point(model_id)
        try:
            if self._hook:
                await run_hook(
                    self._hook, self._variables(model, before), within=self._hook_timeout
                )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._point(before)
            raise
        await to_thread.run_sync(self._clear, {model_id, before})

    async def current(self) -> str | None:
        """Id of the adapter that the link leads to; None where there is no link, or nothing behind it.

        Raises:
            ApplyError: something else has the link's name.
        """
        return await to_thread.run_sync(self._current)

    def _current(self) -> str | None:
        try:
            target = self._link.readlink().name
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ApplyError(
                f"{self._link} is in the way: expected a link or nothing, found something else",
                advice="move it away, or choose another server.folder",
            ) from error
        return target if (self._folder / target).is_dir() else None

    def _publish(self, model: TrainedModel) -> None:
        """Copy the adapter, unless it is there as it should be; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / model.id
        with contextlib.suppress(OSError):
            if adapter_digest(place) == model.digest:
                return
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as scratch:
            made = Path(scratch) / "new"
            shutil.copytree(model.adapter_path, made)
            _sync(made)
            with contextlib.suppress(FileNotFoundError):
                place.rename(Path(scratch) / "old")
            made.rename(place)

    async def _point(self, model_id: str | None) -> None:
        try:
            await to_thread.run_sync(self._point_now, model_id)
        except OSError as error:
            raise self._unwritable(error) from error

    def _point_now(self, model_id: str | None) -> None:
        if model_id is None:
            self._link.unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as scratch:
            aside = Path(scratch) / "link"
            aside.symlink_to(model_id)
            aside.replace(self._link)

    def _variables(self, model: TrainedModel | None, before: str | None) -> Mapping[str, str]:
        return {
            "HONED_SCENARIO": self._scenario,
            "HONED_LINK": str(self._link),
            "HONED_MODEL_ID": model.id if model else "",
            "HONED_ADAPTER_PATH": str(self._folder / model.id) if model else "",
            "HONED_DIGEST": model.digest if model else "",
            "HONED_PREVIOUS_ID": before or "",
            "HONED_PREVIOUS_PATH": str(self._folder / before) if before else "",
        }

    def _clear(self, keep: set[str | None]) -> None:
        """Remove older copies; the switch has happened, so a failure is only told."""
        for place in self._folder.glob(f"{self._scenario}@*"):
            if place.name not in keep:
                try:
                    remove_adapter(place)
                except OSError as error:
                    log.get(scenario=self._scenario).warning(
                        log.ADAPTER_NOT_UNLOADED, model_id=place.name, error=str(error)
                    )

    def _unwritable(self, error: OSError) -> ApplyError:
        return ApplyError(
            f"{self._folder} cannot be written: {error.strerror}: {error.filename}",
            advice="make room there, or give it to honed's user; server.folder names it",
        )


def _sync(folder: Path) -> None:
    """See that everything in it is on the disk."""
    for path in (*folder.rglob("*"), folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
