"""Runs that wait for a person (`learn.review`): shown, then approved or rejected.

A rule that fires, or `train-now`, makes a *review* in the store: the run to be and the episodes that it is to read,
chosen in that moment. It survives restarts. What comes in later is the next run's. Approving names the digest of the
training file that was shown; the run builds the same file again and trains on no other. So a verdict, a correction or
a drop that comes between is looked at too. Rejecting moves the counters on as a run without usable data does: the
same episodes do not fire again.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from msgspec.structs import replace

from honed import log
from honed.domain.times import now_ms
from honed.domain.verdict import Seen
from honed.errors import ControlError
from honed.loop.in_service import Announce
from honed.loop.orders import RunOrder
from honed.loop.skipped_run import skipped_run
from honed.ports import PREVIEW_PREFIX, Preview, Remark, RemarkKind, Review, Store, TrainingSets

_ENDS = ("done", "skipped")
"""How a run ends that its review need not wait for any more."""


class Approval:
    """Shows what would be learned, and keeps the run that waits for somebody to have looked."""

    def __init__(
        self,
        store: Store,
        training_sets: TrainingSets,
        *,
        scenario: str,
        learn_model: str,
        scratch: Path,
        is_required: bool,
        announce: Announce,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Name what is looked at.

        Args:
            store: keeps the review.
            training_sets: what the run builds with.
            scenario: whose runs.
            learn_model: whose runs.
            scratch: folder for previews while they are looked at.
            is_required: whether runs wait; previews and remarks are there all the same.
            announce: publishes events.
            wake: has the trigger loop look.
        """
        self._store = store
        self._training_sets = training_sets
        self._scenario = scenario
        self._learn_model = learn_model
        self._scratch = scratch
        self._is_required = is_required
        self._announce = announce
        self.wake = wake
        self._log = log.get(scenario=scenario)
        self._is_checked = False
        self._deciding = anyio.Lock()
        self.now: Review | None = None
        """The run that waits, or that was approved and has not ended; None when there is none."""

    @property
    def is_required(self) -> bool:
        """Whether a run waits for a person."""
        return self._is_required

    def told(self) -> dict[str, Any] | None:
        """The run that waits, as `honed status --json` has it."""
        if (review := self.now) is None:
            return None
        names = ("learn_model", "reason", "at_ms", "approved_by")
        shown = {"run_id": review.id, "num_episodes": len(review.material.episode_ids)}
        return shown | {name: getattr(review, name) for name in names}

    async def load(self) -> None:
        """Find what waited when the daemon ended, and clear away previews that were cut off by that."""
        await anyio.to_thread.run_sync(self._clear_previews)
        review = await self._store.reviews.waiting(self._scenario, self._learn_model)
        if review is None:
            return
        runs = await self._store.list_runs(self._scenario)
        has_ended = any(run.review_id == review.id and run.state in _ENDS for run in runs)
        if has_ended or not self._is_required:
            await self._store.reviews.end(review.id)
        else:
            self.now = review

    async def hold(self, order: RunOrder) -> None:
        """Have a run wait, with the episodes that there are now; nothing when one waits already."""
        if self.now is not None:
            return
        review = Review(
            id=order.id,
            scenario=self._scenario,
            learn_model=self._learn_model,
            reason=order.reason,
            at_ms=now_ms(),
            material=await self._training_sets.material(),
            selection=order.selection,
            against_base=order.against_base,
            counts=order.counts,
        )
        await self._store.reviews.wait(review)
        self.now = review
        details = {
            "run_id": review.id,
            "reason": review.reason,
            "num_episodes": len(review.material.episode_ids),
        }
        self._announce(log.REVIEW_PENDING, details)
        self._log.info(log.REVIEW_PENDING, **details)

    async def next_order(self, new_id: str) -> RunOrder | None:
        """The run that was approved; None while nobody has, or when what was approved has changed since."""
        review = self.now
        if review is None or review.approved_by is None:
            return None
        if not self._is_checked:  # after a failure or a restart, however long ago it was approved
            shown = await self._training_sets.preview(self._scratch, review=review)
            if shown.data_digest != review.data_digest:
                await self._reopen(review)
                return None
        known = {run.id for run in await self._store.list_runs(self._scenario)}
        return RunOrder(
            id=new_id if review.id in known else review.id,
            reason=review.reason,
            selection=review.selection,
            against_base=review.against_base,
            counts=review.counts,
            review=review,
        )

    async def ended(self, state: str) -> None:
        """The approved run has ended; one that failed is tried again with the same data."""
        self._is_checked = False
        if state != "failed" and self.now is not None:
            await self._store.reviews.end(self.now.id)
            self.now = None

    async def preview(self, *, num_rows: int) -> Preview:
        """What the run that waits would learn from, else what one would that starts now."""
        return await self._training_sets.preview(self._scratch, review=self.now, num_rows=num_rows)

    async def approve(self, *, said_by: str, data_digest: str | None = None) -> Review:
        """Let the run that waits train on what was shown.

        Args:
            said_by: who looked.
            data_digest: of the training file that they saw, or its beginning; None: as it is now.

        Raises:
            ControlError: nothing waits, there is nothing to train on, or the file is another one by now.
        """
        async with self._deciding:
            return await self._approve(self._waiting(), said_by, data_digest)

    async def _approve(self, review: Review, said_by: str, data_digest: str | None) -> Review:
        if review.approved_by is not None:
            return review
        shown = await self._training_sets.preview(self._scratch, review=review)
        if shown.data_digest is None:
            raise ControlError(
                f"run {review.id} would train on nothing: {shown.problem}",
                advice="`honed review keep` takes episodes again; `honed review reject` moves on",
            )
        if data_digest is not None and not shown.data_digest.startswith(data_digest):
            raise ControlError(
                f"the data of run {review.id} have changed since they were shown: their digest is "
                f"{shown.data_digest}, not {data_digest}",
                advice="look again with `honed review`",
            )
        approved = replace(review, approved_by=said_by, data_digest=shown.data_digest)
        await self._store.reviews.wait(approved)
        self.now, self._is_checked = approved, True
        self._tell(log.REVIEW_APPROVED, approved, said_by, data_digest=shown.data_digest)
        self.wake()
        return approved

    async def reject(self, *, said_by: str, note: str | None = None) -> Review:
        """Discard the run that waits and move on: its episodes do not fire again.

        Raises:
            ControlError: nothing waits, or it is approved already.
        """
        async with self._deciding:
            review = self._waiting()
            if review.approved_by is not None:
                raise ControlError(
                    f"run {review.id} was approved by {review.approved_by}",
                    advice="`honed cancel` stops a run in progress",
                )
            await self._write_rejection(review, said_by, note)
        self._tell(log.REVIEW_REJECTED, review, said_by, note=note)
        self.wake()
        return review

    async def _write_rejection(self, review: Review, said_by: str, note: str | None) -> None:
        run = skipped_run(
            review,
            scenario=self._scenario,
            learn_model=self._learn_model,
            message=f"rejected in review by {said_by}" + (f": {note}" if note else ""),
        )
        material = review.material
        await self._store.skip_run(
            run,
            trained_count=material.episode_count if review.counts else None,
            seen=Seen(newest=material.reach) if review.counts else None,
        )
        self.now = None  # not before the counters have moved on: the same episodes would ask again

    async def remark(
        self,
        episode_ids: Sequence[str],
        kind: RemarkKind,
        *,
        said_by: str,
        note: str | None = None,
        label: str | None = None,
    ) -> int:
        """Say something about episodes; of how many it was new. Raises NotFoundError."""
        remarks = [
            Remark(
                episode_id=id, kind=kind, said_by=said_by, at_ms=now_ms(), note=note, label=label
            )
            for id in episode_ids
        ]
        num_new = sum(await self._store.reviews.remark(remarks))
        details = {"kind": kind, "num_episodes": num_new, "said_by": said_by}
        self._announce(log.REVIEW_REMARKED, details)
        self._log.info(log.REVIEW_REMARKED, **details)
        return num_new

    def _clear_previews(self) -> None:
        for folder in self._scratch.glob(f"{PREVIEW_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _waiting(self) -> Review:
        if self.now is None:
            raise ControlError(
                "no run waits for a review",
                advice="learn.review = true makes runs wait: then the trigger, or `honed train-now`, asks for one",
            )
        return self.now

    async def _reopen(self, review: Review) -> None:
        """Ask again: what would be trained on is not what was approved."""
        again = replace(review, approved_by=None, data_digest=None)
        await self._store.reviews.wait(again)
        self.now = again
        self._tell(log.REVIEW_REOPENED, review, review.approved_by or "")

    def _tell(self, event: str, review: Review, said_by: str, **more: str | None) -> None:
        details = {"run_id": review.id, "said_by": said_by} | more
        self._announce(event, details)
        self._log.info(event, **details)
