"""Do SFT, DPO and KTO raise the probability of the right answer, and does KTO learn from failures what SFT cannot?

    python benchmarks/methods.py [--seeds 5] [--folder FOLDER]

Each seed has its own base model, right answers, attempts and adapter. Every run has the same number of optimizer steps
of as many rows. What is measured is the probability of the whole right reply to prompts that no run has seen.
"""

import argparse
import math
import random
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from known_answers import (
    ACTIONS,
    SUBJECTS,
    Row,
    conversations,
    interval,
    log_probs,
    make_base,
    prompt,
    quiet,
    reply,
    right_answers,
    train,
)

STEPS: Final = 120
ATTEMPTS: Final = 30
"""Of each subject."""
NEVER: Final = SUBJECTS[::2]
"""Subjects of which, in the second experiment, only failures are on record."""


HALF: Final = ("KTO, half without a success", "SFT, half without a success")


class Attempt(NamedTuple):
    prompt: list[Row]
    subject: str
    action: str
    is_good: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, quiet():
        found: dict[str, list[float]] = {}
        for seed in range(options.seeds):
            for name, value in one_seed(seed, (options.folder or Path(scratch)) / str(seed)):
                found.setdefault(name, []).append(value)
    print(f"{options.seeds} seeds, mean [95 %]; each seed")
    kto, sft = (found[f"{name}: never a success"] for name in HALF)
    found["KTO minus SFT there"] = [a - b for a, b in zip(kto, sft, strict=True)]
    for name, values in found.items():
        print(f"| {name} | {interval(values)} | {', '.join(f'{v:.2f}' for v in values)} |")


def one_seed(seed: int, folder: Path) -> list[tuple[str, float]]:
    base = make_base(folder, seed=seed)
    right = right_answers(seed)
    draw = random.Random(f"attempts {seed}")
    all_tried = [attempt(s, right, ACTIONS[s], draw) for s in SUBJECTS for _ in range(ATTEMPTS)]
    some_failed = [
        attempt(s, right, [a for a in ACTIONS[s] if s not in NEVER or a != right[s]], draw)
        for s in SUBJECTS
        for _ in range(ATTEMPTS)
    ]
    asked = random.Random(f"held out {seed}")
    held_out = [(prompt(s, asked), s, right[s]) for s in SUBJECTS for _ in range(8)]
    runs: dict[str, list[Row]] = {
        "SFT on successes": successes(all_tried),
        "DPO on pairs": pairs(all_tried, right),
        "KTO on labelled attempts": labelled(all_tried),
        HALF[1]: successes(some_failed),
        HALF[0]: labelled(some_failed),
    }
    told = measured("base", base, None, held_out)
    for number, (name, rows) in enumerate(runs.items()):
        random.Random(seed).shuffle(rows)
        made = train(base, folder / f"run{number}", rows, seed=seed, max_steps=STEPS)
        assert made.result.method == name[:3].lower()
        told += measured(name, base, made.adapter, held_out)
    return told


def attempt(subject: str, right: dict[str, str], actions: Any, draw: random.Random) -> Attempt:
    action = draw.choice(actions)
    return Attempt(prompt(subject, draw), subject, action, action == right[subject])


def successes(attempts: list[Attempt]) -> list[Row]:
    return conversations([(a.prompt, a.action) for a in attempts if a.is_good])


def labelled(attempts: list[Attempt]) -> list[Row]:
    return [
        {"prompt": a.prompt, "completion": reply(a.action), "label": a.is_good} for a in attempts
    ]


def pairs(attempts: list[Attempt], right: dict[str, str]) -> list[Row]:
    """Each failed attempt beside what would have been right."""
    return [
        {
            "prompt": a.prompt,
            "chosen": reply(right[a.subject]),
            "rejected": reply(a.action),
        }
        for a in attempts
        if not a.is_good
    ]


def measured(
    name: str, base: Path, adapter: Path | None, held_out: list[tuple[list[Row], str, str]]
) -> list[tuple[str, float]]:
    """Mean probability of the right reply: of all subjects, and of those without a success."""
    rows = conversations([(turns, action) for turns, _, action in held_out])
    values = [math.exp(p) for p in log_probs(base, adapter, rows)]
    never = [v for v, (_, subject, _) in zip(values, held_out, strict=True) if subject in NEVER]
    return [
        (name, sum(values) / len(values)),
        (f"{name}: never a success", sum(never) / len(never)),
    ]


if __name__ == "__main__":
    main()
