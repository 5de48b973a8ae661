"""The chat templates of the families: trained on as llama-server shows them, to the letter."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from honed.worker.base_model import load_tokenizer
from honed.worker.examples import Example
from honed.worker.renderings import renderings
from honed.worker.rows import IGNORED, prepare, tokenised
from honed.worker.served import ServedTemplate, UnservableError, served_tool
from tests.unit.worker.template_servers import (
    FAMILIES,
    TemplateServer,
    make_bases,
    template_servers,
)

Turn = dict[str, Any]
Conversation = tuple[list[Turn], list[dict[str, Any]] | None]


def call(id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "name": "book_flight",
            "description": "Books seats to Zürich.",
            "parameters": {
                "type": "object",
                "properties": {
                    "seats": {"type": "integer", "description": "How many."},
                    "price": {"type": "number", "minimum": 0.5, "maximum": 1000.0},
                    "to": {"type": "string", "enum": ["ZRH", "GVA"]},
                },
                "required": ["seats"],
            },
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "cancel", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "ping", "description": "Nothing."}},
]
SYSTEM: Final = {"role": "system", "content": 'You book flights.\nBe "brief" <now>.'}
DEVELOPER: Final = {"role": "developer", "content": "You book flights."}
ASKED: Final = {"role": "user", "content": "Two seats to Zürich, please?"}
AGAIN: Final = {"role": "user", "content": "  Tomorrow, it's urgent 🙂 \n"}
IN_PARTS: Final = {
    "role": "user",
    "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}],
}
REPLY: Final = {"role": "assistant", "content": "On which day?"}
PADDED: Final = {"role": "assistant", "content": " \n Padded reply. \n"}
THOUGHT: Final = {
    "role": "assistant",
    "content": "Tomorrow.",
    "reasoning_content": "The user wants\nseats.",
}
THOUGHT_IN_TEXT: Final = {
    "role": "assistant",
    "content": "<think>\nold thoughts\n</think>\n\nTomorrow.",
}
NUMBERS: Final = (
    '{"seats": 2, "to": "ZRH", "price": 3.0, "x": [1, 2.50, 1e-7, 1234567.5, null, true]}'
)
CALLED: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": [call("call00001", "book_flight", NUMBERS)],
}
THOUGHT_AND_CALLED: Final = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "I should book.",
    "tool_calls": [call("call00001", "book_flight", '{"seats":2}')],
}
RESULT: Final = {
    "role": "tool",
    "tool_call_id": "call00001",
    "name": "book_flight",
    "content": '{"booked": true}',
}
SAID_AND_CALLED: Final = {
    "role": "assistant",
    "content": "Then I cancel it.",
    "tool_calls": [call("call00002", "cancel", "{}")],
}
CANCELLED: Final = {"role": "tool", "tool_call_id": "call00002", "content": "done"}
TWO_CALLS: Final = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        call("call00003", "cancel", "{}"),
        call("call00004", "book_flight", {"seats": 1}),
    ],
}
TWO_RESULTS: Final = [
    {"role": "tool", "tool_call_id": "call00003", "content": "done"},
    {"role": "tool", "tool_call_id": "call00004", "content": "ok"},
]

PLAIN: Final[dict[str, Conversation]] = {
    "one turn": ([ASKED], None),
    "system": ([SYSTEM, ASKED], None),
    "developer": ([DEVELOPER, ASKED], None),
    "several turns": ([ASKED, REPLY, AGAIN], None),
    "system, several turns": ([SYSTEM, ASKED, REPLY, AGAIN, PADDED, ASKED], None),
    "parts": ([IN_PARTS], None),
    "system, parts": ([SYSTEM, IN_PARTS, REPLY, IN_PARTS], None),
    "tools": ([ASKED], TOOLS),
    "system, tools": ([SYSTEM, ASKED], TOOLS),
    "thoughts": ([ASKED, THOUGHT, AGAIN], None),
    "thoughts in the text": ([SYSTEM, ASKED, THOUGHT_IN_TEXT, AGAIN], None),
}
CALLS: Final[dict[str, Conversation]] = {
    "call": ([ASKED, CALLED, RESULT], TOOLS),
    "calls over several turns": (
        [SYSTEM, ASKED, CALLED, RESULT, REPLY, AGAIN, SAID_AND_CALLED, CANCELLED],
        TOOLS,
    ),
    "call answered": ([SYSTEM, ASKED, CALLED, RESULT, REPLY, AGAIN], TOOLS),
    "calls in a row": ([SYSTEM, ASKED, CALLED, RESULT, SAID_AND_CALLED, CANCELLED], TOOLS),
    "call without tools": ([ASKED, CALLED, RESULT], None),
    "thought and call": ([SYSTEM, ASKED, THOUGHT_AND_CALLED, RESULT], TOOLS),
}
TWO_AT_ONCE: Final[dict[str, Conversation]] = {
    "two calls": ([SYSTEM, ASKED, TWO_CALLS, *TWO_RESULTS], TOOLS)
}
CONVERSATIONS: Final = PLAIN | CALLS | TWO_AT_ONCE
ALTERNATING: Final = frozenset({"gemma-2", "gemma-3", "mistral-v1"})
"""Templates that refuse any turn but the user's and the assistant's in turns."""
ONE_CALL: Final = frozenset({"llama-3.1"})
"""Templates that refuse two calls in one turn."""


def refused(name: str) -> set[str]:
    """The conversations that a template refuses."""
    if name in ALTERNATING:
        return {*CALLS, *TWO_AT_ONCE}
    return set(TWO_AT_ONCE) if name in ONE_CALL else set()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bases(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def servers(
    bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, TemplateServer]]:
    with template_servers(bases, tmp_path_factory.mktemp("log") / "log") as found:
        yield found


@pytest.fixture(scope="module")
def tokenizers(bases: dict[str, Path]) -> dict[str, Any]:
    return {name: load_tokenizer(base) for name, base in bases.items()}


def ours(template: ServedTemplate, conversation: Conversation, prompt: bool) -> str | None:
    try:
        return template.render(*conversation, add_generation_prompt=prompt)
    except UnservableError:
        return None


@pytest.mark.parametrize("name", FAMILIES)
def test_text_is_the_servers(
    servers: dict[str, TemplateServer], tokenizers: dict[str, Any], name: str
) -> None:
    """What is trained on is what the server asks, letter by letter; what it refuses is refused."""
    template = ServedTemplate.of(tokenizers[name])
    not_rendered = set()
    for kind, conversation in CONVERSATIONS.items():
        for prompt in (True, False):
            served = servers[name].render(*conversation, prompt)
            assert ours(template, conversation, prompt) == served, kind
            if served is None:
                not_rendered.add(kind)
    assert not_rendered == refused(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_capabilities_are_those_that_the_server_finds(
    servers: dict[str, TemplateServer], tokenizers: dict[str, Any], name: str
) -> None:
    """What decides how a conversation is rewritten is found out alike."""
    found = servers[name].capabilities()
    for capability, value in ServedTemplate.of(tokenizers[name]).capabilities._asdict().items():
        assert value == found[f"supports_{capability}"], capability


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_renders_the_served_turns_alike(tokenizers: dict[str, Any], name: str) -> None:
    """Given turns and tools as the server hands them on, transformers writes the same text, but for
    numbers."""
    tokenizer = tokenizers[name]
    template = ServedTemplate.of(tokenizer)
    now = datetime.now().astimezone()
    whole = [tool for tool in TOOLS if "1000.0" not in str(tool)]
    for kind, (messages, tools) in CONVERSATIONS.items():
        if kind in refused(name) or CALLED in messages:
            continue
        tools = whole if tools else None
        for prompt in (True, False):
            text = template.render(
                messages, tools, add_generation_prompt=prompt, strftime=now.strftime
            )
            assert text == tokenizer.apply_chat_template(
                template.messages(messages),
                tools=[served_tool(tool) for tool in tools] if tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
                date_string=now.strftime("%d %b %Y"),
                enable_thinking=True,
            ), kind


@pytest.mark.parametrize("name", FAMILIES)
def test_each_reply_is_learned_after_the_prompt_that_the_server_asks(
    servers: dict[str, TemplateServer], tokenizers: dict[str, Any], name: str
) -> None:
    """Whatever a template does to past turns, the text before a reply is the one it is asked with."""
    template = ServedTemplate.of(tokenizers[name])
    talks = {**CONVERSATIONS, "a thought at the end": ([SYSTEM, ASKED, THOUGHT, AGAIN], None)}
    for kind, (messages, tools) in talks.items():
        example = Example([*messages, THOUGHT], tools)
        for rendering in renderings(example, template).texts:
            for span in rendering.spans:
                asked = servers[name].render(example.messages[: span.turn], tools, True)
                assert rendering.text[: span.start] == asked, (kind, span)


CHATML_CALL = '<tool_call>\n{"name": "book_flight", "arguments": {"seats": 2}}\n</tool_call>'
QWEN_THINKING = "<think>\nThe user wants\nseats.\n</think>\n\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"
MISTRAL_CALL = '{"name": "book_flight", "arguments": {"seats": 2}, "id": "call00001"}'
GLM_CALL = (
    "<tool_call>book_flight\n<arg_key>seats</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
)
LFM2_CALL = "<|tool_call_start|>[book_flight(seats=2)]<|tool_call_end|>"
NO_TOOLS: Final = None
LEARNED: Final[dict[str, tuple[str, str | None, str]]] = {
    "chatml": ("On which day?<|im_end|>", NO_TOOLS, "Tomorrow.<|im_end|>"),
    "gemma-2": ("On which day?<end_of_turn>", NO_TOOLS, "Tomorrow.<end_of_turn>"),
    "gemma-3": ("On which day?<end_of_turn>", NO_TOOLS, "Tomorrow.<end_of_turn>"),
    "glm-4.6": (
        "\n<think></think>\nOn which day?<|user|>",
        f"\n<think>I should book.</think>\n{GLM_CALL}<|observation|>",
        "\n<think>The user wants\nseats.</think>\nTomorrow.",
    ),
    "granite-3.3": ("On which day?<|end_of_text|>", NO_TOOLS, "Tomorrow.<|end_of_text|>"),
    "granite-4.0": (
        "On which day?<|end_of_text|>",
        f"{CHATML_CALL}<|end_of_text|>",
        "Tomorrow.<|end_of_text|>",
    ),
    "lfm2": (
        "On which day?<|im_end|>",
        f"<think>I should book.</think>{LFM2_CALL}<|im_end|>",
        "<think>The user wants\nseats.</think>Tomorrow.<|im_end|>",
    ),
    "llama-3": ("On which day?<|eot_id|>", NO_TOOLS, "Tomorrow.<|eot_id|>"),
    "llama-3.1": (
        "On which day?<|eot_id|>",
        '{"name": "book_flight", "parameters": {"seats": 2}}<|eot_id|>',
        "Tomorrow.<|eot_id|>",
    ),
    "mistral-nemo": ("On which day?</s>", f"[TOOL_CALLS][{MISTRAL_CALL}]</s>", "Tomorrow.</s>"),
    "mistral-small-3.2": (
        "On which day?</s>",
        '[TOOL_CALLS]book_flight[CALL_ID]call00001[ARGS]{"seats": 2}</s>',
        "Tomorrow.</s>",
    ),
    "mistral-v1": ("On which day?</s>", NO_TOOLS, "Tomorrow.</s>"),
    "mistral-v3": (
        " On which day?</s>",
        f"[TOOL_CALLS] [{MISTRAL_CALL}]</s>",
        " Tomorrow.</s>",
    ),
    "olmo-2": ("On which day?<|endoftext|>", NO_TOOLS, "Tomorrow.<|endoftext|>"),
    "phi-3": ("On which day?<|end|>", NO_TOOLS, "Tomorrow.<|end|>"),
    "phi-3.5": ("On which day?<|end|>", NO_TOOLS, "Tomorrow.<|end|>"),
    "prose": ("On which day?\n\n", NO_TOOLS, "Tomorrow.\n\n"),
    "qwen2.5": (
        "On which day?<|im_end|>",
        f"{CHATML_CALL}<|im_end|>",
        "Tomorrow.<|im_end|>",
    ),
    "qwen3": (
        f"{NO_THOUGHT}On which day?<|im_end|>",
        f"<think>\nI should book.\n</think>\n\n{CHATML_CALL}<|im_end|>",
        f"{QWEN_THINKING}Tomorrow.<|im_end|>",
    ),
    "smollm3": ("On which day?<|im_end|>", NO_TOOLS, "Tomorrow.<|im_end|>"),
}
"""What counts of REPLY, THOUGHT_AND_CALLED and THOUGHT: the reply with its end, and nothing else."""


def learned(messages: list[Turn], tools: Any, tokenizer: Any) -> list[str]:
    """The runs of tokens that count, in the order of their turns."""
    found = []
    template = ServedTemplate.of(tokenizer)
    for rendering in renderings(Example(messages, tools), template).texts:
        ids, labels = tokenised(rendering, tokenizer)
        runs: list[list[int]] = [[]]
        for token, label in zip(ids, labels, strict=True):
            if label == IGNORED:
                runs.append([])
            else:
                runs[-1].append(token)
        found += [tokenizer.decode(run) for run in runs if run]
    return found


@pytest.mark.parametrize("name", LEARNED)
def test_loss_covers_the_reply_and_its_end(tokenizers: dict[str, Any], name: str) -> None:
    """Of each turn, exactly what the model writes: thoughts, text, calls and the token that ends it."""
    said, called, thought = LEARNED[name]
    tokenizer = tokenizers[name]
    assert learned([SYSTEM, ASKED, REPLY, AGAIN, THOUGHT], None, tokenizer) == [said, thought]
    calling = [SYSTEM, ASKED, THOUGHT_AND_CALLED, RESULT, THOUGHT]
    if called is not NO_TOOLS:
        assert learned(calling, TOOLS, tokenizer) == [called, thought]


@pytest.mark.parametrize("name", [n for n in LEARNED if LEARNED[n][1] is NO_TOOLS])
def test_call_that_a_template_hides_is_not_learned(tokenizers: dict[str, Any], name: str) -> None:
    """Else the model would learn to answer with nothing."""
    calling = [ASKED, CALLED, RESULT, REPLY]
    prepared = prepare([Example(calling, TOOLS)], tokenizers[name], max_length=10_000)
    assert any("does not show the call of book_flight" in reason for reason in prepared.dropped)
    assert all("chat template knows tools" in advice or "rules" in advice
               for advice in prepared.advice.values())  # fmt: skip


def test_template_that_opens_a_thought_is_refused_with_advice(tokenizers: dict[str, Any]) -> None:
    """QwQ's prompt begins a thought that its finished replies do not show: nothing can be learned."""
    prepared = prepare([Example([ASKED, REPLY])], tokenizers["qwq"], max_length=10_000)
    assert prepared.rows == []
    ((reason, count),) = prepared.dropped.items()
    assert "<think>" in reason
    assert count > 0
    assert "thought" in prepared.advice[reason]


