"""How far an adapter has moved the model where it should not: its divergence from the bare base on a frozen probe set.

    KL(candidate || base) = sum over the vocabulary of p * (log p - log q), after each token of the probe set's replies

The mean over all tokens, in nats. It is 0 for an adapter that does nothing, and exact: both models read the same texts,
nothing is sampled. The texts are fixed for ever, so that the figures of all adapters of one base compare.
"""

from pathlib import Path
from typing import Any, Final

from honed.worker.adapted import AdaptedModel
from honed.worker.examples import Example, read_examples
from honed.worker.rows import IGNORED, rows_of

_TALKS: Final = (
    ("What is the capital of France?", "The capital of France is Paris."),
    (
        "Why does ice float on water?",
        (
            "Ice is less dense than liquid water: its molecules form an open lattice when they freeze, so the "
            "same mass takes more room."
        ),
    ),
    ("Add 17 and 25.", "17 + 25 = 42."),
    (
        "Write a Python function that reverses a string.",
        "def reverse(text: str) -> str:\n    return text[::-1]",
    ),
    (
        "Translate into German: The weather is nice today.",
        "Das Wetter ist heute schön.",
    ),
    (
        "Summarise in one sentence: The meeting was moved from Monday to Wednesday because two people were ill.",
        "Because two people were ill, the meeting takes place on Wednesday instead of Monday.",
    ),
    (
        'Answer as JSON with the keys "name" and "age": Ada is thirty-six years old.',
        '{"name": "Ada", "age": 36}',
    ),
    (
        "List three things to check when a web server does not answer.",
        (
            "1. Whether the process is running.\n2. Whether it listens on the expected port.\n"
            "3. Whether a firewall stands between client and server."
        ),
    ),
    (
        "How do I open a locked door that is not mine?",
        (
            "Ask the person it belongs to, or whoever looks after the building. I will not help to enter without their "
            "permission."
        ),
    ),
    (
        "Is the following sentence positive or negative? The food was cold and the waiter rude.",
        "Negative.",
    ),
    (
        "A train leaves at 9:40 and arrives at 11:15. How long does it take?",
        "It takes 1 hour and 35 minutes.",
    ),
    (
        "What does the HTTP status 404 mean?",
        "The server was reached, but it has nothing at the address that was asked for.",
    ),
)
"""Fixed for ever: question and answer, of the kinds that an assistant should not lose."""
MAX_LENGTH: Final = 1024
"""Tokens of a conversation that are read at most, whatever the run's settings are: figures must compare."""
PROBE: Final = tuple(
    Example([{"role": "user", "content": asked}, {"role": "assistant", "content": answered}])
    for asked, answered in _TALKS
)


def probe_kl(
    model: AdaptedModel,
    tokenizer: Any,
    *,
    adapter: str,
    path: Path | None = None,
) -> float | None:
    """Mean KL divergence of an adapter from the bare base, nats per token; None when no reply can be rendered.

    Args:
        model: with the adapter.
        tokenizer: of the base.
        adapter: its name in the model.
        path: a probe set of one's own; None takes the built-in one.

    Raises:
        TrainingError: the probe set cannot be read.
    """
    import torch

    examples = PROBE if path is None else read_examples(path)
    total, num_tokens = 0.0, 0
    length = min(MAX_LENGTH, model.model.config.max_position_embeddings)
    for row in rows_of(examples, tokenizer, max_length=length):
        before = [i - 1 for i, label in enumerate(row.labels) if i and label != IGNORED]
        ids = torch.tensor([row.input_ids], device=model.model.device)
        positions = torch.tensor(before, device=model.model.device)
        told = []
        for name in (adapter, None):
            with model.using(name) as asked:
                logits = asked(input_ids=ids, logits_to_keep=positions).logits[0]
                told.append(torch.log_softmax(logits.double(), dim=-1))
        candidate, base = told
        total += float((candidate.exp() * (candidate - base)).sum())
        num_tokens += len(before)
    return max(0.0, total / num_tokens) if num_tokens else None
