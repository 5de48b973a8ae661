"""Whether a chat template that was chosen by name fits the base model.

What a model was tuned with is best taken from the model itself: a named template that renders otherwise is told.
"""

from collections.abc import Sequence
from typing import Any, Final

from honed.domain.chat_templates import TEMPLATES as TEMPLATES
from honed.domain.running import TemplateName

_MARKS: Final[dict[TemplateName, tuple[str, ...]]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "zephyr": (),
    "llama-3": ("<|start_header_id|>", "<|eot_id|>"),
    "gemma-3": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]"),
}
"""What must be one token to the model."""
_SAMPLE: Final = (
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
)


def mismatches(name: TemplateName, own: str | None, tokenizer: Any) -> Sequence[str]:
    """What speaks against a named template with this model, one sentence each.

    Args:
        name: of the template, which the tokenizer has by now.
        own: the model's own template; None when it came without one.
        tokenizer: the model's, with the named template.
    """
    found = []
    strange = [mark for mark in _MARKS[name] if len(_ids(tokenizer, mark)) != 1]
    if strange:
        found.append(
            f"chat_template {name} does not match the model: its tokenizer has no {' and no '.join(strange)}"
        )
    if own is not None and _shown(tokenizer, own) != _shown(tokenizer, TEMPLATES[name]):
        found.append(
            f"chat_template {name} does not match the model's own, which renders turns otherwise: leave "
            "dataset.chat_template out to train as the model was tuned"
        )
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _shown(tokenizer: Any, template: str) -> str | None:
    """The sample under a template; None where the template cannot render it."""
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            list(_SAMPLE), chat_template=template, tokenize=False
        )
    except (TemplateError, TypeError, ValueError):
        return None
    return text.strip()
