"""How far a judge agrees with what others say of the same episodes, beyond what chance would do.

Source of kappa: Cohen 1960, "A coefficient of agreement for nominal scales", Educational and Psychological
Measurement 20.
"""

from collections.abc import Iterable

from msgspec import Struct

from honed.ports import Opinion


class Agreement(Struct, frozen=True, kw_only=True):
    """The confusion counts of a judge against the others, over episodes that both have judged."""

    both_success: int = 0
    judge_alone: int = 0
    """The judge says success, the others failure."""
    others_alone: int = 0
    """The others say success, the judge failure."""
    both_failure: int = 0

    @property
    def num(self) -> int:
        """Episodes that both have judged."""
        return self.both_success + self.judge_alone + self.others_alone + self.both_failure

    @property
    def share(self) -> float | None:
        """The share of them on which they agree; None without any."""
        return (self.both_success + self.both_failure) / self.num if self.num else None

    @property
    def kappa(self) -> float | None:
        """1 is perfect, 0 what chance would give; None where chance alone would agree always."""
        if not self.num:
            return None
        judge = (self.both_success + self.judge_alone) / self.num
        others = (self.both_success + self.others_alone) / self.num
        chance = judge * others + (1 - judge) * (1 - others)
        if chance == 1:
            return None
        return ((self.share or 0.0) - chance) / (1 - chance)


def agreements(opinions: Iterable[Opinion]) -> dict[str, Agreement]:
    """The agreement of each judge, by its source."""
    counts: dict[str, dict[str, int]] = {}
    for opinion in opinions:
        match opinion.says, opinion.others_say:
            case True, True:
                name = "both_success"
            case True, False:
                name = "judge_alone"
            case False, True:
                name = "others_alone"
            case _:
                name = "both_failure"
        of_judge = counts.setdefault(opinion.source, {})
        of_judge[name] = of_judge.get(name, 0) + 1
    return {source: Agreement(**found) for source, found in sorted(counts.items())}
