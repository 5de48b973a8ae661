"""The validation split: whole groups, the same for the same seed; the run ends when it no longer gains on it."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.errors import TrainingError
from honed.worker.rows import Row
from honed.worker.split import MIN_EXAMPLES, read_groups, split_rows
from tests.tiny_models import conversations
from tests.unit.worker.test_resume import SETTINGS, order, run


def rows(num: int) -> list[Row]:
    return [Row([1, 2], [-100, 2], number) for number in range(num)]


@given(
    groups=st.lists(st.integers(0, 12).map(str), min_size=0, max_size=90),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_no_group_is_on_both_sides(groups: list[str], fraction: float, seed: int) -> None:
    """Nothing is lost, nothing is on both sides, and no more is kept back than was asked for."""
    given_ = rows(len(groups))
    split = split_rows(given_, groups, fraction=fraction, seed=seed)
    assert sorted([*split.train, *split.validation], key=lambda row: row.example) == given_
    learned = {groups[row.example] for row in split.train}
    watched = {groups[row.example] for row in split.validation}
    assert not learned & watched
    assert len(split.validation) <= round(fraction * len(groups))
    assert learned or not groups
    again = split_rows(given_, groups, fraction=fraction, seed=seed)
    assert again == split


def test_few_conversations_are_all_learned_from() -> None:
    """One fewer than 20 keeps nothing back; 20 keep back two."""
    for num, kept in ((MIN_EXAMPLES - 1, 0), (MIN_EXAMPLES, 2)):
        groups = [str(number) for number in range(num)]
        assert len(split_rows(rows(num), groups, fraction=0.1, seed=1).validation) == kept


def test_groups_come_from_the_metadata(tmp_path: Path) -> None:
    """Without metadata, or without a group in them, each line is its own; those of another file are refused."""
    path = tmp_path / "chat.meta.jsonl"
    path.write_text('{"group": "a"}\n{}\n{"group": "a", "model": "m"}\n')
    assert read_groups(path, 3) == ["a", "line 1", "a"]
    assert read_groups(None, 2) == ["0", "1"]
    with pytest.raises(TrainingError, match="has 3 lines, expected 4"):
        read_groups(path, 4)


def test_the_best_weights_are_kept_and_the_run_ends_early(tiny_base: Path, tmp_path: Path) -> None:
    """A rate that ruins the model: the loss on what was not learned from rises, and the best epoch is what stays."""
    from safetensors.torch import load_file

    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in conversations(48)))
    settings = msgspec.structs.replace(
        SETTINGS,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        num_train_epochs=20,
        early_stopping_patience=2,
        save_steps=500,
    )
    result, progress = run(order(tiny_base, data, tmp_path, settings))
    extra, steps = result.metrics.extra, result.metrics.num_steps
    assert steps is not None
    epochs = steps // 10
    assert extra["num_evaluations"] == epochs < 20
    evaluated = {line.step: line.validation_loss for line in progress if line.validation_loss}
    assert list(evaluated) == [10 * (epoch + 1) for epoch in range(epochs)]
    assert min(evaluated.values()) == extra["best_validation_loss"]
    best = tmp_path / f"checkpoints/smaller-0/checkpoint-{10 * (epochs - 2)}"
    told = json.loads((best / "trainer_state.json").read_text())
    assert told["best_metric"] == extra["best_validation_loss"]
    kept = load_file(tmp_path / "adapter/adapter_model.safetensors")
    for name, weight in load_file(best / "adapter_model.safetensors").items():
        assert (kept[name] == weight).all()
