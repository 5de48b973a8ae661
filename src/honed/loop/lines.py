"""The adapter lines of a scenario with several learn models: each has its own loop, and they train in turn."""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import anyio
from anyio.abc import TaskStatus

from honed.domain.run import LearningState
from honed.domain.trained_model import Selection
from honed.errors import ControlError
from honed.loop.approval import Approval
from honed.loop.trigger_loop import TriggerLoop
from honed.triggers.trigger import TrainTrigger, Verdict


class Lines:
    """Trigger loops side by side, one for each learn model; a single one is the usual case.

    What is asked without naming a learn model is asked of the first. Loops that share a lock (`turn` of
    `TriggerLoop`) train one after the other.
    """

    def __init__(self, loops: Sequence[TriggerLoop]) -> None:
        """At least one, the first being that of the scenario's main line."""
        self.loops = tuple(loops)

    def of(self, learn_model: str | None) -> TriggerLoop:
        """The loop of a learn model, None: the first.

        Raises:
            ControlError: there is none; the message lists those there are.
        """
        for loop in self.loops:
            if learn_model in (None, loop.learn_model):
                return loop
        known = ", ".join(loop.learn_model for loop in self.loops)
        raise ControlError(f"nothing learns by {learn_model!r} here: expected one of {known}")

    def approval(self, learn_model: str | None) -> Approval:
        """Where people look at what a learn model learns from, None: at that of the first.

        Raises:
            ControlError: there is no such learn model.
        """
        approval = self.of(learn_model).approval
        assert approval is not None, "the daemon gives each loop one"
        return approval

    @property
    def running_id(self) -> str | None:
        """The run in progress of any of them; None when there is none."""
        return next((loop.running_id for loop in self.loops if loop.running_id), None)

    def notify(self) -> None:
        """An episode was made: look now instead of at the next interval."""
        for loop in self.loops:
            loop.notify()

    def follow(self, trigger: TrainTrigger, *, check_interval: timedelta) -> None:
        """Judge by another rule from now on, each line by its own facts."""
        for loop in self.loops:
            loop.follow(trigger, check_interval=check_interval)

    async def beat(self) -> None:
        """Have every loop look, and return once it has; it hangs when one of them does."""
        for loop in self.loops:
            await loop.beat()

    def train_now(
        self,
        *,
        selection: Selection = "successes",
        against_base: bool = False,
        learn_model: str | None = None,
    ) -> str:
        """Start a run past the trigger and the back-off; returns its id.

        Raises:
            BusyError: a run of that line is in progress.
            ControlError: nothing can train, it would be for nothing, or there is no such learn model.
        """
        return self.of(learn_model).train_now(selection=selection, against_base=against_base)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Start no run while the body works on what runs read.

        Raises:
            ControlError: a run is in progress.
        """
        with contextlib.ExitStack() as holds:
            for loop in self.loops:
                holds.enter_context(loop.at_rest())
            yield

    @property
    def paused(self) -> list[str]:
        """The runs that wait until their rules allow them again."""
        return [loop.paused_id for loop in self.loops if loop.paused_id]

    @property
    def reviews(self) -> list[dict[str, Any]]:
        """What waits for a person, as `honed status --json` has it."""
        told = [loop.approval.told() for loop in self.loops if loop.approval]
        return [each for each in told if each is not None]

    def cancel(self) -> str | None:
        """Stop the run in progress; returns its id, None when nothing trains."""
        for loop in self.loops:
            if loop.is_training and (run_id := loop.cancel()):
                return run_id
        return next((run_id for loop in self.loops if (run_id := loop.cancel())), None)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Judge and train until cancelled; a cancelled run ends its worker before this returns."""
        async with anyio.create_task_group() as tasks:
            for loop in self.loops:
                await tasks.start(loop.run)
            task_status.started()

    async def verdict(self) -> Verdict:
        """What the first line's trigger says now; raises TriggerError."""
        return await self.loops[0].verdict()

    async def state(self) -> LearningState:
        """What the first line remembers between trainings; the others' first start is written down too."""
        states = [await loop.state() for loop in self.loops]
        return states[0]
