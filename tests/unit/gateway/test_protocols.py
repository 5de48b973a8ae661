"""A real llama-server answers in four protocols, and each call is read as what was asked and said.

The proof: what was read, asked again as a chat, is the same prompt to the token, so that the server has
all of it in its cache, and gets the same answer.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from honed.config import ServeSection
from honed.domain.message import Message
from honed.gateway import llama_server
from honed.gateway.llama_server import ServerPlan
from honed.gateway.merge import Answered, Asked, UnreadableError, read_call
from tests.tiny_models import make_tiny_gguf

pytestmark = pytest.mark.anyio

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ANTHROPIC, RESPONSES = "/v1/messages", "/v1/responses"
SCHEMA = {
    "type": "object",
    "properties": {"state": {"type": "boolean"}},
    "required": ["state"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get", "description": "reads it", "parameters": SCHEMA}
TOOLS: dict[str, list[dict[str, Any]]] = {
    CHAT: [{"type": "function", "function": FUNCTION}],
    ANTHROPIC: [{"name": "get", "description": "reads it", "input_schema": SCHEMA}],
    RESPONSES: [{"type": "function", **FUNCTION}],
}
FORCED = {CHAT: "required", ANTHROPIC: {"type": "any"}, RESPONSES: "required"}
INPUT = {CHAT: "messages", ANTHROPIC: "messages", RESPONSES: "input"}
LIMIT = {CHAT: "max_tokens", ANTHROPIC: "max_tokens", RESPONSES: "max_output_tokens"}
QUESTION = {"role": "user", "content": "what is wrong?"}
TEMPLATES = Path(__file__).parents[2] / "templates"


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model with templates that know tools and reasoning."""
    from transformers import AutoTokenizer

    found = {}
    for name in ("qwen3", "qwq"):
        folder = tmp_path_factory.mktemp(name)
        base = Path(shutil.copytree(tiny_base, folder / "base"))
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
        tokenizer.save_pretrained(base)
        found[name] = make_tiny_gguf(base, folder / "base.gguf")
    return found


@asynccontextmanager
async def serving(gguf: Path, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    plan = ServerPlan(
        name="tiny-blue",
        alias="tiny",
        base_gguf=gguf,
        adapter_gguf=None,
        section=ServeSection(ctx_size=1024, parallel=1, threads=1),
        folder=folder,
    )
    server = await llama_server.start(plan)
    try:
        # llama-server closes a connection after a stream without saying so.
        limits = httpx.Limits(max_keepalive_connections=0)
        url = str(server.address)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            yield client
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop()


async def call(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> tuple[Asked, Answered, Answered]:
    """What was asked, and the same answer as it came whole and as it was streamed."""
    told = []
    for is_stream in (False, True):
        request = msgspec.json.encode({"temperature": 0, **body, "stream": is_stream})
        response = await client.post(path, content=request)
        assert response.status_code == 200, response.text
        told.append(read_call(path, request, response.content, is_stream=is_stream))
    (asked, whole), (asked_again, streamed) = told
    assert asked == asked_again
    return asked, whole, streamed


async def same_as_chat(client: httpx.AsyncClient, asked: Asked, whole: Answered) -> None:
    """What was read, sent as a chat, is the same prompt and has the same answer."""
    assert whole.completion_tokens is not None
    messages = msgspec.to_builtins(asked.messages)
    for tool_call in (each for message in messages for each in message.get("tool_calls", ())):
        tool_call["type"] = "function"
    body = {
        "messages": messages,
        "tools": asked.tools or [],
        "max_tokens": whole.completion_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    request = msgspec.json.encode(body)
    response = await client.post(CHAT, content=request)
    _, again = read_call(CHAT, request, response.content, is_stream=False)
    assert (again.prompt_tokens, again.message) == (whole.prompt_tokens, whole.message)
    assert again.prompt_tokens is not None
    cached = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == again.prompt_tokens - 1  # the last one is always computed


def without_id(answered: Answered) -> Answered:
    return msgspec.structs.replace(answered, id=None)


HISTORY: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "is it on?"}]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get", "arguments": '{"state":true}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "off"},
            QUESTION,
        ]
    },
    ANTHROPIC: {
        "system": [{"type": "text", "text": "be short"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "is it on?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "look first", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "get", "input": {"state": True}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": "off"}],
                    },
                    {"type": "text", "text": "what is wrong?"},
                ],
            },
        ],
    },
    RESPONSES: {
        "instructions": "be short",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "is it on?"}]},
            {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "look first"}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I look."}],
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "get",
                "arguments": '{"state":true}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "off"},
            QUESTION,
        ],
    },
}


