"""The official clients of OpenAI and Anthropic, with nothing changed but their base URL: against real
llama-servers where these can say it, against scripted ones for what a tiny model does not.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.shared_params import ResponseFormatJSONSchema

from honed.gateway.keys import ApiKeys
from honed.gateway.relay import Limits
from tests.served import servers_of, serving
from tests.tiny_models import make_tiny_gguf, offline
from tests.unit.gateway.stub import (
    EVENTS,
    STREAM_HEAD,
    Front,
    Request,
    answering,
    chunk,
    delta,
    fronted,
    lane_to,
    relaying,
    until_closed,
    upstream,
)

TEMPLATES = Path(__file__).parents[2] / "templates"
pytestmark = pytest.mark.anyio

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "what is wrong?"}]
TOLD: list[MessageParam] = [{"role": "user", "content": "what is wrong?"}]
CHOICE: dict[str, Any] = {
    "type": "object",
    "properties": {"subject": {"type": "string", "enum": ["disk", "memory"]}},
    "required": ["subject"],
    "additionalProperties": False,
}
SCHEMA: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "choice", "strict": True, "schema": CHOICE},
}
LOOK: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "look", "description": "Look at it.", "parameters": CHOICE},
}
GREEDY = {"temperature": 0}
"""As Anthropic's client, which has no such parameter, says it."""
PLAIN = {"ignore_eos": True}
"""So that an answer is as long as it was asked to be."""


def to_openai(url: str, *, key: str = "none", **settings: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, **settings)


def to_anthropic(url: str, *, key: str = "none", **settings: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0, **settings)


def honed(event: Any) -> dict[str, Any]:
    """What the gateway says in an event of a stream."""
    return dict((event.model_extra or {}).get("honed") or {})


