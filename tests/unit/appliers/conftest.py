"""Appliers over servers of the operator's own, as their documentation describes them."""

from datetime import timedelta
from pathlib import Path

import pytest

from honed.appliers import EndpointFile, RuntimeLoraApplier
from honed.own_servers import Server, Sglang, Vllm
from tests.own_servers import SCENARIO, SglangServer, VllmServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """Where adapters are published."""
    return tmp_path / "adapters"


def runtime_applier(
    fake: VllmServer | SglangServer,
    server: Server,
    folder: Path,
    *,
    adapters_at: Path | None = None,
    load_timeout_s: float = 60,
) -> RuntimeLoraApplier:
    """An applier for a server that loads adapters while it runs."""
    return RuntimeLoraApplier(
        server,
        Vllm() if isinstance(fake, VllmServer) else Sglang(),
        scenario=SCENARIO,
        endpoint=EndpointFile(folder / "endpoint.json"),
        adapters_dir=folder / "adapters",
        adapters_at=adapters_at,
        load_timeout=timedelta(seconds=load_timeout_s),
    )
