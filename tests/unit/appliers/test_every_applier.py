"""What every Applier promises, whatever serves behind it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from honed.adapter_files import ADAPTER_WEIGHTS
from honed.appliers import EndpointFile, FolderApplier, NoApplier, OllamaApplier
from honed.errors import AdapterNotFoundError
from honed.ports import Applier
from tests.own_servers import SCENARIO, OllamaServer, SglangServer, VllmServer, published
from tests.unit.appliers.conftest import runtime_applier

pytestmark = pytest.mark.anyio

_OF_THE_OPERATOR = ("vllm", "sglang", "ollama", "folder")


@pytest.fixture(params=[*_OF_THE_OPERATOR, "none"])
async def applier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Applier]:
    async with AsyncExitStack() as opened:
        match request.param:
            case "vllm" | "sglang":
                fake = VllmServer() if request.param == "vllm" else SglangServer()
                server = await opened.enter_async_context(fake.open())
                yield runtime_applier(fake, server, tmp_path)
            case "ollama":
                ollama = OllamaServer()
                yield OllamaApplier(
                    await opened.enter_async_context(ollama.open()),
                    scenario=SCENARIO,
                    from_model=ollama.base,
                    endpoint=EndpointFile(tmp_path / "endpoint.json"),
                    load_timeout=timedelta(seconds=60),
                )
            case "folder":
                place = tmp_path / "served"
                yield FolderApplier(place, scenario=SCENARIO, hook_timeout=timedelta(seconds=60))
            case _:
                yield NoApplier()


@pytest.mark.feature("SE-118", "SE-122")
async def test_what_is_applied_is_current(applier: Applier, adapters: Path) -> None:
    """Forward, the same again, back, and to the bare base; nothing is in service at first."""
    one, two = published(adapters, 1), published(adapters, 2)
    assert await applier.current() is None
    await applier.apply(one, previous=None)
    assert await applier.current() == "airline@1"
    await applier.apply(one, previous=None)
    assert await applier.current() == "airline@1"
    await applier.apply(two, previous=one)
    assert await applier.current() == "airline@2"
    await applier.apply(one, previous=two)
    assert await applier.current() == "airline@1"
    await applier.apply(None, previous=one)
    assert await applier.current() is None


@pytest.mark.feature("SE-123")
@pytest.mark.parametrize("applier", _OF_THE_OPERATOR, indirect=True)
async def test_files_that_are_gone_or_changed_are_refused(applier: Applier, adapters: Path) -> None:
    """The server is told of nothing; what served before still does, and the error names the adapter."""
    one, two, three = (published(adapters, number) for number in (1, 2, 3))
    await applier.apply(one, previous=None)
    shutil.rmtree(two.adapter_path)
    with pytest.raises(AdapterNotFoundError, match=r"airline@2: its folder .* does not exist"):
        await applier.apply(two, previous=one)
    (Path(three.adapter_path) / ADAPTER_WEIGHTS).write_bytes(b"others")
    with pytest.raises(AdapterNotFoundError, match="airline@3 was changed after it was published"):
        await applier.apply(three, previous=one)
    assert await applier.current() == "airline@1"