async def test_openai_client_is_served(tmp_path: Path, tiny_gguf: Path) -> None:
    """Chat, streamed or not, log-probabilities, a JSON schema, completions, responses, models; what the server cannot
    do is its own error."""
    async with (
        serving(tmp_path, tiny_gguf, ctx_size=512) as served,
        to_openai(served.address) as client,
    ):
        chat = client.chat.completions
        raw = await chat.with_raw_response.create(
            model="tiny", messages=ASKED, max_tokens=6, logprobs=True, top_logprobs=2, temperature=0
        )
        whole = raw.parse()
        assert raw.headers["x-honed-model"] == "base"
        assert whole.usage is not None
        assert whole.choices[0].logprobs is not None
        assert len(whole.choices[0].logprobs.content or []) == whole.usage.completion_tokens

        events = [
            event
            async for event in await chat.create(
                model="tiny",
                messages=ASKED,
                max_tokens=6,
                temperature=0,
                extra_body=PLAIN,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        assert events[-1].usage is not None
        assert events[-1].usage.completion_tokens == 6
        assert honed(events[-1])["model"] == "base"
        assert [event for event in events if honed(event)] == events[-2:]

        made = await chat.create(
            model="tiny",
            messages=ASKED,
            max_tokens=200,
            temperature=0,
            metadata={"honed_task": "t1", "mine": "2"},
            response_format=SCHEMA,
        )
        async with chat.stream(
            model="tiny", messages=ASKED, max_tokens=200, temperature=0, response_format=SCHEMA
        ) as stream:
            streamed = await stream.get_final_completion()
        for content in (made.choices[0].message.content, streamed.choices[0].message.content):
            assert msgspec.json.decode(content or "")["subject"] in ("disk", "memory")

        with_tools = await chat.create(
            model="tiny", messages=ASKED, max_tokens=4, temperature=0, tools=[LOOK]
        )
        assert with_tools.usage is not None
        assert with_tools.usage.prompt_tokens > whole.usage.prompt_tokens

        completed = await client.completions.create(
            model="tiny", prompt="disk", max_tokens=3, temperature=0, extra_body=PLAIN
        )
        assert completed.usage is not None
        assert completed.usage.completion_tokens == 3

        answered = await client.responses.create(
            model="tiny", input="hi", max_output_tokens=4, temperature=0
        )
        assert answered.status == "completed"
        kinds = {}
        async for each in await client.responses.create(
            model="tiny", input="hi", max_output_tokens=4, temperature=0, stream=True
        ):
            kinds[each.type] = honed(each)
        assert list(kinds)[-1] == "response.completed"
        assert kinds["response.completed"]["model"] == "base"

        assert [each.id async for each in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).owned_by == "honed"
        with pytest.raises(openai.NotFoundError, match="there are: tiny"):
            await client.models.retrieve("other")
        with pytest.raises(openai.InternalServerError, match="does not support embeddings"):
            await client.embeddings.create(model="tiny", input="hi")
        with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
            await chat.create(model="tiny", messages=[{"role": "user", "content": "disk " * 900}])


async def test_anthropic_client_is_served(tmp_path: Path, tiny_gguf: Path) -> None:
    """Messages, streamed or not, with tools, counted; labels in its base URL."""
    async with (
        serving(tmp_path, tiny_gguf) as served,
        to_anthropic(f"{served.address}/r/task/t1/agent/a") as client,
    ):
        raw = await client.messages.with_raw_response.create(
            model="tiny",
            messages=TOLD,
            max_tokens=6,
            extra_body=GREEDY,
            system="You operate services.",
        )
        whole = await raw.parse()
        assert raw.headers["x-honed-model"] == "base"
        assert whole.role == "assistant"
        assert whole.content[0].type == "text"

        events = [
            event
            async for event in await client.messages.create(
                model="tiny", messages=TOLD, max_tokens=6, extra_body=GREEDY, stream=True
            )
        ]
        kinds = [event.type for event in events]
        assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
        stamps = [honed(event) for event in events[-2:]]
        assert [each["model"] for each in stamps] == ["base", "base"]
        assert stamps[0]["receipt"] == stamps[1]["receipt"]

        async with client.messages.stream(
            model="tiny", messages=TOLD, max_tokens=6, extra_body=GREEDY
        ) as stream:
            said = "".join([text async for text in stream.text_stream])
            message = await stream.get_final_message()
        assert message.usage.output_tokens
        assert "".join(each.text for each in message.content if each.type == "text") == said

        tool: Any = {"name": "look", "description": "Look at it.", "input_schema": CHOICE}
        plain = await client.messages.count_tokens(model="tiny", messages=TOLD)
        tooled = await client.messages.count_tokens(model="tiny", messages=TOLD, tools=[tool])
        assert plain.input_tokens < tooled.input_tokens
        assert [each.id async for each in client.models.list()] == ["tiny"]
        with pytest.raises(anthropic.BadRequestError, match="exceeds the available context size"):
            await client.messages.create(
                model="tiny", messages=[{"role": "user", "content": "disk " * 900}], max_tokens=4
            )


async def test_clients_come_over_a_unix_socket_with_a_key(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served beside the address, the same keys are asked for, and it is gone with the gateway; the server knows
    none of them.
    """
    monkeypatch.setenv("HONED_API_KEYS", "sk-of-the-environment")
    path = tmp_path / "agents" / "gateway.sock"
    keys = tmp_path / "keys"
    keys.write_text("sk-mine\n")
    async with serving(tmp_path, tiny_gguf, http_socket=path, api_keys=keys) as served:
        assert path.stat().st_mode & 0o777 == 0o600
        [server] = servers_of(tmp_path)
        assert b"sk-of-" not in Path(f"/proc/{server}/environ").read_bytes()
        over_socket = httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)))
        for url, http_client in (("http://honed", over_socket), (served.address, None)):
            async with to_openai(url, key="sk-mine", http_client=http_client) as client:
                said = [
                    await client.chat.completions.create(
                        model="tiny", messages=ASKED, max_tokens=2, extra_body=PLAIN
                    )
                    for _ in range(2)
                ]
                assert [each.usage and each.usage.completion_tokens for each in said] == [2, 2]
                with pytest.raises(openai.AuthenticationError, match="asks for a key"):
                    await client.with_options(api_key="sk-other").models.list()
    assert not path.exists()


OPENING = "<tool_call>\n"
"""With which Qwen's template has a call begin; here a token of its own, so that it can be asked for."""


@pytest.fixture(scope="module")
def calling_gguf(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The tiny model with a template that knows tools, as GGUF, and the token that opens a call."""
    offline()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("calling")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens([OPENING])
    tokenizer.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(folder / "base")
    gguf = make_tiny_gguf(folder / "base", folder / "base.gguf")
    return gguf, tokenizer.convert_tokens_to_ids(OPENING)


async def test_openai_client_gets_the_tool_calls_of_a_real_server(
    tmp_path: Path, calling_gguf: tuple[Path, int]
) -> None:
    """Whole and streamed: the model is made to open a call, and llama-server's grammar leaves it no other way on."""
    gguf, opening = calling_gguf
    order: dict[str, Any] = {
        "model": "tiny",
        "messages": ASKED,
        "tools": [LOOK],
        "tool_choice": "required",
        "logit_bias": {str(opening): 100},
        "parallel_tool_calls": False,
        "stop": ["</tool_call>"],
        "max_tokens": 200,
        "temperature": 0,
    }
    async with (
        serving(tmp_path, gguf, ctx_size=1024) as served,
        to_openai(served.address) as client,
    ):
        whole = await client.chat.completions.create(**order)
        async with client.chat.completions.stream(**order) as stream:
            streamed = await stream.get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "look"
        assert msgspec.json.decode(call.function.arguments)["subject"] in ("disk", "memory")


def told(**fields: Any) -> bytes:
    """One event of a streamed chat completion, whole as llama-server makes it."""
    _, _, text = delta(**fields).partition(b"data: ")
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return chunk(b"data: " + msgspec.json.encode(whole | msgspec.json.decode(text)) + b"\n\n")


async def calls(request: Request, writer: asyncio.StreamWriter) -> None:
    """A streamed tool call."""
    function = {"name": "look", "arguments": ""}
    writer.write(STREAM_HEAD + told(role="assistant", content=None))
    writer.write(
        told(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": function}])
    )
    for part in ('{"subject"', ': "disk"}'):
        writer.write(told(tool_calls=[{"index": 0, "function": {"arguments": part}}]))
    writer.write(told(finish_reason="tool_calls") + chunk(EVENTS[-1]) + b"0\r\n\r\n")


async def test_openai_client_puts_streamed_tool_calls_together(tmp_path: Path) -> None:
    """The receipt in the last event does not disturb it."""
    async with relaying(calls, tmp_path) as front, to_openai(str(front.address)) as client:
        async with client.chat.completions.stream(
            model="tiny", messages=ASKED, tools=[LOOK]
        ) as stream:
            last = None
            async for event in stream:
                if event.type == "chunk":
                    last = event.chunk
            whole = await stream.get_final_completion()
        [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.arguments == '{"subject": "disk"}'
    assert honed(last)["model"] == "tiny@3"


HALF: list[dict[str, Any]] = [  # as llama-server answers when the first token is half a character
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "\U0001f600"},
    },
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize("first", [0, 3])
async def test_anthropic_client_takes_a_stream_that_begins_with_half_a_character(
    tmp_path: Path, first: int
) -> None:
    """The event that opens the answer is missing then; the gateway says it."""

    async def unopened(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for event in HALF[first:]:
            name = event["type"].encode()
            writer.write(chunk(b"event: %s\ndata: %s\n\n" % (name, msgspec.json.encode(event))))
        writer.write(b"0\r\n\r\n")

    async with (
        relaying(unopened, tmp_path) as front,
        to_anthropic(str(front.address)) as client,
        client.messages.stream(model="tiny", messages=TOLD, max_tokens=6) as stream,
    ):
        said = "".join([text async for text in stream.text_stream])
        message = await stream.get_final_message()
        raw = await front.client.post("/v1/messages", json={})
    assert raw.content.count(b"event: message_start\n") == 1
    assert said == ("" if first else "\U0001f600")
    assert (message.model, message.stop_reason) == ("tiny@3", "end_turn")
    assert message.usage.output_tokens == 2


@asynccontextmanager
async def generating(folder: Path) -> AsyncIterator[tuple[Front, asyncio.Event, asyncio.Event]]:
    """A server that begins to answer and never ends; whether it was asked, and whether it was told to stop."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        began.set()
        if b'"stream":true' in request.body:
            writer.write(STREAM_HEAD + chunk(EVENTS[1]))
        await until_closed(request)
        ended.set()

    async with relaying(endless, folder) as front:
        yield front, began, ended


async def test_a_stream_that_is_closed_ends_the_work(tmp_path: Path) -> None:
    """Either client, in the middle of an answer: the server sees it."""
    async with generating(tmp_path) as (front, _, ended):
        async with to_openai(str(front.address)) as client:
            stream = await client.chat.completions.create(model="tiny", messages=ASKED, stream=True)
            assert (await anext(aiter(stream))).choices[0].delta.content == "disk: "
            await stream.close()
            await asyncio.wait_for(ended.wait(), 20)
        assert front.lane.failed == 0
    async with generating(tmp_path) as (front, _, ended):
        async with to_anthropic(str(front.address)) as other:
            started = await other.messages.create(
                model="tiny", messages=TOLD, max_tokens=9, stream=True
            )
            await started.close()
            await asyncio.wait_for(ended.wait(), 20)
        assert front.lane.failed == 0


async def test_a_client_that_gives_up_ends_the_work(tmp_path: Path) -> None:
    """Its own time-out, before anything has come, or a task that is cancelled."""
    async with generating(tmp_path) as (front, began, ended):
        async with to_openai(str(front.address)) as client:
            for read_s in (0.2, 2.0, 20.0):  # a busy machine may need more than one
                patient = client.with_options(timeout=httpx2.Timeout(20, read=read_s))
                with pytest.raises(openai.APITimeoutError):
                    await patient.chat.completions.create(model="tiny", messages=ASKED)
                if began.is_set():
                    break
            await asyncio.wait_for(ended.wait(), 20)
        assert front.lane.failed == 0
    async with generating(tmp_path) as (front, began, ended):
        async with to_anthropic(str(front.address)) as other:
            asking = asyncio.create_task(
                other.messages.create(model="tiny", messages=TOLD, max_tokens=9)
            )
            await asyncio.wait_for(began.wait(), 20)
            asking.cancel()
            await asyncio.wait_for(ended.wait(), 20)
        assert front.lane.failed == 0


async def ask_openai(url: str, *, key: str = "none") -> openai.APIStatusError:
    """The error that OpenAI's client raises."""
    async with to_openai(url, key=key) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="other", messages=ASKED)
    return raised.value


async def ask_anthropic(url: str, *, key: str = "none") -> anthropic.APIStatusError:
    """The error that Anthropic's client raises."""
    async with to_anthropic(url, key=key) as client:
        with pytest.raises(anthropic.APIStatusError) as raised:
            await client.messages.create(model="other", messages=TOLD, max_tokens=9)
    return raised.value


async def test_refusals_are_the_clients_own_errors(tmp_path: Path) -> None:
    """Unknown models, too many requests, missing keys, impossible labels: by type and by message."""
    async with upstream(answering()) as seen:
        lanes = {name: lane_to(seen.address, tmp_path, scenario=name) for name in ("one", "two")}
        async with fronted(lanes) as address:
            for error in (await ask_openai(str(address)), await ask_anthropic(str(address))):
                assert isinstance(error, openai.NotFoundError | anthropic.NotFoundError)
                assert "'other'; there are: one, two" in str(error)
        async with fronted(lanes, limits=Limits(max_requests=0)) as address:
            for error in (await ask_openai(str(address)), await ask_anthropic(str(address))):
                assert isinstance(error, openai.RateLimitError | anthropic.RateLimitError)
                assert error.response.headers["retry-after"] == "1"
        async with fronted(lanes, keys=ApiKeys(["sk-mine"])) as address:
            for error in (await ask_openai(str(address)), await ask_anthropic(str(address))):
                assert isinstance(error, openai.AuthenticationError | anthropic.AuthenticationError)
                assert "asks for a key" in str(error)
            known = await ask_anthropic(str(address), key="sk-mine")
            assert isinstance(known, anthropic.NotFoundError)
        async with fronted(lanes) as address:
            url = f"{address}/r/purpose/eval"
            for error in (await ask_openai(url), await ask_anthropic(url)):
                assert isinstance(error, openai.BadRequestError | anthropic.BadRequestError)
                assert "expected work, evaluation or probe" in str(error)
        assert seen.requests == []


async def test_an_answer_out_of_time_is_not_asked_for_again(tmp_path: Path) -> None:
    """Both clients repeat a 5xx by themselves; what took too long once is not worth that."""
    asked = 0

    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await until_closed(request)

    async with relaying(never, tmp_path, limits=Limits(first_byte_s=0.2)) as front:
        url = str(front.address)
        async with to_openai(url) as client:
            with pytest.raises(openai.InternalServerError, match="has not begun within") as raised:
                await client.with_options(max_retries=2).chat.completions.create(
                    model="tiny", messages=ASKED
                )
        async with to_anthropic(url) as other:
            with pytest.raises(anthropic.InternalServerError, match="has not begun within"):
                await other.with_options(max_retries=2).messages.create(
                    model="tiny", messages=TOLD, max_tokens=9
                )
        assert front.lane.requests == 2
    assert raised.value.status_code == 504
    assert asked <= 2
