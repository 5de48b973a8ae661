"""What decides where an episode belongs, and which rows of those that may teach are taken."""

from dataclasses import dataclass
from typing import Literal

from honed.domain.dataset import DataRules, Shape
from honed.domain.trained_model import Selection
from honed.learn_models import DpoConfig
from honed.learn_models.learn_model import LearnModel
from honed.training_sets.held_out import HeldOutSplit


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
    """`train` takes episodes without an outcome as successes; else they are left out until there is one."""
    seed: int
    """Of the draws and of the order of the rows."""
    judged: Literal["train", "exclude"] = "train"
    """`exclude` leaves out episodes whose outcome is a model's opinion alone."""
    max_episodes: int = 5_000
    """Newest episodes that a run looks at, held-out ones included."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """`drop` leaves out rows that say nearly what another row says; `keep` marks them."""
    similarity: float = 0.8
    """From which two rows say nearly the same."""
    min_chars: int = 0
    """Rows with fewer characters are left out, as those with more than `max_chars`; None: no limit."""
    max_chars: int | None = None
    max_turns: int | None = None
    """Rows with more turns are left out."""
    replay: float = 1.0
    """Largest share of rows from episodes that an earlier training has looked at, where there are new ones."""
    skill_tag: str = "skill"
    """The tag of an episode that says what it shows."""
    max_skill_share: float = 1.0
    """Largest share of the rows that one skill may have."""
    max_age_share: float = 1.0
    """Largest share that one class of age may have: under a day, then up to 2, 4, 8 days and so on."""
    pairs: DpoConfig = DpoConfig()  # noqa: RUF009  (frozen)

    def told(self, shape: Shape, selection: Selection) -> DataRules:
        """All of it, for the manifest."""
        same = {
            name: getattr(self, name)
            for name in DataRules.__struct_fields__
            if name in self.__dataclass_fields__ and name != "learn_model"
        }
        pairs = {}
        if shape == "preference":
            names = ("min_quality_gap", "max_pairs", "allow_reuse")
            pairs = {name: getattr(self.pairs, name) for name in names}
        return DataRules(
            learn_model=self.learn_model.name,
            shape=shape,
            selection=selection,
            held_out_fraction=self.split.fraction,
            **same,
            **pairs,
        )
