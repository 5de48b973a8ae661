"""Sorts the episodes of one build: which teach, which are held out, which are left out and why."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from honed.domain.episode import Episode
from honed.domain.outcome import Success, is_known, is_success, score
from honed.domain.trained_model import Selection
from honed.domain.training_data import TrainingData
from honed.errors import EmptyDataError, LearnError
from honed.learn_models import LearnModel, convert, forks_of
from honed.ports import HeldOut
from honed.training_sets.held_out import HeldOutSplit
from honed.training_sets.near_duplicates import (
    Signed,
    check_available,
    is_available,
    near_duplicates,
    sketch,
)
from honed.training_sets.rows import RowSpool, SpooledRow

MAY_NOT_TEACH: Final = "may not be learned from"
NO_OUTCOME: Final = "without an outcome"
HELD_OUT: Final = "held out"
NO_SUCCESS: Final = "not a success"
LOW_SCORE: Final = "score too low"
NO_ROW: Final = "not convertible"
NOT_DRAWN: Final = "not drawn"
NEAR_DUPLICATE: Final = "near-duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides where an episode belongs; the same for every build."""

    learn_model: LearnModel
    scenario: str
    split: HeldOutSplit
    min_score: float
    """Successes below it are not learned from."""
    min_rows: int
    """A training file with fewer rows is refused."""
    unlabelled: Literal["wait", "train", "judge"]
    """`train` takes episodes without an outcome as successes; `wait` and `judge` leave them out until there is one."""
    seed: int
    """Of the order of the rows and of the blind draw."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """`drop` leaves out rows that say nearly what another row says; `keep` marks them."""
    similarity: float = 0.8
    """From which two rows say nearly the same."""


class _Row(NamedTuple):
    """A row that may enter the training file."""

    episode_id: str
    is_taught: bool
    """Whether the selection of successes takes it."""
    spooled: SpooledRow
    worth: tuple[bool, float]
    """Whether somebody gave the answer, and the score of its outcome: what tells which of two alike rows stays."""
    sketch: Any
    """Of what it says; None where near-duplicates cannot be looked for."""


class Written(NamedTuple):
    """The files of a build; as `ports.TrainingSet` says."""

    data_path: Path
    held_out_path: Path
    episode_ids: tuple[str, ...]
    held_out: tuple[HeldOut, ...]
    data_digest: str
    num_rows: int
    num_near_duplicates: int | None


class Harvest:
    """What came of the episodes of one build."""

    def __init__(
        self, rules: Rules, spool: RowSpool, selection: Selection, actions: Sequence[str]
    ) -> None:
        self._rules = rules
        self._spool = spool
        self._selection = selection
        self._actions = actions
        self._rows: list[_Row] = []
        self._held_out: list[tuple[HeldOut, SpooledRow]] = []
        self._num_episodes = 0
        if rules.near_duplicates == "drop":
            check_available()
        self._sketches = is_available()
        self.left_out: Counter[str] = Counter()
        self.fault: LearnError | None = None
        """The first episode that could not be converted."""
        self.num_faults = 0
        """How many could not."""
        self.forks: Counter[str] = Counter()
        """Conversations that are in no row beside the one of their attempt that is, by why they began."""

    def add(self, episodes: Sequence[Episode]) -> None:
        """Sort episodes into training rows, held-out rows and those left out."""
        for episode in episodes:
            self._num_episodes += 1
            if reason := self._sort(episode):
                self.left_out[reason] += 1

    def write(self, folder: Path) -> Written:
        """Write the files; raises EmptyDataError when they hold too little."""
        rows = self._selected()
        self._check(len(rows))
        name = self._rules.learn_model.name
        data_path, held_out_path = folder / f"{name}.jsonl", folder / "held_out.jsonl"
        held_out = sorted(self._held_out, key=lambda pair: pair[0].episode_id)
        self._spool.write(
            (spooled for _, spooled in held_out), held_out_path, folder / "held_out.meta.jsonl"
        )
        digest = self._spool.write(
            (row.spooled for row in rows), data_path, folder / f"{name}.meta.jsonl"
        )
        return Written(
            data_path=data_path,
            held_out_path=held_out_path,
            episode_ids=tuple(sorted(row.episode_id for row in rows)),
            held_out=tuple(episode for episode, _ in held_out),
            data_digest=digest,
            num_rows=len(rows),
            num_near_duplicates=self._num_near(rows),
        )

    def _sort(self, episode: Episode) -> str | None:
        """Where the episode belongs; the reason when that is not the training file."""
        known = is_known(episode.outcome)
        if not episode.may_teach:
            return MAY_NOT_TEACH
        corrected = bool(episode.demonstrations)  # it may teach, whatever its outcome
        if self._rules.split.is_held_out(episode.split_key):
            return self._hold_out(episode) if known or corrected else NO_OUTCOME
        if not known and not corrected and self._rules.unlabelled != "train":
            return NO_OUTCOME
        reason = self._why_not_taught(episode)
        if reason and not corrected and self._selection == "successes":
            return reason
        data = self._converted(episode)
        if isinstance(data, LearnError):
            return _no_row(data)
        if data.metadata.demonstrated_by:
            reason = None
        elif corrected and (reason or not known) and self._selection == "successes":
            return reason or NO_OUTCOME
        if reason is None or self._selection == "blind":
            self.forks.update(forks_of(self._rules.learn_model, episode))
        self._rows.append(
            _Row(
                episode.id,
                reason is None,
                self._spool.add(data),
                (data.metadata.demonstrated_by is not None, score(episode.outcome)),
                sketch(data) if self._sketches else None,
            )
        )
        return None

    def _hold_out(self, episode: Episode) -> str:
        data = self._converted(episode)
        if isinstance(data, LearnError):
            return _no_row(data)
        is_corrected = data.metadata.demonstrated_by is not None
        if not is_corrected and not is_known(episode.outcome):
            return NO_OUTCOME
        self._held_out.append(
            (
                HeldOut(
                    episode_id=episode.id,
                    group=episode.split_key,
                    is_success=is_corrected or is_success(episode.outcome),
                ),
                self._spool.add(data),
            )
        )
        return HELD_OUT

    def _why_not_taught(self, episode: Episode) -> str | None:
        match episode.outcome:
            case Success(earned):
                return LOW_SCORE if earned < self._rules.min_score else None
            case outcome:
                return NO_SUCCESS if is_known(outcome) else None

    def _converted(self, episode: Episode) -> TrainingData | LearnError:
        try:
            return convert(self._rules.learn_model, episode, available_actions=self._actions)
        except LearnError as error:
            self.fault = self.fault or error
            self.num_faults += 1
            return error

    def _selected(self) -> list[_Row]:
        """The rows of the training file, in their final order."""
        rows = sorted(self._rows, key=lambda row: row.episode_id)
        taught = [row for row in rows if row.is_taught]
        alike = self._alike(rows)
        num_rows = len(taught)
        if self._rules.near_duplicates == "drop" and alike:
            num_rows -= len(alike if rows == taught else self._alike(taught))
            self.left_out[NEAR_DUPLICATE] += len(alike)
            rows = [row for row in rows if row.episode_id not in alike]
        num_rows = min(num_rows, len(rows))
        if len(rows) > num_rows:
            self.left_out[NOT_DRAWN] += len(rows) - num_rows
        return [
            row._replace(spooled=row.spooled._replace(near=alike.get(row.episode_id)))
            for row in random.Random(self._rules.seed).sample(rows, num_rows)
        ]

    def _alike(self, rows: Sequence[_Row]) -> dict[str, str]:
        """Rows that say nearly what another one says, by the episode of that one.

        Of two alike the one with the better outcome stays, of equals the newer; in a blind selection the newer.
        """
        if not self._sketches:
            return {}
        ranked = sorted(rows, key=lambda row: row.episode_id, reverse=True)
        if self._selection == "successes":
            ranked.sort(
                key=lambda row: row.worth, reverse=True
            )  # stable: of equals the newer is first
        signed = (Signed(row.episode_id, row.sketch) for row in ranked)
        return near_duplicates(signed, self._rules.similarity)

    def _num_near(self, rows: Sequence[_Row]) -> int | None:
        """Rows of the training file that are marked, and those that were dropped for it."""
        if not self._sketches:
            return None
        marked = sum(row.spooled.near is not None for row in rows)
        return marked + self.left_out[NEAR_DUPLICATE]

    def _check(self, num_rows: int) -> None:
        rules = self._rules
        if self._num_episodes == 0:
            raise EmptyDataError(
                f"no episodes: scenario {rules.scenario} has none of learn model "
                f"{rules.learn_model.name}"
            )
        if num_rows >= rules.min_rows and num_rows > 0:
            return
        found = f"{num_rows} training rows" if num_rows else "no training rows"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        more = "wait for more successes"
        if self.fault is not None and 2 * self.num_faults > self._num_episodes:
            more = f"see why the learn model refuses them (the first: {self.fault})"
        elif self.left_out[NO_OUTCOME]:
            more = "wait for outcomes (or set learn.unlabelled to train)"
        raise EmptyDataError(
            f"{found} in {self._num_episodes} episodes, expected at least {rules.min_rows}"
            + (f": {reasons}" if reasons else ""),
            advice=f"{more}, or lower train.min_rows",
        )


def _no_row(error: LearnError) -> str:
    """Why an episode that could not be converted is left out, the same for all with that fault."""
    return f"{NO_ROW}: {error.reason}" if error.reason else NO_ROW
