"""What the losses of a finished run say of it."""

from typing import Final, Literal, NamedTuple

HIGH: Final = 1.0
GOOD: Final = 0.5

Level = Literal["good", "note", "warning"]


class Remark(NamedTuple):
    """One thing to say of a run."""

    level: Level
    text: str


def remarks(first: float | None, final: float | None) -> tuple[Remark, ...]:
    """Of the first and the last logged loss; a loss that has not fallen is `diverging`.

    Args:
        first: None when nothing was logged.
        final: the last logged loss.
    """
    if first is None or final is None:
        return ()
    found = []
    if final > first:
        found.append(
            Remark(
                "warning",
                f"diverging: the loss went from {first:.3f} to {final:.3f}; lower training.learning_rate to 1e-4 or "
                "5e-5, and check the data",
            )
        )
    if final > HIGH:
        found.append(
            Remark(
                "warning",
                f"the final loss {final:.3f} is over {HIGH:g}: train longer, or check the data",
            )
        )
    elif final < GOOD:
        found.append(Remark("good", f"the final loss {final:.3f} is under {GOOD:g}"))
    else:
        found.append(Remark("note", f"the final loss is {final:.3f}"))
    return tuple(found)
