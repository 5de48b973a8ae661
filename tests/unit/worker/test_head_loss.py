"""The loss with logits only where a token counts is the model's own loss, gradients and all."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.families import FAMILIES, make_model

LENGTHS = (40, 31, 17)


def batch() -> dict[str, Any]:
    """Three rows of tokens, padded on the right; about a third of them count."""
    import torch

    ids = torch.tensor([[(7 * i * i + 3 * row) % 300 + 3 for i in range(40)] for row in range(3)])
    mask = torch.tensor([[int(i < length) for i in range(40)] for length in LENGTHS])
    counts = (torch.arange(40) % 10 > 6) & (mask == 1)
    return {
        "input_ids": torch.where(mask == 1, ids, 0),
        "attention_mask": mask,
        "labels": torch.where(counts, ids, -100),
    }


def adapted(folder: Path) -> Any:
    """The model in a folder with random LoRA around all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from honed.worker.base_model import load_model

    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(load_model(folder, "cpu"), settings)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def with_gradients(model: Any, loss: Any) -> tuple[float, dict[str, Any]]:
    model.zero_grad()
    loss.backward()
    gradients = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    return float(loss.detach()), gradients


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_the_models_own(name: str, tmp_path: Path) -> None:
    """In every family, with the scales and limits on its logits, both agree to 1e-5 of their size."""
    from honed.worker.head_loss import summed_loss

    model = adapted(make_model(FAMILIES[name], tmp_path / "base"))
    rows = batch()
    num_targets = int((rows["labels"][:, 1:] != -100).sum())
    expected, wanted = with_gradients(model, model(**rows).loss)
    ours = summed_loss(model, rows["input_ids"], rows["labels"]) / num_targets
    found, gradients = with_gradients(model, ours)
    assert found == pytest.approx(expected, rel=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())
    for weight, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert float((gradients[weight] - gradient).abs().max()) <= 1e-5 * max(scale, 1.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_computes_only_what_is_read(name: str, tmp_path: Path) -> None:
    """In every family its feed-forward part, and its attention's last matrix where it has one, see as many positions as
    are read; afterwards the model is as it was.
    """
    import torch

    from honed.worker.base_model import load_model
    from honed.worker.head_loss import summed_loss

    model = load_model(make_model(FAMILIES[name], tmp_path / "base"), "cpu")
    rows = batch()
    num_read = int((rows["labels"][:, 1:] != -100).sum())
    seen: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, given, made, name=name: seen.update(
                {name: made.numel() // made.shape[-1]}
            )
        )
        for name, module in model.base_model.layers[-1].named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    summed_loss(model, rows["input_ids"], rows["labels"])
    few = {name for name, count in seen.items() if count == num_read}
    expected = {name for name in seen if name.startswith(("mlp.", "feed_forward."))}
    assert len(expected) >= 2
    assert few == expected | {name for name in seen if name == "self_attn.o_proj"}
    with torch.no_grad():
        model(rows["input_ids"])
    assert set(seen.values()) == {rows["input_ids"].numel()}
    for hook in hooks:
        hook.remove()


def test_tiles_change_nothing(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of a few logits gives the loss and the gradients of one that holds all."""
    import torch

    from honed.worker import head_loss

    model = adapted(tiny_base)
    rows = batch()
    whole, wanted = with_gradients(
        model, head_loss.summed_loss(model, rows["input_ids"], rows["labels"])
    )
    monkeypatch.setattr(head_loss, "TILE", 3 * model.config.vocab_size)
    parts, gradients = with_gradients(
        model, head_loss.summed_loss(model, rows["input_ids"], rows["labels"])
    )
    assert parts == pytest.approx(whole, rel=1e-6)
    for weight, gradient in wanted.items():
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-4, atol=1e-5)


def test_evaluation_needs_no_gradient(tiny_base: Path) -> None:
    """Under no_grad the loss is the same number, and nothing is kept for a way back."""
    import torch

    from honed.worker.head_loss import summed_loss

    model = adapted(tiny_base)
    rows = batch()
    trained = summed_loss(model, rows["input_ids"], rows["labels"])
    with torch.no_grad():
        evaluated = summed_loss(model, rows["input_ids"], rows["labels"])
    assert not evaluated.requires_grad
    assert float(evaluated) == float(trained.detach())
