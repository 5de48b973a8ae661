"""The phases of the demo, in order; each shows how far it is and returns what it found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anyio
from msgspec import Struct

from honed.demo import recipe
from honed.demo.control import Event
from honed.demo.environment import World
from honed.demo.pretraining_text import conversations, count_right, write_conversations
from honed.demo.result import Measured, verdict_of
from honed.demo.screen import Phase, Screen
from honed.demo.stage import Stage
from honed.demo.statistics import Share, wilson
from honed.demo.swarm import Attempt, Call, Manner
from honed.domain.job import PretrainJob, Progress
from honed.errors import ControlError
from honed.processors import run_job

_TRIGGER_LIMIT_S: Final = 60.0
_TRAINING_LIMIT_S: Final = 600.0
_AFTER_SWAP_S: Final = 1.5
"""How long the load goes on after the swap, so that the report shows both sides of it."""


class Base(Struct, frozen=True):
    """The base model, and how blind its text is."""

    path: Path
    chance_in_text: Share


class Learned(Struct, frozen=True):
    """One training as the demo saw it."""

    model: dict[str, Any]
    """As the control API lists it."""
    events: Sequence[Event]
    """The daemon's, from the run's start to its end."""
    calls: Sequence[Call]
    """The swarm's requests meanwhile."""

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and loss, in order."""
        return [
            (event["step"], event["loss"])
            for event in self.events
            if event["type"] == "training.progress" and event.get("loss") is not None
        ]


async def make_base(folder: Path, world: World, screen: Screen) -> Base:
    """Write the blind text and have a worker make the base model from it."""
    with screen.phase("make a tiny base model") as phase:
        text = conversations(world.seed)
        text_path = folder / "text.jsonl"
        write_conversations(text_path, text)
        chance = wilson(*count_right(text, world))
        screen.line(f"          right changes in its text: {chance}; chance is 12.5 %")

        def show(progress: Progress) -> None:
            note = f"loss {progress.loss:.2f}" if progress.loss is not None else progress.phase
            phase.update(progress.step, progress.total_steps, note)

        job = PretrainJob(
            data_path=str(text_path),
            output_path=str(folder / "base"),
            result_path=str(folder / "base-job" / "result.json"),
            steps=recipe.PRETRAINING_STEPS,
            seed=world.seed,
        )
        await run_job(job, folder / "base-job", show)
    return Base(folder / "base", chance)


async def measure(on: Stage, when: str, screen: Screen) -> Measured:
    """Let the swarm work on fresh incidents, sampled and greedy; nothing of it is learned from."""
    with screen.phase(f"measure {when}") as phase:
        sampled = await _work(
            on, recipe.measuring(when, recipe.TEMPERATURE), recipe.NUM_JUDGED, phase
        )
        greedy = await _work(on, recipe.measuring(when, 0.0), recipe.NUM_JUDGED, phase)
    num_replies = sum(attempt.num_replies for attempt in sampled)
    measured = Measured(
        sampled=_solved(sampled),
        greedy=_solved(greedy),
        reading=wilson(
            sum(attempt.num_right_readings for attempt in sampled),
            sum(attempt.num_readings for attempt in sampled),
        ),
        invalid=wilson(sum(attempt.num_invalid for attempt in sampled), num_replies),
    )
    screen.line(f"          resolved: {measured.sampled}; at temperature 0: {measured.greedy}")
    screen.line(f"          causes named rightly: {measured.reading}")
    return measured


async def collect(on: Stage, screen: Screen) -> Share:
    """Let the swarm work and tell outcomes, until the trigger has what it counts."""
    with screen.phase(f"collect {recipe.EPISODES} episodes") as phase:
        attempts = await _work(on, recipe.COLLECTING, recipe.EPISODES, phase, learn_from_it=True)
    solved = _solved(attempts)
    screen.line(f"          resolved, with a fifth of the actions drawn: {solved}")
    return solved


async def learn(on: Stage, screen: Screen) -> Learned:
    """Wait for the trigger, the training, the verdict and the swap, under load."""
    with screen.phase("trigger, training, gate, swap, under load") as phase:
        learned = await _training(on, 0, phase, run_id=None)
    verdict = verdict_of(learned.model)
    screen.line(f"          {verdict.model_id}: {verdict.decision}: {verdict.reason}")
    return learned


async def train_control(on: Stage, screen: Screen) -> Learned:
    """Ask for a training that does not look at outcomes, judged against the bare base."""
    with screen.phase("train a control without outcomes") as phase:
        since = len(on.events.events)
        order = {"selection": "blind", "against": "base"}
        run_id: str = (await on.control.post("/v1/train-now", order))["run_id"]
        learned = await _training(on, since, phase, run_id=run_id)
    verdict = verdict_of(learned.model)
    screen.line(f"          {verdict.model_id}: {verdict.decision}: {verdict.reason}")
    return learned


async def _work(
    on: Stage, manner: Manner, count: int, phase: Phase, *, learn_from_it: bool = False
) -> list[Attempt]:
    attempts = solved = 0

    def show(attempt: Attempt) -> None:
        nonlocal attempts, solved
        attempts, solved = attempts + 1, solved + attempt.is_solved
        phase.update(attempts, count, f"{solved} resolved")

    tell = on.tell if learn_from_it else None
    return await on.swarm.work(manner, count, tell=tell, on_attempt=show)


def _solved(attempts: Sequence[Attempt]) -> Share:
    return wilson(sum(attempt.is_solved for attempt in attempts), len(attempts))


async def _training(on: Stage, since: int, phase: Phase, *, run_id: str | None) -> Learned:
    """Follow one run to its end, while two agents go on working."""
    first_call = len(on.swarm.calls)
    async with anyio.create_task_group() as load:
        load.start_soon(on.swarm.work, recipe.LOAD._replace(stream=f"load-{first_call}"), None)
        started = await _started(on, since, run_id)
        phase.update(None, None, f"started by {started['reason']}")
        ended = await on.events.first(
            lambda event: event["type"] in _ENDS and event["run_id"] == started["run_id"],
            since=on.events.events.index(started),
            limit_s=_TRAINING_LIMIT_S,
            check=on.check,
            on_event=lambda event: _show_progress(event, phase),
        )
        await anyio.sleep(_AFTER_SWAP_S)
        load.cancel_scope.cancel()
    if ended["type"] != "training.done":
        raise ControlError(f"run {ended['run_id']} ended as {ended['type']}: {ended['message']}")
    models = (await on.control.get("/v1/models"))["models"]
    model = next(model for model in models if model["id"] == ended["model_id"])
    events = on.events.events[on.events.events.index(started) :]
    return Learned(model, events, on.swarm.calls[first_call:])


async def _started(on: Stage, since: int, run_id: str | None) -> Event:
    """The event of the run's start; when it does not come, the error has the trigger's own words."""
    try:
        return await on.events.first(
            lambda event: event["type"] == "training.started" and run_id in (None, event["run_id"]),
            since=since,
            limit_s=_TRIGGER_LIMIT_S,
            check=on.check,
        )
    except ControlError as error:
        trigger = (await on.control.get("/v1/status"))["trigger"]
        error.add_note(f"the trigger says: {trigger['explain']}")
        raise


_ENDS: Final = ("training.done", "training.skipped", "training.failed", "training.cancelled")


def _show_progress(event: Event, phase: Phase) -> None:
    if event["type"] == "training.progress":
        loss = event.get("loss")
        note = event["phase"] if loss is None else f"{event['phase']}, loss {loss:.2f}"
        phase.update(event.get("step"), event.get("total_steps"), note)
    else:
        phase.update(None, None, event["type"])
