"""Chooses the episodes that a run learns from and writes them down.

New episodes stream through first, then those whose outcome has changed since a training saw them, then the
others, as many as a run may look at; the newest first in each. Rows wait in a spool on disk, so memory holds one chunk
of episodes and a few numbers per row, however much there is. Converting and writing happen in a
thread, because the daemon's event loop has events to commit.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import anyio.to_thread
import msgspec

from honed import log
from honed.domain.dataset import METHOD_OF, SHAPE_OF, Shape
from honed.domain.episode import Episode
from honed.domain.held_text import least_equal
from honed.domain.trained_model import Selection
from honed.domain.verdict import Reach, Seen
from honed.errors import EmptyDataError, TrainingError
from honed.learn_models import DpoConfig
from honed.learn_models.learn_model import LearnModel, method_of
from honed.ports import Look, Material, Preview, Review, Store, TrainingSet
from honed.training_sets.harvest import Harvest, Rules
from honed.training_sets.held_out import HeldOutSplit
from honed.training_sets.preview import preview
from honed.training_sets.rows import RowSpool
from honed.training_sets.writing import Written, write

CHUNK: Final = 32
"""Episodes converted in one go; a few hundred kilobytes of typical conversations."""


class EpisodeTrainingSets:
    """Training sets of stored episodes: what went well, or as many drawn blindly; pairs; labelled answers.

    Args:
        store: where the episodes are.
        learn_model: what built them, and converts them.
        scenario: whose episodes.
        secret: key of the held-out split.
        held_out_fraction: share of the groups that is never learned from, 0..1.
        max_episodes: newest episodes that a run looks at, held-out ones included.
        min_score: successes below it are not learned from.
        min_rows: a training set with fewer rows is refused.
        unlabelled: `train` takes episodes without an outcome as successes; else they are left out until there is one.
        judged: `exclude` leaves out episodes whose outcome is a model's opinion alone.
        seed: of all draws and of the order of the rows.
        near_duplicates: `drop` leaves out rows that say nearly what another row says; `keep` marks them.
        similarity: share of common word sequences from which two rows say nearly the same, 0..1.
        shape: what a row of a run is; None: as the method of the learn model has it.
        fallbacks: what else it may be, where there are too few rows of that shape; the first that gives enough.
        min_chars, max_chars, max_turns, replay, skill_tag, max_skill_share, max_age_share, pairs: as in `Rules`.
    """

    def __init__(
        self,
        store: Store,
        learn_model: LearnModel,
        *,
        scenario: str,
        secret: bytes,
        held_out_fraction: float = 0.2,
        max_episodes: int = 5_000,
        min_score: float = 0.0,
        min_rows: int = 20,
        unlabelled: Literal["wait", "train", "judge"] = "wait",
        judged: Literal["train", "exclude"] = "train",
        seed: int = 3407,
        near_duplicates: Literal["keep", "drop"] = "keep",
        similarity: float = 0.8,
        min_chars: int = 0,
        max_chars: int | None = None,
        max_turns: int | None = None,
        replay: float = 1.0,
        skill_tag: str = "skill",
        max_skill_share: float = 1.0,
        max_age_share: float = 1.0,
        pairs: DpoConfig = DpoConfig(),  # noqa: B008  (frozen)
        shape: Shape | None = None,
        fallbacks: Sequence[Shape] = (),
    ) -> None:
        self._store = store
        self._shape: Shape = shape or SHAPE_OF.get(method_of(learn_model), "sft")
        self._fallbacks = tuple(fallbacks)
        self._rules = Rules(
            learn_model=learn_model,
            scenario=scenario,
            split=HeldOutSplit(secret, held_out_fraction),
            min_score=min_score,
            min_rows=min_rows,
            unlabelled=unlabelled,
            judged=judged,
            seed=seed,
            near_duplicates=near_duplicates,
            similarity=similarity,
            max_episodes=max_episodes,
            min_chars=min_chars,
            max_chars=max_chars,
            max_turns=max_turns,
            replay=replay,
            skill_tag=skill_tag,
            max_skill_share=max_skill_share,
            max_age_share=max_age_share,
            pairs=pairs,
        )

    async def material(self) -> Material:
        """What there is to learn from now."""
        rules = self._rules
        return await self._store.lessons.material(
            rules.scenario, rules.learn_model.name, limit=rules.max_episodes
        )

    async def preview(
        self,
        scratch: Path,
        *,
        review: Review | None = None,
        num_rows: int = 0,
        selection: Selection = "successes",
        shape: Shape | None = None,
    ) -> Preview:
        """What `build` would give now, or for the run that waits; it is built, looked at and cleared away.

        Without a `shape` it is that which a run would have.
        """
        chosen = review.selection if review else selection
        return await preview(
            self,
            self._store.reviews,
            scenario=self._rules.scenario,
            learn_model=self._rules.learn_model.name,
            skill_tag=self._rules.skill_tag,
            scratch=scratch,
            review=review,
            num_rows=num_rows,
            selection=selection,
            shapes=self._shapes(shape, chosen),
        )

    def _shapes(self, asked: Shape | None, selection: Selection) -> tuple[Shape, ...]:
        """Those that are tried, in this order; failures that are drawn blindly are compared with nothing."""
        if asked is not None:
            return (asked,)
        return (self._shape, *(self._fallbacks if selection == "successes" else ()))

    async def build(
        self,
        folder: Path,
        *,
        selection: Selection = "successes",
        shape: Shape | None = None,
        material: Material | None = None,
        look: Look | None = None,
    ) -> TrainingSet:
        """Write `{learn_model}.jsonl`, `held_out.jsonl`, their metadata and `dataset.json` into `folder`.

        Rows stand in the order of a hash of seed and content; held-out rows, conversations in every shape, in the
        order of their episodes' ids. The blind selection draws as many episodes as the other one has, whatever their
        outcome.

        Args:
            folder: made if need be.
            selection: whether outcomes are looked at.
            shape: what a row is; None: as the runs have it, and where there are too few rows as the fallbacks.
            material: the episodes, chosen earlier; None chooses them now.
            look: is told of each episode, for each shape that is tried; then nothing is settled, for nothing will be
                learned from it.

        Raises:
            EmptyDataError: no episodes, or too few rows; the message counts the reasons.
            TrainingError: the files cannot be written.
        """
        # before the episodes are read, so that what comes in meanwhile counts as new
        material = material or await self.material()
        refused: dict[Shape, EmptyDataError] = {}
        for each in self._shapes(shape, selection):
            try:
                made = await self._build(folder, selection, each, material, look)
            except EmptyDataError as error:
                refused[each] = error
            else:
                return msgspec.structs.replace(made, why_shape=_why(refused))
        raise next(iter(refused.values()))

    async def _build(
        self,
        folder: Path,
        selection: Selection,
        shape: Shape,
        material: Material,
        look: Look | None,
    ) -> TrainingSet:
        """As `build`, in one shape."""
        rules = self._rules
        actions = await self._store.distinct_actions(rules.scenario)
        try:
            await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True))
            with RowSpool(folder) as spool:
                fresh = material.episode_ids[: material.num_new + material.num_changed]
                harvest = Harvest(
                    rules,
                    spool,
                    selection,
                    actions,
                    shape=shape,
                    fresh=fresh,
                    look=look,
                )
                later = await self._read(material, harvest)
                for ids in harvest.groups():
                    found = await self._store.lessons.read(ids)
                    attempts = [read.episode for read in found]
                    await anyio.to_thread.run_sync(harvest.compare, attempts)
                await anyio.to_thread.run_sync(harvest.take_pairs)
                self._report(harvest)
                await self._compare_with_all_held_out(harvest)
                made = await anyio.to_thread.run_sync(
                    lambda: write(
                        harvest, folder, num_new=material.num_new, num_changed=material.num_changed
                    )
                )
                if shape == "labelled" and shape in self._fallbacks:
                    await anyio.to_thread.run_sync(_see_both_labels, made.data_path)
        except OSError as error:
            raise TrainingError(
                f"training files in {folder} cannot be written: {error.strerror}"
            ) from error
        if look is None:
            await self._settle(made)
        return TrainingSet(
            data_path=made.data_path,
            held_out_path=made.held_out_path,
            episode_ids=made.episode_ids,
            held_out=made.held_out,
            data_digest=made.dataset.digest,
            num_rows=made.dataset.num_rows,
            episode_count=material.episode_count,
            left_out=made.left_out,
            forks=dict(harvest.forks),
            seen=Seen(newest=material.reach, later=later),
            num_new=material.num_new,
            num_changed=material.num_changed,
            num_near_duplicates=made.dataset.num_near_duplicates,
            dataset=made.dataset,
        )

    async def why_not(self, episode: Episode) -> str | None:
        """Why an episode by itself would not be learned from; None when it would be, if it is nothing like another."""
        rules = self._rules
        actions = await self._store.distinct_actions(rules.scenario)
        settled = await self._store.lessons.sides(rules.split.names(episode))
        with tempfile.TemporaryDirectory() as folder, RowSpool(Path(folder)) as spool:
            harvest = Harvest(rules, spool, "successes", actions, shape=self._shape)
            harvest.settled = settled
            harvest.add([episode])
        return next(iter(harvest.left_out), None)

    async def _read(self, material: Material, harvest: Harvest) -> dict[str, Reach]:
        """Harvest the material; the episodes of which more was said than when it was chosen."""
        later: dict[str, Reach] = {}
        newest = material.reach
        for start in range(0, len(material.episode_ids), CHUNK):
            ids = material.episode_ids[start : start + CHUNK]
            found = await self._store.lessons.read(ids)
            later |= {
                read.episode.id: read.reach
                for read in found
                if read.reach.verdict > newest.verdict or read.reach.record > newest.record
            }
            episodes = [read.episode for read in found]
            names = {name for each in episodes for name in self._rules.split.names(each)}
            harvest.settled |= await self._store.lessons.sides(sorted(names))
            if self._rules.judged == "exclude":
                harvest.judged |= {read.episode.id for read in found if read.is_judged}
            harvest.dropped |= await self._store.reviews.dropped(ids)
            await anyio.to_thread.run_sync(harvest.add, episodes)
        return later

    async def _compare_with_all_held_out(self, harvest: Harvest) -> None:
        """Mark the rows that say nearly what any training has held out, however long ago."""
        texts = await anyio.to_thread.run_sync(harvest.texts)
        least = least_equal(self._rules.similarity)
        harvest.mark(await self._store.lessons.near_held_out(texts, least=least))

    async def _settle(self, made: Written) -> None:
        """Settle the sides of all attempts that were looked at, before anything is learned from one.

        The texts first: cut off between the two, too much is held out, never too little.
        """
        await self._store.lessons.hold_out(made.held_texts)
        moved = await self._store.lessons.settle_sides(made.unsettled)
        if moved:
            raise TrainingError(
                f"another training has just settled the sides of {len(moved)} groups and tasks otherwise",
                advice="the next training goes by them; two daemons on one store need the same gate.held_out_fraction"
                " and the same secret.key",
            )

    def _report(self, harvest: Harvest) -> None:
        if harvest.fault is not None:
            log.get(scenario=self._rules.scenario).warning(
                log.EPISODE_REFUSED,
                learn_model=self._rules.learn_model.name,
                count=harvest.num_faults,
                first=str(harvest.fault),
            )


class _Label(msgspec.Struct):
    label: bool


def _see_both_labels(data_path: Path) -> None:
    """Raise EmptyDataError for answers that are all good or all bad: they say nothing of the difference."""
    with data_path.open("rb") as lines:
        labels = {msgspec.json.decode(line, type=_Label).label for line in lines}
    if len(labels) < 2:
        raise EmptyDataError("the judged answers are all good or all bad")


def _why(refused: Mapping[Shape, EmptyDataError]) -> str | None:
    """Why a fallback was taken; None when none was."""
    told = [f"{METHOD_OF[shape]} had {error}" for shape, error in refused.items()]
    return "; ".join(told) or None
