"""Web pages cannot use the gateway; programs do not notice."""

from pathlib import Path

import pytest

from tests.unit.gateway.stub import answering, relaying

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
