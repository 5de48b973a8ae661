"""Sorts the episodes of one build: which teach, which are held out, which are left out and why."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final

from honed.domain.dataset import Shape
from honed.domain.episode import Episode
from honed.domain.held_text import HeldText
from honed.domain.outcome import Success, is_known, is_success, score
from honed.domain.trained_model import Selection
from honed.domain.training_data import ChatExample, TrainingData
from honed.errors import LearnError
from honed.learn_models import convert, forks_of
from honed.ports import DROPPED, HeldOut, Look
from honed.training_sets.candidates import (
    Candidate,
    Origin,
    both,
    candidate,
    origin_of,
    why_not_of_length,
)
from honed.training_sets.choosing import BOTH_SIDES, HeldRow, MinedPairs
from honed.training_sets.comparisons import Comparisons
from honed.training_sets.keyed_texts import sought
from honed.training_sets.near_duplicates import check_available, is_available, said, sketch
from honed.training_sets.rows import RowSpool
from honed.training_sets.rules import Rules
from honed.training_sets.slices import slices_of

__all__ = ["MAY_NOT_TEACH", "NO_ROW", "Harvest", "Rules"]

MAY_NOT_TEACH: Final = "may not be learned from"
NO_OUTCOME: Final = "without an outcome"
JUDGED: Final = "judged by a model alone"
HELD_OUT: Final = "held out"
NO_SUCCESS: Final = "not a success"
LOW_SCORE: Final = "score too low"
NO_ROW: Final = "not convertible"


class Harvest:
    """What came of the episodes of one build.

    Args:
        rules: what decides.
        spool: where rows wait.
        selection: whether outcomes are looked at.
        actions: the scenario's distinct actions.
        shape: what a row is.
        fresh: the episodes that are new to training, or have changed since.
        look: is told where each episode belongs.
    """

    def __init__(
        self,
        rules: Rules,
        spool: RowSpool,
        selection: Selection,
        actions: Sequence[str],
        *,
        shape: Shape = "sft",
        fresh: Collection[str] = (),
        look: Look | None = None,
    ) -> None:
        self.rules, self.spool = rules, spool
        self.selection, self.shape = selection, shape
        self._look = look
        self._actions = actions
        self._fresh = frozenset(fresh)
        self._comparisons = None if shape == "sft" else Comparisons(rules, actions)
        self._mined = MinedPairs(rules.pairs.max_pairs or 0, rules.seed)
        if rules.near_duplicates == "drop":
            check_available()
        self.is_sketched = is_available()
        """Whether rows are compared by what they nearly say, not by their words alone."""
        self.candidates: list[Candidate] = []
        """Rows that may teach."""
        self.held_out: list[HeldRow] = []
        self.sides: dict[bytes, bool] = {}
        """By name whether it is held out, of all episodes that were looked at and are on one side."""
        self.num_episodes = 0
        self.settled: dict[bytes, bool] = {}
        """By name whether it is held out, of those whose side a training has settled; filled before `add`."""
        self.dropped: frozenset[str] = frozenset()
        """Episodes that somebody has dropped in review; filled before `add`."""
        self.judged: set[str] = set()
        """Episodes whose outcome is a model's opinion alone, and is not to count; filled before `add`."""
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
            self.num_episodes += 1
            reason = self._sort(episode)
            if reason:
                self.left_out[reason] += 1
            if self._look is not None:
                self._look(episode, reason)

    def groups(self) -> list[tuple[str, ...]]:
        """Ids of episodes that are to be compared, group by group; each to be read and given to `compare`."""
        return self._comparisons.groups(self.left_out) if self._comparisons else []

    def compare(self, episodes: Sequence[Episode]) -> None:
        """Make the pairs of one group."""
        assert self._comparisons is not None
        origins = {episode.id: self._origin(episode) for episode in episodes}
        for pair, gap in self._comparisons.pairs(episodes, self.left_out):
            told = pair.metadata
            origin = both(origins[told.episode_id or ""], origins[told.rejected_episode_id or ""])
            if why := self._why_not_of_length(pair):
                self.left_out[why] += 1
            elif self.rules.pairs.max_pairs is None:
                self._take(pair, origin, (False, gap))
            else:
                self._mined.add(pair, gap, origin)

    def take_pairs(self) -> None:
        """Make candidates of the pairs of all groups that have the largest gaps."""
        for pair, gap, origin in self._mined.take(self.left_out):
            self._take(pair, origin, (False, gap))

    def texts(self) -> list[HeldText]:
        """What the candidates say, each version by itself, to be looked for among all that was ever held out."""
        keyed = self.rules.split.texts
        said = [keyed.text(*version) for row in self.candidates for version in row.versions]
        return sought(said, self.rules.similarity)

    def mark(self, are_held_out: Sequence[bool]) -> None:
        """Mark the candidates that say nearly what was ever held out, as told for each of `texts`."""
        told = iter(are_held_out)
        self.candidates = [
            row._replace(is_held_out=any(list(islice(told, len(row.versions)))))
            for row in self.candidates
        ]

    def _sort(self, episode: Episode) -> str | None:
        """Where the episode belongs; the reason when that is not the training file."""
        if not episode.may_teach:
            return MAY_NOT_TEACH
        split = self.rules.split
        side = split.side(episode, self.settled)
        if side == "both":
            return BOTH_SIDES
        for name in split.names(episode):
            # of a name that is new on both sides the held-out one counts, whichever is read first
            self.sides[name] = self.settled.get(
                name, side == "held out" or self.sides.get(name, False)
            )
        if side == "held out":
            return self._hold_out(episode)
        if episode.id in self.dropped:
            return DROPPED
        if episode.id in self.judged and not episode.demonstrations:
            return JUDGED
        return self._learn(episode) if self.shape == "sft" else self._weigh(episode)

    def _learn(self, episode: Episode) -> str | None:
        """Take it as a conversation to imitate."""
        known = is_known(episode.outcome)
        corrected = bool(episode.demonstrations)  # it may teach, whatever its outcome
        if not known and not corrected and self.rules.unlabelled != "train":
            return NO_OUTCOME
        reason = self._why_not_taught(episode)
        if reason and not corrected and self.selection == "successes":
            return reason
        data = self._converted(episode)
        if isinstance(data, LearnError):
            return _no_row(data)
        if data.metadata.demonstrated_by:
            reason = None
        elif corrected and (reason or not known) and self.selection == "successes":
            return reason or NO_OUTCOME
        worth = (data.metadata.demonstrated_by is not None, score(episode.outcome))
        if why := self._take(data, self._origin(episode), worth, is_taught=reason is None):
            return why
        if reason is None or self.selection == "blind":
            self.forks.update(forks_of(self.rules.learn_model, episode))
        return None

    def _weigh(self, episode: Episode) -> str | None:
        """Take it as good or bad answers, or to be compared."""
        assert self._comparisons is not None
        if not is_known(episode.outcome) and not episode.demonstrations:
            return NO_OUTCOME
        rows = self._comparisons.add(episode, pairs=self.shape == "preference")
        if isinstance(rows, str):
            return rows
        for row, worth in rows:
            if why := self._take(row, self._origin(episode), worth):
                self.left_out[why] += 1
        return None

    def _take(
        self,
        data: TrainingData,
        origin: Origin,
        worth: tuple[bool, float],
        *,
        is_taught: bool = True,
    ) -> str | None:
        """Make it a candidate; the reason when its length does not fit."""
        rules = self.rules
        if why := self._why_not_of_length(data):
            return why
        self.candidates.append(
            candidate(
                data,
                self.spool.add(data),
                origin,
                seed=rules.seed,
                is_taught=is_taught,
                worth=worth,
                sketched=self.is_sketched,
            )
        )
        return None

    def _why_not_of_length(self, data: TrainingData) -> str | None:
        rules = self.rules
        return why_not_of_length(
            data, min_chars=rules.min_chars, max_chars=rules.max_chars, max_turns=rules.max_turns
        )

    def _origin(self, episode: Episode) -> Origin:
        return origin_of(
            episode,
            names=self.rules.split.names(episode),
            skill_tag=self.rules.skill_tag,
            is_new=episode.id in self._fresh,
        )

    def _hold_out(self, episode: Episode) -> str:
        known = is_known(episode.outcome)
        data = self._held_out_row(episode)
        if isinstance(data, LearnError):
            return _no_row(data) if known or episode.demonstrations else NO_OUTCOME
        is_corrected = data.metadata.demonstrated_by is not None
        is_told = known and episode.id not in self.judged
        is_evidence = (is_told or is_corrected) and episode.id not in self.dropped
        names = self.rules.split.names(episode)
        self.held_out.append(
            # one that nobody has judged yet is evidence once somebody does: nothing like it is learned until then
            HeldRow(
                origin=self._origin(episode),
                is_settled=all(self.settled.get(name) for name in names),
                said=said(data),
                sketch=sketch(data) if self.is_sketched else None,
                evidence=(
                    HeldOut(
                        episode_id=episode.id,
                        group=episode.split_key,
                        is_success=is_corrected or is_success(episode.outcome),
                        slices=slices_of(episode),
                    ),
                    self.spool.add(data),
                )
                if is_evidence
                else None,
            )
        )
        if episode.id in self.dropped:
            return DROPPED
        return HELD_OUT if is_evidence else JUDGED if known else NO_OUTCOME

    def _held_out_row(self, episode: Episode) -> ChatExample | TrainingData | LearnError:
        if self._comparisons is not None and (row := self._comparisons.conversation(episode)):
            return row
        return self._converted(episode, counts=is_known(episode.outcome))

    def _why_not_taught(self, episode: Episode) -> str | None:
        match episode.outcome:
            case Success(earned):
                return LOW_SCORE if earned < self.rules.min_score else None
            case outcome:
                return NO_SUCCESS if is_known(outcome) else None

    def _converted(self, episode: Episode, *, counts: bool = True) -> TrainingData | LearnError:
        try:
            return convert(self.rules.learn_model, episode, available_actions=self._actions)
        except LearnError as error:
            if counts or episode.demonstrations:
                self.fault = self.fault or error
                self.num_faults += 1
            return error


def _no_row(error: LearnError) -> str:
    """Why an episode that could not be converted is left out, the same for all with that fault."""
    return f"{NO_ROW}: {error.reason}" if error.reason else NO_ROW
