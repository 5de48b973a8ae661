"""What is said where a training set would hold too little."""

from collections import Counter

from honed.errors import EmptyDataError
from honed.training_sets.rules import Rules


def check_enough(
    num_rows: int, num_episodes: int, rules: Rules, left_out: Counter[str], advice: str
) -> None:
    """Raise EmptyDataError, with the reasons counted, for fewer than `min_rows` rows."""
    if num_episodes == 0:
        raise EmptyDataError(
            f"no episodes: scenario {rules.scenario} has none of learn model "
            f"{rules.learn_model.name}"
        )
    if num_rows >= rules.min_rows and num_rows > 0:
        return
    found = f"{num_rows} training rows" if num_rows else "no training rows"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    raise EmptyDataError(
        f"{found} in {num_episodes} episodes, expected at least {rules.min_rows}"
        + (f": {reasons}" if reasons else ""),
        advice=f"{advice}, or lower train.min_rows",
        left_out=dict(left_out),
    )
