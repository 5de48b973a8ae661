"""Keys that clients show: who gets in, and where keys end."""

from pathlib import Path

import anyio
import httpx
import pytest
from structlog.testing import capture_logs

from honed import log
from honed.config import Config
from honed.errors import ConfigError
from honed.gateway.keys import ApiKeys
from honed.gateway.refusal import Refused
from honed.serve import serve
from tests.unit.gateway.stub import CHAT, answering, relaying

pytestmark = pytest.mark.anyio

KEYS = ApiKeys(["sk-one", "sk-two"])
REFUSED = [
    {},
    {"authorization": "Bearer sk-three"},
    {"authorization": "Bearer"},
    {"authorization": "Bearer sk-one sk-two"},
    {"authorization": "Basic sk-one"},
    {"x-api-key": "sk-on"},
    {"x-api-key": "SK-ONE"},
    {"api-key": "sk-one"},
]


@pytest.mark.parametrize(
    "shown",
    [
        {"authorization": "Bearer sk-one"},
        {"authorization": "bearer sk-two"},
        {"x-api-key": "sk-two"},
        {"authorization": "Bearer other", "x-api-key": "sk-one"},
    ],
)
async def test_a_key_opens_and_goes_no_further(tmp_path: Path, shown: dict[str, str]) -> None:
    """As OpenAI's clients show it or as Anthropic's do; neither server nor event gets to see it."""
    async with relaying(answering(), tmp_path, keys=KEYS) as front:
        answer = await front.chat(headers=shown)
        [request] = front.upstream.requests
        call = await front.lane.captured.take()
    assert answer.status_code == 200
    assert not {"authorization", "x-api-key"} & {name for name, _ in request.headers}
    assert "sk-" not in repr(call)


@pytest.mark.parametrize("shown", REFUSED, ids=str)
async def test_without_a_key_nothing_but_the_health_is_told(
    tmp_path: Path, shown: dict[str, str]
) -> None:
    """401 in the caller's dialect, before the body is read."""
    async with relaying(answering(), tmp_path, keys=KEYS) as front:
        client = front.client
        chat = await client.post(CHAT, headers=shown, content=b"{")
        messages = await client.post("/v1/messages", headers=shown, json={})
        models = await client.get("/v1/models", headers=shown)
        health = await client.get("/health", headers=shown)
        assert front.upstream.requests == []
    assert [each.status_code for each in (chat, messages, models, health)] == [401, 401, 401, 200]
    assert chat.json()["error"]["code"] == "invalid_api_key"
    assert messages.json()["error"]["type"] == "authentication_error"
    assert chat.headers["connection"] == "close"


@pytest.mark.parametrize("name", ["key", "api_key", "x-api-key", "authorization"])
async def test_a_key_in_the_url_opens_nothing_and_is_told_to_nobody(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """URLs stand in the logs of proxies and in histories; neither the answer nor our log has it, nor a wrong one."""
    with capture_logs() as logged:
        async with relaying(answering(), tmp_path, keys=KEYS) as front:
            in_url = await front.client.post(CHAT, params={name: "sk-one"}, json={})
            wrong = await front.client.post(CHAT, headers={"x-api-key": "sk-wrong"}, json={})
            assert front.upstream.requests == []
    for answer in (in_url, wrong):
        assert answer.status_code == 401
        assert "sk-" not in answer.text
    assert "sk-" not in repr(logged) + caplog.text


async def test_where_nobody_is_asked_headers_pass(tmp_path: Path) -> None:
    """A server of the operator's own may want a key itself."""
    async with relaying(answering(), tmp_path) as front:
        await front.chat(headers={"authorization": "Bearer sk-one"})
        assert front.upstream.requests[0].header("authorization") == "Bearer sk-one"


def headers(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", key.encode())]


def test_keys_stand_in_a_file_or_a_secret_or_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that begins with # is a remark; nothing of a key is kept."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("HONED_API_KEYS", raising=False)
    assert ApiKeys.load(None) is None
    path = tmp_path / "keys"
    path.write_text("# of the swarm\nsk-one\n\n  sk-two sk-three\n")
    monkeypatch.setenv("HONED_API_KEYS", "sk-four sk-five")
    found = ApiKeys.load(path)
    assert found is not None
    for key in ("sk-one", "sk-two", "sk-three", "sk-four", "sk-five"):
        found.check(headers(key))
    assert "sk-" not in repr(vars(found))


@pytest.mark.parametrize("word", ["#", "alice", "old", "leaked"])
def test_no_word_of_a_remark_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Also of one that is indented or stands behind a key; a key may have the sign in its middle."""
    monkeypatch.delenv("HONED_API_KEYS", raising=False)
    path = tmp_path / "keys"
    path.write_text("sk-one  # alice\n  # old leaked\nsk#two\n")
    found = ApiKeys.load(path)
    assert found is not None
    for key in ("sk-one", "sk#two"):
        found.check(headers(key))
    with pytest.raises(Refused):
        found.check(headers(word))


@pytest.mark.parametrize("text", ["", "# sk-one\n", "  # sk-one\n", None])
def test_a_file_without_keys_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """Nobody could get in, or, worse, everybody."""
    monkeypatch.delenv("HONED_API_KEYS", raising=False)
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"serve\.api_keys"):
        ApiKeys.load(path)


async def test_a_key_is_not_needed_where_a_page_asks(tmp_path: Path) -> None:
    """A page of another place is refused for that, whatever it shows."""
    async with relaying(answering(), tmp_path, keys=KEYS) as front:
        shown = {"x-api-key": "sk-one", "origin": "https://evil.example"}
        answer: httpx.Response = await front.chat(headers=shown)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("host", "keys", "warnings"),
    [("0.0.0.0", None, 1), ("0.0.0.0", "sk-one", 0), ("127.0.0.1", None, 0)],
    ids=["open", "with keys", "loopback"],
)
async def test_an_address_that_is_open_to_a_network_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    keys: str | None,
    warnings: int,
) -> None:
    """Whoever reaches it may use it, where nobody is asked for a key."""
    monkeypatch.delenv("HONED_API_KEYS", raising=False)
    if keys is not None:
        monkeypatch.setenv("HONED_API_KEYS", keys)
    section = {"host": host, "port": 0, "socket": tmp_path / "serve.sock"}
    config = Config(scenario="tiny", data_dir=tmp_path, serve=section)
    stop = anyio.Event()
    with capture_logs() as logged:
        await serve(config, ready=stop.set, stop=stop)
    told = [line for line in logged if line["event"] == log.GATEWAY_OPEN]
    assert len(told) == warnings
    assert "sk-one" not in repr(logged)
