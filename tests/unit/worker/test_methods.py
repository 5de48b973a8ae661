"""Real DPO and KTO runs on a tiny model, and what decides between the methods."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.domain.job import Progress, TrainResult, TrainSettings
from tests.tiny_models import SUBJECTS
from tests.unit.worker.test_train import job, run

SETTINGS = TrainSettings(
    r=8,
    lora_alpha=16,
    num_train_epochs=3,
    gradient_accumulation_steps=1,
    learning_rate=5e-3,
    threads=1,
    logging_steps=2,
    device="cpu",
    validation_fraction=0.0,
)
GOOD, BAD = "restart", "scale"


def prompt(i: int) -> list[dict[str, str]]:
    subject = SUBJECTS[i % 8]
    return [
        {"role": "system", "content": "You operate services."},
        {"role": "user", "content": f"alert {i}: what is wrong?"},
        {"role": "assistant", "content": f"{subject}: inspect"},
        {"role": "user", "content": f"the {subject} is at {50 + i} percent"},
    ]


def answer(i: int, action: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f"{SUBJECTS[i % 8]}: {action}"}]


def pairs(count: int = 32) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt(i), "chosen": answer(i, GOOD), "rejected": answer(i, BAD)}
        for i in range(count)
    ]


def labelled(count: int = 32) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt(i),
            "completion": answer(i, BAD if i % 2 else GOOD),
            "label": i % 2 == 0,
        }
        for i in range(count)
    ]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(folder: Path, action: str) -> Path:
    """Held-out conversations in which the last reply, with that action, is what is scored."""
    rows = [
        {"messages": prompt(i) + answer(i, action), "trained_turns": [4]} for i in range(100, 108)
    ]
    return written(folder, rows, f"{action}.jsonl")


def trained(
    base: Path, folder: Path, rows: list[dict[str, Any]], settings: TrainSettings = SETTINGS
) -> tuple[TrainResult, list[Progress]]:
    folder.mkdir(exist_ok=True)
    return run(
        job(
            base,
            written(folder, rows),
            folder,
            settings=settings,
            held_out_path=str(answers(folder, GOOD)),
        )
    )


def gain(base: Path, folder: Path, action: str) -> float:
    """What an answer has gained over the base, nats per token."""
    from honed.domain.job import ScoreJob
    from honed.worker.scores import score

    scores = score(
        ScoreJob(
            base_model=str(base),
            held_out_path=str(answers(folder, action)),
            candidate_path=str(folder / "adapter"),
            incumbent_path=None,
            result_path="",
            device="cpu",
            threads=1,
        ),
        lambda progress: None,
    ).scores
    return sum(each.candidate - each.incumbent for each in scores) / len(scores)


@pytest.mark.feature("SE-112")
def test_pairs_are_learned_by_dpo(tiny_base: Path, tmp_path: Path) -> None:
    """The preference loss falls from log 2, margins rise, and the better answer gains on the worse one."""
    result, progress = trained(tiny_base, tmp_path / "run", pairs())
    assert result.method == "dpo"
    assert result.method_reason == "the data are 32 pairs of answers"
    logged = [line for line in progress if line.loss is not None]
    assert logged[0].loss == pytest.approx(0.6931, abs=0.05)
    assert logged[-1].loss is not None
    assert logged[-1].loss < 0.2
    assert logged[-1].reward_margin is not None
    assert logged[-1].reward_margin > 1
    assert logged[-1].reward_accuracy == 1.0
    assert result.metrics.extra["reward_accuracy"] == 1.0
    assert gain(tiny_base, tmp_path / "run", GOOD) > gain(tiny_base, tmp_path / "run", BAD) + 0.5
    manifest = json.loads((tmp_path / "run/adapter/manifest.json").read_text())
    assert manifest["method"] == "dpo"
    assert manifest["num_rows"] == 32


def test_labelled_answers_are_learned_by_kto(tiny_base: Path, tmp_path: Path) -> None:
    """Good answers gain on bad ones, though no two were ever compared under one prompt."""
    result, progress = trained(tiny_base, tmp_path / "run", labelled())
    assert result.method == "kto"
    logged = [line for line in progress if line.loss is not None]
    assert logged[0].loss == pytest.approx(0.5, abs=0.1)
    assert logged[-1].loss is not None
    assert logged[-1].loss < 0.35
    assert gain(tiny_base, tmp_path / "run", GOOD) > gain(tiny_base, tmp_path / "run", BAD) + 0.5
