"""What base and adapter answer to a few fixed prompts, so that a server can be recognised by its
answers.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from honed.domain.fingerprint import FINGERPRINT_FILE, Fingerprint, FingerprintPrompt
from honed.worker.adapted import AdaptedModel
from honed.worker.files import write_file

PROMPTS: Final = (
    "What should be done next?",
    "The task failed. What went wrong, and what do you try now?",
    "List the tools that you would call, in order.",
    "Answer with one word: yes or no?",
)
"""Fixed for ever: the fingerprints of two adapters of one base line up only on the same prompts."""
WHOLE_VOCABULARY: Final = 4096
"""Up to this size every token is compared."""
LIKELIEST: Final = 256
"""Of a larger vocabulary, the tokens that the base model finds likeliest."""


def write_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Write `fingerprint.json` into the adapter's folder."""
    write_file(folder / FINGERPRINT_FILE, msgspec.json.encode(fingerprint))


def fingerprint_of(model: AdaptedModel, tokenizer: Any, *, adapter: str) -> Fingerprint:
    """The answers of the bare base and of one of the model's adapters."""
    prompts = tuple(_prompt(model, _prompt_ids(tokenizer, text), adapter) for text in PROMPTS)
    return Fingerprint(vocab_size=model.model.config.vocab_size, prompts=prompts)


def _prompt_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids


def _prompt(model: AdaptedModel, prompt_ids: list[int], adapter: str) -> FingerprintPrompt:
    base, adapted = (_log_probs(model, prompt_ids, name) for name in (None, adapter))
    vocab_size = len(base)
    if vocab_size <= WHOLE_VOCABULARY:
        token_ids = list(range(vocab_size))
    else:
        token_ids = sorted(range(vocab_size), key=base.__getitem__, reverse=True)[:LIKELIEST]
    return FingerprintPrompt(
        prompt_ids=tuple(prompt_ids),
        token_ids=tuple(token_ids),
        base=tuple(base[i] for i in token_ids),
        adapter=tuple(adapted[i] for i in token_ids),
    )


def _log_probs(model: AdaptedModel, prompt_ids: list[int], name: str | None) -> list[float]:
    import torch

    with model.using(name) as adapted:
        ids = torch.tensor([prompt_ids], device=adapted.device)
        logits = adapted(input_ids=ids, logits_to_keep=1).logits[0, -1]
        values: list[float] = torch.log_softmax(logits.double(), dim=-1).tolist()
    return values