def test_text_that_a_template_hides_behind_a_call_is_not_learned(
    tokenizers: dict[str, Any],
) -> None:
    """Mistral's templates show a call without the words before it."""
    prepared = prepare(
        [Example([ASKED, SAID_AND_CALLED], TOOLS)], tokenizers["mistral-nemo"], max_length=10_000
    )
    assert prepared.rows == []
    assert list(prepared.dropped) == ["the chat template does not show the text of the reply"]


@pytest.mark.parametrize("name", ["mistral-v3", "mistral-nemo", "mistral-small-3.2"])
def test_ids_of_other_models_are_fitted(tokenizers: dict[str, Any], name: str) -> None:
    """Mistral's templates refuse OpenAI's ids: calls and results get ids of nine letters."""
    called = CALLED | {"tool_calls": [call("call_kKL2c0XjP8Qd", "cancel", "{}")]}
    result = RESULT | {"tool_call_id": "call_kKL2c0XjP8Qd"}
    template = ServedTemplate.of(tokenizers[name])
    found = renderings(Example([ASKED, called, result, REPLY], TOOLS), template)
    assert found.refused == {}
    ids = re.findall(r"(?:CALL_ID\]|id\": \"|TOOL_RESULTS\])(\w{9})\b", found.texts[-1].text)
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_arguments_that_are_no_json_are_refused(tokenizers: dict[str, Any]) -> None:
    """The server answers such a history with an error, so no later reply is learned after it."""
    broken = CALLED | {"tool_calls": [call("call00001", "book_flight", "{seats: 2")]}
    example = Example([ASKED, REPLY, AGAIN, broken, RESULT, REPLY], TOOLS)
    prepared = prepare([example], tokenizers["qwen2.5"], max_length=10_000)
    assert len(prepared.rows) == 1
    (reason,) = prepared.dropped
    assert "no JSON" in reason


def test_reply_after_a_reply_is_not_learned(
    servers: dict[str, TemplateServer], tokenizers: dict[str, Any]
) -> None:
    """The server would have gone on with the first one: it takes a last reply for a beginning."""
    asked = [ASKED, REPLY]
    assert (servers["chatml"].render(asked, None, True) or "").endswith("On which day?")
    found = renderings(Example([*asked, PADDED]), ServedTemplate.of(tokenizers["chatml"]))
    assert list(found.refused) == [2]


def test_image_is_refused(tokenizers: dict[str, Any]) -> None:
    """Only text is rendered."""
    shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    with pytest.raises(UnservableError, match="image_url"):
        ServedTemplate.of(tokenizers["gemma-3"]).render([shown], add_generation_prompt=True)


def test_generation_markers_leave_no_line_behind() -> None:
    """A marker on a line of its own takes its line break along, with and without its effect."""
    from honed.worker.template import without_generation_markers

    marked = "{% generation %}\n{{ 'a' }}\n{%- endgeneration -%}\n\nb\n"
    template = ServedTemplate(marked, bos_token="", eos_token="")
    assert template.render([], add_generation_prompt=False) == "ab"
    assert "generation" not in without_generation_markers(marked)
