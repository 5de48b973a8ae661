"""Ten adapters in sequence on shifting tasks: what becomes of the first task, and of what nobody trained?

    python benchmarks/continual.py [--rounds 10] [--plot docs/continual.svg]

Each round brings a task of its own: a subject, and the action that is right for it. Three ways to train its
adapter:

    from the base, with replay      half of the rows are older tasks' (`train.replay = 0.5`), the default start
    from the adapter, with replay   the same rows, going on from the last round's adapter
    from the adapter, without       the new task's rows alone, going on from the last round's adapter

After each round: the loss on the first task's held-out prompts, and KL(adapter || base) on the frozen probe set. The
forgetting budget is a limit on the second; what the first way would have in service under it is told as well: a
candidate beyond it is refused, and the one before it serves on.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from curves import Curve, plot
from known_answers import (
    ACTIONS,
    SUBJECTS,
    Row,
    conversations,
    log_probs,
    make_base,
    prompt,
    quiet,
    train,
)

ROWS: Final = 48
"""Of each round."""
STEPS: Final = 40
RATE: Final = 1e-3
BUDGET: Final = 0.6
"""Nats per token on the probe set, about twice what the first adapter takes."""
SERVED: Final = "in service, from the base with replay, within the budget"


class Way(NamedTuple):
    name: str
    start: str
    replay: float


WAYS: Final = (
    Way("from the base, with replay", "base", 0.5),
    Way("from the adapter, with replay", "adapter", 0.5),
    Way("from the adapter, without replay", "adapter", 0.0),
)


class Round(NamedTuple):
    """After one round."""

    first: float
    """Loss on the first task's held-out prompts, nats per reply."""
    latest: float
    """The same on the round's own task."""
    kl: float
    """From the base on the probe set, nats per token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="write the curves as SVG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        seeds = [run(Path(scratch) / str(n), options.rounds, n) for n in range(options.seeds)]
    means: dict[str, list[Round]] = {}
    for way in (*(way.name for way in WAYS), SERVED):
        print(f"{way}: mean of {len(seeds)} seeds [least, most]")
        rounds = [[found[way][n] for found in seeds] for n in range(options.rounds)]
        means[way] = [Round(*(mean(values) for values in zip(*r, strict=True))) for r in rounds]
        for number, told in enumerate(rounds, 1):
            first, latest, kl = (spread(values) for values in zip(*told, strict=True))
            over = sum(each.kl > BUDGET for each in told)
            print(
                f"  {number:2d}  first task {first}  this task {latest}  KL {kl}  over budget {over}"
            )
    if options.plot:
        options.plot.write_text(plot(curves(means), x="round"))


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def curves(means: dict[str, list[Round]]) -> list[tuple[str, float | None, list[Curve]]]:
    first = [Curve(way, [each.first for each in rounds]) for way, rounds in means.items()]
    kl = [Curve(way, [each.kl for each in rounds]) for way, rounds in means.items()]
    return [
        ("loss on the first task, nats per reply", None, first),
        ("KL from the base on the probe set, nats per token", BUDGET, kl),
    ]


def run(folder: Path, num_rounds: int, seed: int) -> dict[str, list[Round]]:
    """The rounds by each way."""
    base = make_base(folder, seed=seed, hidden_size=64, steps=120)
    tasks = [task(number, seed) for number in range(num_rounds)]
    asked = [held_out(right, number, seed) for number, right in enumerate(tasks)]
    found: dict[str, list[Round]] = {}
    for way in WAYS:
        rounds = []
        last: Path | None = None
        for number in range(num_rounds):
            rows = rows_of_round(tasks, number, way.replay, seed)
            made = train(
                base,
                folder_of(folder, way) / f"it@{number + 1}",
                rows,
                seed=seed,
                max_steps=STEPS,
                learning_rate=RATE,
                start_from=way.start,
                start_path=str(last) if last and way.start == "adapter" else None,
            )
            last = made.adapter
            kl = made.result.metrics.probe_kl
            rounds.append(Round(loss(base, last, asked[0]), loss(base, last, asked[number]), kl))
        found[way.name] = rounds
        if way is WAYS[0]:
            found[SERVED] = in_service(base, rounds, folder_of(folder, way), asked)
    return found


def folder_of(folder: Path, way: Way) -> Path:
    return folder / f"{way.start}-{way.replay}"


def in_service(
    base: Path, rounds: list[Round], folder: Path, asked: list[list[Row]]
) -> list[Round]:
    """What serves after each round when candidates beyond the budget are refused."""
    served: list[Round] = []
    serving = None
    for number, candidate in enumerate(rounds):
        if candidate.kl <= BUDGET or serving is None:
            assert candidate.kl <= BUDGET, "the first adapter keeps to it"
            serving = number
            served.append(candidate)
        else:
            path = folder / f"it@{serving + 1}" / f"it@{serving + 1}"
            before = rounds[serving]
            served.append(Round(before.first, loss(base, path, asked[number]), before.kl))
    return served


def task(number: int, seed: int) -> tuple[str, str]:
    """The subject of a round, and what is right for it then."""
    draw = random.Random(f"task {number} {seed}")
    subject = SUBJECTS[number % len(SUBJECTS)]
    return subject, draw.choice(ACTIONS[subject])


def rows_of_round(tasks: list[tuple[str, str]], number: int, replay: float, seed: int) -> list[Row]:
    """Conversations of the round's task, and of older ones as far as they are replayed."""
    draw = random.Random(f"rows {number} {seed}")
    current = dict(tasks[: number + 1])  # a task that came again has its newest answer
    newest = tasks[number][0]
    older = [subject for subject in current if subject != newest]
    num_older = round(ROWS * replay) if older else 0
    subjects = [newest] * (ROWS - num_older) + [older[i % len(older)] for i in range(num_older)]
    draw.shuffle(subjects)
    return conversations([(prompt(s, draw), current[s]) for s in subjects])


def held_out(right: tuple[str, str], number: int, seed: int) -> list[Row]:
    draw = random.Random(f"held out {number} {seed}")
    subject, action = right
    return conversations([(prompt(subject, draw), action) for _ in range(8)])


def loss(base: Path, adapter: Path, rows: list[Row]) -> float:
    found = log_probs(base, adapter, rows)
    return -sum(found) / len(found)


if __name__ == "__main__":
    main()
