"""What `honed health` says of a gateway that answers."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from honed.cli import health
from honed.listen import claim_unix_path, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("captured", "lines"),
    [
        ({"dropped": 0, "spooled": 5}, 1),
        ({"dropped": 3}, 2),
        ({"dropped": 3, "spool_failing": 1}, 3),
        ({}, 1),
    ],
    ids=["all is well", "dropped", "no room", "one from before"],
)
async def test_calls_that_are_lost_make_a_gateway_suspicious(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], captured: dict[str, int], lines: int
) -> None:
    """It answers all the same: a probe must not restart it for that."""

    async def told(request: object) -> JSONResponse:
        lane: dict[str, Any] = {"state": "active", "is_serving": True, "captured": captured}
        return JSONResponse({"protocol": 1, "address": None, "scenarios": {"tiny": lane}})

    path = tmp_path / "serve.sock"
    config = tmp_path / "honed.toml"
    config.write_text(f'scenario = "tiny"\ndata_dir = "{tmp_path}"\n[serve]\nsocket = "{path}"\n')
    app = Starlette(routes=[Route("/v1/serving", told)])
    async with serving(app, claim_unix_path(path), drain_s=1):
        arguments = ["gateway", "--config", str(config)]
        status = await anyio.to_thread.run_sync(health.main, arguments)
    said = capsys.readouterr().out.splitlines()
    assert status == 0
    assert said[0] == "gateway answers"
    assert len(said) == lines
    assert all(line.startswith("suspicious: ") for line in said[1:])
