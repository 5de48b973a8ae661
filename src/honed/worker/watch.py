"""Watches a trainer: reports each logged step, and stops a run that has lost its numbers."""

import math
import time
from typing import Any

from transformers import TrainerCallback

from honed.domain.job import Progress
from honed.errors import TrainingError
from honed.worker.memory import rss_mb
from honed.worker.reporting import Report


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each logged step and stops a run whose loss or gradient is no number."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tokens = 0.0
        self._at = time.monotonic()
        self._step_began = 0.0
        self.losses: list[float] = []
        self.seconds_in_steps = 0.0
        """Of this process's optimizer steps, without what is logged, saved and evaluated between them."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The rows of a step are there."""
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The weights have moved."""
        self.seconds_in_steps += time.monotonic() - self._step_began

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Tell how long the run will be."""
        self._at = time.monotonic()
        self._report(
            Progress(phase="training", step=0, total_steps=state.max_steps, rss_mb=rss_mb())
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Report the step; raises TrainingError when loss or gradient is not finite."""
        if logs is None or "loss" not in logs:
            return
        loss, gradient = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise _no_number(
                f"the loss of step {state.global_step} is {loss} and its gradient norm {gradient}"
            )
        self.losses.append(loss)
        tokens, now = float(logs.get("num_tokens", 0.0)), time.monotonic()
        rate = (tokens - self._tokens) / max(now - self._at, 1e-6)
        self._tokens, self._at = tokens, now
        self._report(
            Progress(
                phase="training",
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                loss=loss,
                learning_rate=_maybe(logs, "learning_rate"),
                tokens_per_second=rate,
                rss_mb=rss_mb(),
                reward_margin=_maybe(logs, "rewards/margins"),
                reward_accuracy=_maybe(logs, "rewards/accuracies"),
            )
        )

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Report the loss on what is not learned from; raises TrainingError when it is not finite."""
        if metrics is None or "eval_loss" not in metrics:
            return
        loss = float(metrics["eval_loss"])
        if not math.isfinite(loss):
            raise _no_number(f"the validation loss after step {state.global_step} is {loss}")
        self._report(
            Progress(
                phase="training",
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                validation_loss=loss,
                rss_mb=rss_mb(),
            )
        )


class LogsTheEnd(TrainerCallback):  # type: ignore[misc]
    """Has the last step logged, whatever `logging_steps` is: a short run would tell no loss at all."""

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Ask for it."""
        if state.global_step >= state.max_steps:
            control.should_log = True


def _no_number(found: str) -> TrainingError:
    return TrainingError(
        f"{found}: expected finite numbers",
        advice="lower train.learning_rate to 1e-4 or 5e-5; check the base model",
    )


def _maybe(logs: dict[str, Any], name: str) -> float | None:
    return float(logs[name]) if name in logs else None
