"""Early stopping that knows, in a run that goes on, how many evaluations in vain lie behind it.

transformers restores no callback unless all are, and then with the wish to stop that the checkpoint of a stopped run
holds. The evaluations themselves are in every checkpoint, and what they come to can be counted.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from transformers import EarlyStoppingCallback, TrainerState

_STATE: Final = "trainer_state.json"


class Patience(EarlyStoppingCallback):  # type: ignore[misc]
    """Ends a run after so many evaluations without a better one, wherever it was cut off in between."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count those of the part before."""
        super().on_train_begin(args, state, control, **more)
        self.early_stopping_patience_counter = in_vain(state.log_history)


def in_vain(log_history: Iterable[Mapping[str, float]]) -> int:
    """Evaluations since the best one."""
    best, num = None, 0
    for loss in (line["eval_loss"] for line in log_history if "eval_loss" in line):
        if best is None or loss < best:
            best, num = loss, 0
        else:
            num += 1
    return num


def has_ended(checkpoint: Path, patience: int) -> Any | None:
    """The trainer's state in a checkpoint, if its evaluations have ended the run; None if it is to go on."""
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    return state if in_vain(state.log_history) >= patience else None
