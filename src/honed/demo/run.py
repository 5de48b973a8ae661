"""`honed demo`: the whole loop on real parts, told phase by phase.

A tiny base model is made that reads well and acts blindly. A swarm works with it through the gateway;
the daemon learns from the outcomes, judges, and swaps under load; the swarm is measured again on
fresh incidents. Then a control is trained on as many episodes without a look at their outcome, which
the gate must refuse. Nothing here trains, judges or serves: `honed run`, its worker and
`honed serve` do.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from honed import log
from honed.demo import phases, recipe, stage
from honed.demo.environment import World
from honed.demo.report import write_report
from honed.demo.result import DemoResult, gateway_figures, problems_of, verdict_of
from honed.demo.screen import Screen
from honed.demo.swap import swap_figures
from honed.errors import ConfigError


async def run_demo(
    folder: Path, *, seed: int = 1, control: bool = True, quiet: bool = False
) -> DemoResult:
    """Run the demo in `folder`, which must be new or empty; everything it makes stays there.

    Args:
        folder: for base model, data of the daemon, logs and report.
        seed: of world, base model, incidents and training.
        control: also train the control, which the gate must refuse.
        quiet: show nothing.

    Raises:
        ConfigError: the folder is in use.
        TrainingError: the base model could not be made.
        ControlError: daemon or gateway ended (the advice has the end of its log), or something did
            not happen in time.
    """
    folder = _claimed(folder)
    screen, world = Screen(quiet=quiet), World(seed)
    with _single_fault(), _own_log(folder / "demo.log"), screen.open():
        base = await phases.make_base(folder, world, screen)
        config_path = recipe.write_config(folder, base_model=base.path, seed=seed)
        async with contextlib.AsyncExitStack() as closing:
            with screen.phase("start daemon and gateway"):
                on = await closing.enter_async_context(stage.opened(config_path, world))
            screen.line(f"          daemon: {on.idle_mb:.0f} MiB resident before its first event")
            before = await phases.measure(on, "before", screen)
            collected = await phases.collect(on, screen)
            learned = await phases.learn(on, screen)
            after = await phases.measure(on, "after", screen)
            refused = await phases.train_control(on, screen) if control else None
            served_at_end: str | None = (await on.control.get("/v1/status"))["current_model"]
            gateway = gateway_figures(await on.lane())
            with screen.phase("stop daemon and gateway"):
                await closing.aclose()
        verdicts = tuple(verdict_of(run.model) for run in (learned, refused) if run)
        problems = problems_of(
            before=before,
            after=after,
            requests_failed=on.swarm.num_failed,
            gateway=gateway,
            verdicts=verdicts,
            served_at_end=served_at_end,
            daemon_idle_mb=on.idle_mb,
        )
        result = DemoResult(
            seed=seed,
            passed=not problems,
            problems=problems,
            chance_in_text=base.chance_in_text,
            before=before,
            after=after,
            collected=collected,
            requests=len(on.swarm.calls),
            requests_failed=on.swarm.num_failed,
            gateway=gateway,
            swap=swap_figures(learned.calls, learned.model["id"]),
            verdicts=verdicts,
            served_at_end=served_at_end,
            daemon_idle_mb=on.idle_mb,
            seconds=screen.seconds,
            total_s=screen.total_s,
            report_path=str(folder / "report.html"),
        )
        write_report(result, learned, refused)
        _show(result, on.swarm.errors, screen)
    return result


def _claimed(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be used: {error.strerror}") from error
    if not is_empty:
        raise ConfigError(
            f"folder {folder} is not empty", advice="choose another one, or remove it"
        )
    return folder


@contextlib.contextmanager
def _single_fault() -> Iterator[None]:
    """Raise the first fault of a group by itself: the others are its consequences."""
    try:
        yield
    except BaseExceptionGroup as group:
        fault: BaseException = group
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        raise fault from group


@contextlib.contextmanager
def _own_log(path: Path) -> Iterator[None]:
    """Send this process's log lines to a file: the screen tells the same in words."""
    with path.open("w", encoding="utf-8") as file:
        log.configure(stream=file)
        try:
            yield
        finally:
            log.configure()


def _show(result: DemoResult, errors: list[str], screen: Screen) -> None:
    screen.line()
    screen.line("resolved incidents, 95 % intervals      temperature 0.7        temperature 0")
    for name, measured in (("before (base model)", result.before), ("after", result.after)):
        screen.line(f"  {name:<30}  {measured.sampled!s:>22} {measured.greedy!s:>22}")
    swap = result.swap
    screen.line(
        f"requests: {result.requests}, failed: {result.requests_failed}; {swap.requests} of them while "
        f"training and swapping, p99 {swap.p99_before_ms:.0f} ms before the flip and "
        f"{swap.p99_after_ms:.0f} ms after, slowest near it {swap.slowest_near_flip_ms:.0f} ms"
    )
    for verdict in result.verdicts:
        kind = "control" if verdict.selection == "blind" else "adapter"
        screen.line(f"gate, {kind} {verdict.model_id}: {verdict.decision}: {verdict.reason}")
    gateway = result.gateway
    screen.line(
        f"gateway: {gateway.requests} requests, {gateway.failed} failed; "
        f"{gateway.captured} calls captured, {gateway.lost} lost"
    )
    screen.line(f"daemon: {result.daemon_idle_mb:.0f} MiB resident when idle")
    screen.line("seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in result.seconds.items()))
    for text in [*result.problems, *errors[:5]]:
        screen.line(f"PROBLEM: {text}")
    screen.line(f"{'passed' if result.passed else 'NOT PASSED'} in {result.total_s:.0f} s")
    screen.line(f"report: {result.report_path}")
