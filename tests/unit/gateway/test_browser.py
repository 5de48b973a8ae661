"""Web pages cannot use the gateway; programs do not notice."""

import asyncio
from pathlib import Path

import httpx
import pytest

from honed.gateway.keys import ApiKeys
from tests.unit.gateway.stub import CHAT, Request, answering, fronted, lane_to, relaying

pytestmark = pytest.mark.anyio

ALLOWS = "access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n"


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org:80",
        "http://localhost@example.org",
        "https://localhost",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_page_of_another_place_is_refused(tmp_path: Path, origin: str, method: str) -> None:
    """A page that the operator happens to look at neither asks nor learns what is served."""
    async with relaying(answering(headers=ALLOWS), tmp_path) as front:
        answer = await front.client.request(method, "/v1/models", headers={"origin": origin})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "foreign_origin"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert front.upstream.requests == []


@pytest.mark.parametrize(
    "origin", ["http://localhost", "http://localhost:3000", "http://127.0.0.1:80", "http://[::1]:1"]
)
async def test_page_of_this_machine_is_served(tmp_path: Path, origin: str) -> None:
    """Somebody's own user interface works, with llama-server's permission to read."""
    async with relaying(answering(headers=ALLOWS), tmp_path, host="127.0.0.1") as front:
        answer = await front.chat(headers={"origin": origin})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("server_says", [ALLOWS, ""], ids=["llama-server", "another"])
async def test_page_of_this_machine_reads_its_receipt(tmp_path: Path, server_says: str) -> None:
    """Whether or not the server that answers knows of pages."""
    async with relaying(answering(headers=server_says), tmp_path, host="127.0.0.1") as front:
        answer = await front.chat(headers={"origin": "http://localhost:3000"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in ("*", "http://localhost:3000")
        assert len(answer.headers.get_list("access-control-allow-origin")) == 1
        assert "x-honed-receipt" in answer.headers["access-control-expose-headers"]


async def test_program_gets_no_permissions_for_pages(tmp_path: Path) -> None:
    """Without an Origin nobody asked for them."""
    async with relaying(answering(headers=ALLOWS), tmp_path) as front:
        answer = await front.chat()
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""]
)
async def test_name_that_was_made_to_point_here_is_refused(tmp_path: Path, host: str) -> None:
    """After DNS rebinding the page's requests have no Origin, but its name as Host."""
    async with relaying(answering(), tmp_path, host="127.0.0.1") as front:
        answer = await front.chat(headers={"host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "foreign_host"
        assert front.upstream.requests == []


@pytest.mark.parametrize(
    ("listens_on", "host"),
    [
        ("127.0.0.1", "localhost:8080"),
        ("127.0.0.1", "LOCALHOST"),
        ("127.0.0.2", "127.0.0.2:8080"),
        ("::1", "[::1]:8080"),
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "models.example"),
        ("10.0.0.5", "models.example:80"),
    ],
)
async def test_own_names_are_served(tmp_path: Path, listens_on: str, host: str) -> None:
    """And every name where the gateway listens for others: a proxy or a name server chose it."""
    async with relaying(answering(), tmp_path, host=listens_on) as front:
        assert (await front.chat(headers={"host": host})).status_code == 200


PAGE = {"origin": "http://localhost:3000"}
ASKS = PAGE | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type, x-honed-task",
}
KEYS = ApiKeys(["sk-one"])


@pytest.mark.parametrize("keys", [KEYS, None], ids=["keys", "no keys"])
@pytest.mark.parametrize("path", [CHAT, "/r/task/42/v1/chat/completions", "/v1/models"])
async def test_browser_may_ask_without_a_key_what_a_page_may_send(
    tmp_path: Path, keys: ApiKeys | None, path: str
) -> None:
    """A preflight carries no key; it is answered by the gateway, and what follows needs one."""
    async with relaying(answering(headers=ALLOWS), tmp_path, host="127.0.0.1", keys=keys) as front:
        answer = await front.client.options(path, headers=ASKS)
        assert (answer.status_code, answer.content) == (204, b"")
        allowed = {
            name.removeprefix("access-control-allow-"): value
            for name, value in answer.headers.items()
            if name.startswith("access-control-allow-")
        }
        assert allowed == {
            "origin": "http://localhost:3000",
            "methods": "POST",
            "headers": "authorization,content-type, x-honed-task",
        }
        assert answer.headers["vary"] == "origin"
        assert front.upstream.requests == []


@pytest.mark.parametrize(
    "asks",
    [
        {"access-control-request-method": "POST"},
        PAGE,
        PAGE | {"access-control-request-headers": "authorization"},
        {},
    ],
    ids=["no page", "no method", "headers alone", "nothing"],
)
async def test_what_is_no_preflight_needs_its_key(tmp_path: Path, asks: dict[str, str]) -> None:
    """OPTIONS as such opens nothing."""
    async with relaying(answering(), tmp_path, keys=KEYS) as front:
        assert (await front.client.options(CHAT, headers=asks)).status_code == 401
        assert front.upstream.requests == []


async def test_preflight_of_a_page_of_another_place_is_refused(tmp_path: Path) -> None:
    """As everything else that it asks, and so is one under a name that is not this machine's."""
    async with relaying(answering(), tmp_path, keys=KEYS, host="127.0.0.1") as front:
        for other in ({"origin": "https://example.org"}, {"host": "evil.example"}):
            answer = await front.client.options(CHAT, headers=ASKS | other)
            assert answer.status_code == 403
            assert "access-control-allow-methods" not in answer.headers


async def test_names_that_are_none_are_not_repeated(tmp_path: Path) -> None:
    """What is allowed are names of headers, and not what else somebody puts there."""
    asks = ASKS | {"access-control-request-headers": "a b\t<script>"}
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.options(CHAT, headers=asks)
        assert "access-control-allow-headers" not in answer.headers


async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
    """Before a byte of the answer."""


async def test_page_of_this_machine_reads_what_the_gateway_says_itself(tmp_path: Path) -> None:
    """Models, health and errors; else a browser shows its page a network error, and no reason."""
    shown = PAGE | {"authorization": "Bearer sk-one"}
    async with relaying(dies, tmp_path, keys=KEYS) as front:
        answers = [
            await front.client.get("/health", headers=PAGE),
            await front.client.get("/v1/models", headers=shown),
            await front.client.get("/v1/models/other", headers=shown),
            await front.chat(headers=PAGE),
            await front.chat(headers=shown),
        ]
    async with (
        fronted({"tiny": lane_to(None, tmp_path)}) as address,
        httpx.AsyncClient(base_url=str(address)) as client,
    ):
        answers.append(await client.post(CHAT, headers=PAGE, json={}))
    assert [each.status_code for each in answers] == [200, 200, 404, 401, 503, 503]
    allowed = {each.headers["access-control-allow-origin"] for each in answers}
    assert allowed == {"http://localhost:3000"}