async def test_conversations_are_read_as_the_model_was_asked(
    tmp_path: Path, made: dict[str, Path]
) -> None:
    """System prompt, tools, calls, results, in every protocol, streamed and whole."""
    async with serving(made["qwen3"], tmp_path) as client:
        for path, history in HISTORY.items():
            body = history | {"tools": TOOLS[path], LIMIT[path]: 5, "ignore_eos": True}
            asked, whole, streamed = await call(client, path, body)
            assert without_id(streamed) == without_id(whole)
            assert (whole.finish_reason, whole.completion_tokens) == ("length", 5)
            assert asked.messages is not None
            assert asked.tools is not None
            assert {message.role for message in asked.messages} >= {"system", "user", "tool"}
            await same_as_chat(client, asked, whole)


async def test_calls_of_tools_are_read(tmp_path: Path, made: dict[str, Path]) -> None:
    """The model's calls with their arguments; a turn that was opened for it is one turn."""
    opening = {"type": "message", "role": "assistant", "content": "<tool_call>\n"}
    async with serving(made["qwen3"], tmp_path) as client:
        for path in (CHAT, ANTHROPIC, RESPONSES):
            begun = [QUESTION, opening]
            body = {INPUT[path]: begun, "tools": TOOLS[path], LIMIT[path]: 40}
            asked, whole, streamed = await call(client, path, body | {"tool_choice": FORCED[path]})
            assert asked.messages == (Message(role="user", content="what is wrong?"),)
            for answered in (whole, streamed):
                assert answered.message.tool_calls, path
                assert {each.function.name for each in answered.message.tool_calls} == {"get"}
                assert all(each.id for each in answered.message.tool_calls)


async def test_reasoning_is_read(tmp_path: Path, made: dict[str, Path]) -> None:
    """What the model thought stands apart from what it said."""
    thinks = {"grammar": 'root ::= "ab" [a-c] "</think>" "cd" [x-z]'}
    async with serving(made["qwq"], tmp_path) as client:
        for path in (CHAT, ANTHROPIC, RESPONSES):
            body = {INPUT[path]: [QUESTION], LIMIT[path]: 30} | thinks
            _, whole, streamed = await call(client, path, body)
            assert without_id(streamed) == without_id(whole)
            assert whole.message.reasoning_content
            if path != ANTHROPIC:  # which knows no grammar
                assert whole.message.text.startswith("cd")
            assert whole.id


async def test_texts_are_read(tmp_path: Path, tiny_gguf: Path) -> None:
    """`/v1/completions` has a prompt and goes on with it; a prompt of tokens is no text."""
    async with serving(tiny_gguf, tmp_path) as client:
        body = {"prompt": "alert", "max_tokens": 4, "ignore_eos": True}
        asked, whole, streamed = await call(client, TEXT, body)
        assert without_id(streamed) == without_id(whole)
        assert (asked.prompt, asked.messages) == ("alert", None)
        assert whole.message.text
        assert (whole.finish_reason, whole.completion_tokens) == ("length", 4)
        with pytest.raises(UnreadableError, match="not one text"):
            await call(client, TEXT, body | {"prompt": [1, 2, 3]})


async def test_a_turn_that_was_opened_is_told_whole(tmp_path: Path, tiny_gguf: Path) -> None:
    """The model goes on with a last turn of the assistant's: what was sent of it is no turn of its own."""
    async with serving(tiny_gguf, tmp_path) as client:
        for path in (CHAT, ANTHROPIC, RESPONSES):
            opening = {"type": "message", "role": "assistant", "content": "disk: "}
            body = {INPUT[path]: [QUESTION, opening], LIMIT[path]: 3, "ignore_eos": True}
            asked, whole, streamed = await call(client, path, body)
            assert asked.messages == (Message(role="user", content="what is wrong?"),)
            assert whole.message.text.startswith("disk: ")
            assert whole.message.text != "disk: "
            assert streamed.message == whole.message


async def test_tokens_are_kept_when_they_were_asked_for(tmp_path: Path, tiny_gguf: Path) -> None:
    """With `logprobs`, ids and log-probabilities of all that was sampled; else none."""
    chat = {"messages": [QUESTION], "max_tokens": 3, "ignore_eos": True}
    text = {"prompt": "alert", "max_tokens": 3, "ignore_eos": True}
    async with serving(tiny_gguf, tmp_path) as client:
        for path, body, asks in ((CHAT, chat, {"logprobs": True}), (TEXT, text, {"logprobs": 1})):
            for answered in (await call(client, path, body))[1:]:
                assert (answered.token_ids, answered.logprobs) == (None, None)
            for answered in (await call(client, path, body | asks))[1:]:
                assert answered.token_ids is not None
                assert answered.logprobs is not None
                assert len(answered.token_ids) == len(answered.logprobs) == 3
                assert all(value < 0 for value in answered.logprobs)
                told = {"tokens": answered.token_ids}
                response = await client.post("/detokenize", json=told)
                assert response.json()["content"] == answered.message.text
        ended = chat | {"grammar": 'root ::= "disk"', "logprobs": True}
        del ended["ignore_eos"]
        _, whole, streamed = await call(client, CHAT, ended)
        assert whole.token_ids is not None
        assert streamed.token_ids == whole.token_ids[:-1]
