"""Chat templates by name, for base models that come without one, or with another than is wanted.

Each is the plain form of its family: system, user and assistant turns, no tools. What a model was tuned with is best
taken from the model itself: a named template that renders otherwise is told.
"""

from collections.abc import Sequence
from typing import Any, Final

from honed.domain.running import TemplateName

_TURNS: Final = "{% for message in messages %}"

TEMPLATES: Final[dict[TemplateName, str]] = {
    "chatml": _TURNS
    + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "zephyr": _TURNS
    + "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    "llama-3": "{{ bos_token }}"
    + _TURNS
    + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim "
    "+ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "gemma-3": "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') + message['content'] | trim "
    "+ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    "mistral": "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (first if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}",
}
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
