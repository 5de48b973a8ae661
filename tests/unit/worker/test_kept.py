"""A base model that stays in memory: copies share its weights and nothing else."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from honed.worker import kept
from tests.tiny_models import make_tiny_base


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test keeps is gone after it."""
    monkeypatch.setattr(kept, "_kept", None)


def digest(model: Any) -> str:
    total = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        total.update(name.encode() + values.numpy().tobytes())
    return total.hexdigest()


def test_a_copy_takes_no_memory_for_weights(tiny_base: Path) -> None:
    """Each of its weights is the kept one, tied ones still one; its modules are its own."""
    from honed.worker.base_model import load_model

    cold = load_model(tiny_base, "cpu")
    kept.keep(tiny_base)
    copied, other = load_model(tiny_base, "cpu"), load_model(tiny_base, "cpu")
    assert copied is not other
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert not copied.training
    for (name, weight), (_, same) in zip(
        copied.named_parameters(), other.named_parameters(), strict=True
    ):
        assert weight is same, name
    assert digest(copied) == digest(cold)


def test_training_on_a_copy_leaves_the_next_one_as_it_was(tiny_base: Path) -> None:
    """After LoRA was put around a copy and trained, the next copy has no adapter and the same weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from honed.worker.base_model import load_model

    kept.keep(tiny_base)
    first = load_model(tiny_base, "cpu")
    before, names = digest(first), [name for name, _ in first.named_modules()]
    adapted = get_peft_model(first, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    optimizer = torch.optim.SGD([w for w in adapted.parameters() if w.requires_grad], lr=0.1)
    ids = torch.arange(5, 25).unsqueeze(0)
    for _ in range(2):
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    again = load_model(tiny_base, "cpu")
    assert digest(again) == before
    assert [name for name, _ in again.named_modules()] == names


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    """Other weights under the same name are not taken for the kept ones."""
    from honed.worker.base_model import load_model

    base = make_tiny_base(tmp_path / "base", seed=0)
    other = make_tiny_base(tmp_path / "other", seed=1)
    expected = digest(load_model(other, "cpu"))
    kept.keep(base)
    base.rename(tmp_path / "away")
    other.rename(base)
    assert kept.copy_of_kept(base) is None
    assert digest(load_model(base, "cpu")) == expected
    kept.keep(base)
    assert digest(load_model(base, "cpu")) == expected
    assert kept.copy_of_kept(base) is not None
