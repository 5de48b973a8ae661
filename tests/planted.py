"""A base model and adapters whose every token is known beforehand: each adapter says one letter for ever.

The residual stream of the base carries a constant in its first dimension, which no layer may write; an adapter adds
that constant, many times over, to the logit of its letter. So whose tokens an answer is made of can be read off it,
whatever was asked.
"""

from pathlib import Path

from tests.tiny_models import conversations, make_tiny_gguf, offline

LETTERS = "abcdefghijk"
_CONSTANT = 8.0
_STRENGTH = 6.0


class Planted:
    """A base as GGUF, and adapters of it of which each says one letter for ever; made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base, self.gguf = make_planted_base(folder)

    def adapters(self, count: int) -> list[Path]:
        """The first so many."""
        folders = [self._folder / f"tiny@{i}" for i in range(count)]
        return [
            folder if folder.exists() else make_planted_adapter(self._base, folder, letter)
            for folder, letter in zip(folders, LETTERS, strict=False)
        ]


def letter_of(version: str) -> str:
    """What `tiny@n` says; the base has no letter."""
    return "" if version == "base" else LETTERS[int(version.removeprefix("tiny@"))]


def make_planted_base(folder: Path) -> tuple[Path, Path]:
    """A base model in Hugging Face's form, and as GGUF."""
    offline()
    import torch
    from transformers import Qwen3ForCausalLM, set_seed
    from transformers.utils import logging

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    set_seed(0)
    tokenizer = make_tokenizer(
        [Example(row["messages"]) for row in conversations()], vocab_size=512
    )
    config = make_model(len(tokenizer), hidden_size=64, num_layers=2).config
    config.tie_word_embeddings = False
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = _CONSTANT
        model.lm_head.weight[:, 0] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
    base = folder / "base"
    save_base(model, tokenizer, base)
    return base, make_tiny_gguf(base, folder / "base.gguf")


def make_planted_adapter(base: Path, folder: Path, letter: str) -> Path:
    """An adapter of it in published form: whatever is asked, it answers `letter` again and again."""
    offline()
    import torch
    from peft import LoraConfig, get_peft_model

    from honed.worker.adapted import AdaptedModel
    from honed.worker.base_model import load_config, load_model, load_tokenizer
    from honed.worker.export import export_adapter
    from honed.worker.fingerprint import fingerprint_of, write_fingerprint

    tokenizer = load_tokenizer(base)
    [token] = tokenizer.encode(letter, add_special_tokens=False)
    lora = LoraConfig(task_type="CAUSAL_LM", r=1, lora_alpha=1, target_modules=["lm_head"])
    model = get_peft_model(load_model(base, "cpu"), lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_A." in name:
                weight.zero_()
                weight[0, 0] = 1
            elif ".lora_B." in name:
                weight.zero_()
                weight[token, 0] = _STRENGTH
    model.save_pretrained(folder, save_embedding_layers=True)
    export_adapter(folder, *load_config(base))
    adapted = AdaptedModel(base, "cpu", {"adapter": folder})
    write_fingerprint(folder, fingerprint_of(adapted, tokenizer, adapter="adapter"))
    return folder
