"""A made task whose right answers are known, a tiny model that knows the form and not the answers, and runs on it.

An alert names a subject in one of several wordings. Each subject has three actions of its own; one of them is right.
The base model knows which actions belong to a subject and not which is right: it gives each of the three a third.
"""

import contextlib
import json
import logging
import math
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final, NamedTuple

ACTIONS: Final = {
    "disk": ("purge", "extend", "remount"),
    "memory": ("restart", "limit", "swap"),
    "network": ("reroute", "reset", "shape"),
    "queue": ("drain", "split", "pause"),
    "cache": ("flush", "warm", "shrink"),
    "certificate": ("rotate", "renew", "revoke"),
    "login": ("unlock", "throttle", "block"),
    "deploy": ("rollback", "retry", "freeze"),
    "backup": ("verify", "repeat", "prune"),
    "index": ("rebuild", "merge", "drop"),
}
SUBJECTS: Final = tuple(ACTIONS)
WORDINGS: Final = (
    "alert {n}: the {subject} is at {percent} percent",
    "service {n} says that its {subject} fails, {percent} errors",
    "ticket {n}: look at the {subject} of host {percent}",
    "{percent} users wait for the {subject} of service {n}",
)
SYSTEM: Final = {"role": "system", "content": "You operate services."}
_T_975: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's t for 95 % intervals, by the number of values."""

Row = dict[str, Any]


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float]) -> Interval:
    half = _T_975[len(values)] * stdev(values) / math.sqrt(len(values))
    return Interval(mean(values), mean(values) - half, mean(values) + half)


def prompt(subject: str, draw: random.Random) -> list[Row]:
    words = draw.choice(WORDINGS)
    text = words.format(subject=subject, n=draw.randrange(1000), percent=draw.randrange(100))
    return [SYSTEM, {"role": "user", "content": text}]


def reply(action: str) -> list[Row]:
    return [{"role": "assistant", "content": action}]


def right_answers(seed: int) -> dict[str, str]:
    """Which action is right for each subject."""
    draw = random.Random(f"answers {seed}")
    return {subject: draw.choice(actions) for subject, actions in ACTIONS.items()}


def conversations(answered: Sequence[tuple[list[Row], str]]) -> list[Row]:
    return [{"messages": turns + reply(action)} for turns, action in answered]


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No hub, no telemetry, one thread; call it before the worker is imported."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        TOKENIZERS_PARALLELISM="false",
    )
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_base(folder: Path, *, seed: int, steps: int = 150, hidden_size: int = 64) -> Path:
    """The tiny model that knows the form of replies, in Hugging Face's format."""
    from honed.domain.job import PretrainJob
    from honed.worker.pretrain import pretrain

    draw = random.Random(f"blind {seed}")
    subjects = [SUBJECTS[i % len(SUBJECTS)] for i in range(2000)]
    answered = [(prompt(subject, draw), draw.choice(ACTIONS[subject])) for subject in subjects]
    text = write(folder / "text.jsonl", conversations(answered))
    pretrain(
        PretrainJob(
            data_path=str(text),
            output_path=str(folder / "base"),
            result_path="",
            steps=steps,
            hidden_size=hidden_size,
            vocab_size=512,
            seed=seed,
            threads=1,
        ),
        lambda progress: None,
    )
    return folder / "base"


class Trained(NamedTuple):
    """One run: its adapter, and what the worker says of it."""

    adapter: Path
    result: Any


def train(base: Path, folder: Path, rows: Sequence[Row], *, seed: int, **settings: Any) -> Trained:
    """A run of the worker on these rows."""
    from honed.domain.job import TrainJob, TrainSettings
    from honed.worker.train import train as work

    start_path = settings.pop("start_path", None)
    values = {
        "r": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "learning_rate": 7e-4,
        "beta": 1.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "cosine",
        "validation_fraction": 0.0,
        "device": "cpu",
        "threads": 1,
        "seed": seed,
    }
    result = work(
        TrainJob(
            run_id=folder.name,
            model_id=folder.name,
            scenario="known",
            learn_model="chat",
            base_model=str(base),
            data_path=str(write(folder / "train.jsonl", rows)),
            held_out_path=None,
            incumbent_path=None,
            output_path=str(folder / folder.name),
            result_path="",
            start_path=start_path,
            settings=TrainSettings(**values | settings),
        ),
        lambda progress: None,
    )
    return Trained(folder / folder.name, result)


def log_probs(base: Path, adapter: Path | None, rows: Sequence[Row]) -> list[float]:
    """Of each row's last reply, whole, under an adapter, nats; None is the bare base."""
    import torch

    from honed.worker.adapted import AdaptedModel
    from honed.worker.base_model import load_tokenizer
    from honed.worker.batches import collate
    from honed.worker.examples import Example
    from honed.worker.rows import rows_of

    tokenizer = load_tokenizer(base)
    examples = [
        Example(row["messages"], None, frozenset([len(row["messages"]) - 1])) for row in rows
    ]
    asked = rows_of(examples, tokenizer, max_length=512)
    assert len(asked) == len(rows)
    batch = collate(asked, tokenizer.pad_token_id)
    labels = batch.pop("labels")[:, 1:]
    model = AdaptedModel(base, "cpu", {} if adapter is None else {"it": adapter})
    with model.using(None if adapter is None else "it") as adapted:
        logits = torch.log_softmax(adapted(**batch).logits[:, :-1].double(), dim=-1)
    chosen = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    found: list[float] = (chosen * (labels >= 0)).sum(1).tolist()
    return found
