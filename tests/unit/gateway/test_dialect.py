"""Errors of the gateway's own, in the form that the callers of each path read."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from honed.gateway.keys import ApiKeys
from honed.gateway.relay import NO_LIMITS, Limits
from tests.unit.gateway.stub import (
    STREAM_HEAD,
    Request,
    chunk,
    delta,
    fronted,
    lane_to,
    relaying,
    until_closed,
    upstream,
)

pytestmark = pytest.mark.anyio

OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/completion")


async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
    """Before a byte of the answer."""


async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
    """After the first event."""
    writer.write(STREAM_HEAD + chunk(delta(content="disk")))


@pytest.mark.parametrize("path", OPENAI)
async def test_openai_paths_have_openai_errors(tmp_path: Path, path: str) -> None:
    """An `error` object with message, type, param and code."""
    async with relaying(dies, tmp_path) as front:
        answer = await front.client.post(path, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "upstream_gone", None)
    assert error["message"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_anthropic_paths_have_anthropic_errors(tmp_path: Path, path: str) -> None:
    """`type: error` with a typed error inside; also where nothing is served at all."""
    async with relaying(dies, tmp_path) as front:
        in_flight = await front.client.post(path, json={})
        unreadable = await front.client.post(path, content=b"{")
        too_long = await front.client.post(path, content=b" " * (2 << 20))
    async with (
        fronted({"tiny": lane_to(None, tmp_path)}) as address,
        httpx.AsyncClient(base_url=str(address)) as client,
    ):
        not_served = await client.post(path, json={})
    for answer, status, kind in (
        (in_flight, 503, "overloaded_error"),
        (not_served, 503, "overloaded_error"),
        (unreadable, 400, "invalid_request_error"),
        (too_long, 413, "request_too_large"),
    ):
        said = answer.json()
        assert answer.status_code == status
        assert (said["type"], said["error"]["type"]) == ("error", kind)
        assert said["error"]["message"]
        assert ("retry-after" in answer.headers) == (status == 503)


def event_of(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Name and data of the second event of a stream."""
    _, event, rest = content.split(b"\n\n")
    assert rest == b""
    name, _, data = event.rpartition(b"data: ")
    return name, msgspec.json.decode(data)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", b""),
        ("/v1/completions", b""),
        ("/v1/responses", b"event: error\n"),
        ("/v1/messages", b"event: error\n"),
    ],
)
async def test_stream_that_breaks_says_so_in_its_dialect(
    tmp_path: Path, path: str, name: bytes
) -> None:
    """One more event, as this API's clients expect errors, then a clean end."""
    async with relaying(breaks, tmp_path) as front:
        answer = await front.client.post(path, json={})
    found, data = event_of(answer.content)
    assert found == name
    assert data["error"]["message"]
    if path == "/v1/messages":
        assert (data["type"], data["error"]["type"]) == ("error", "overloaded_error")
    else:
        assert data["error"]["code"] == "upstream_gone"
    if path == "/v1/responses":
        assert (data["type"], data["code"]) == ("error", "upstream_gone")


async def test_openai_client_raises_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    """The official client tells the caller; it does not take half for whole."""
    async with relaying(breaks, tmp_path) as front:
        client = openai.AsyncOpenAI(
            base_url=f"{front.address}/v1", api_key="none", max_retries=0, timeout=10
        )
        async with client:
            with pytest.raises(openai.APIError, match="before its answer was complete"):
                async for _ in await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
                ):
                    pass
            with pytest.raises(openai.APIError, match="before its answer was complete"):
                async for _ in await client.responses.create(model="tiny", input="hi", stream=True):
                    pass


async def test_openai_client_sees_a_server_error(tmp_path: Path) -> None:
    """A 503 that it would try again by itself, after what Retry-After says."""
    async with relaying(dies, tmp_path) as front:
        client = openai.AsyncOpenAI(base_url=f"{front.address}/v1", api_key="none", max_retries=0)
        async with client:
            with pytest.raises(openai.InternalServerError, match="before its answer was complete"):
                await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "hi"}]
                )


KEYS = ApiKeys(["sk-one"])
SHOWN = {"x-api-key": "sk-one"}


async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
    """No answer comes."""
    await until_closed(request)


@pytest.mark.parametrize(
    ("status", "headers", "content", "limits", "openai_code", "anthropic_type"),
    [
        (401, {}, b"{}", NO_LIMITS, "invalid_api_key", "authentication_error"),
        (403, {"origin": "http://e.org"}, b"{}", NO_LIMITS, "foreign_origin", "permission_error"),
        (404, SHOWN, b'{"model": "m"}', NO_LIMITS, "model_not_found", "not_found_error"),
        (400, SHOWN, b"{", NO_LIMITS, "invalid_json", "invalid_request_error"),
        (413, SHOWN, b" " * 2000, NO_LIMITS, "body_too_long", "request_too_large"),
        (
            415,
            SHOWN | {"content-encoding": "gzip"},
            b"",
            NO_LIMITS,
            "unsupported_encoding",
            "invalid_request_error",
        ),
        (429, SHOWN, b"{}", Limits(max_requests=0), "rate_limit_exceeded", "rate_limit_error"),
        (504, SHOWN, b'{"model": "tiny"}', Limits(first_byte_s=0.01), "timeout", "timeout_error"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_each_refusal_speaks_as_its_caller_reads(
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    content: bytes,
    limits: Limits,
    openai_code: str,
    anthropic_type: str,
) -> None:
    """Also where labels stand before the path."""
    async with upstream(silent) as seen:
        lanes = {name: lane_to(seen.address, tmp_path / name) for name in ("tiny", "other")}
        async with (
            fronted(lanes, max_body=1000, limits=limits, keys=KEYS) as address,
            httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        ):
            for labels in ("", "/r/task/42"):
                said = await client.post(
                    f"{labels}/v1/chat/completions", headers=headers, content=content
                )
                assert (said.status_code, said.json()["error"]["code"]) == (status, openai_code)
                said = await client.post(f"{labels}/v1/messages", headers=headers, content=content)
                assert said.status_code == status
                assert said.json()["type"] == "error"
                assert said.json()["error"]["type"] == anthropic_type
                assert ("retry-after" in said.headers) == (status == 429)


async def test_what_a_refusal_quotes_is_bounded(tmp_path: Path) -> None:
    """A client may send a name of megabytes."""
    lanes = {name: lane_to(None, tmp_path / name) for name in ("tiny", "other")}
    async with fronted(lanes) as address, httpx.AsyncClient(base_url=str(address)) as client:
        said = await client.post("/v1/chat/completions", json={"model": "m" * 100_000})
    assert said.status_code == 404
    assert len(said.content) < 1_200
