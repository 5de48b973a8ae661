"""The probe on real servers where it is hardest: a quantised base, and no former server to ask."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from gguf import GGMLQuantizationType as Type
from structlog.testing import capture_logs

from honed import log
from honed.config import ServeSection
from honed.domain.fingerprint import FINGERPRINT_FILE
from honed.domain.serving import LaneStatus, SwitchOrder
from honed.errors import ProbeFailedError
from honed.gateway.gateway import Gateway
from tests.gguf_files import rewrite

pytestmark = pytest.mark.anyio

SECTION = ServeSection(ctx_size=256, parallel=2, threads=1)


@asynccontextmanager
async def opened(folder: Path, gguf: Path) -> AsyncIterator[Gateway]:
    """A gateway whose lane serves."""
    gateway = Gateway(SECTION, folder / "llama")
    async with gateway.open():
        await gateway.use_base("tiny", gguf)
        with anyio.fail_after(30):
            while not lane(gateway).is_serving:
                await anyio.sleep(0.01)
        yield gateway


def lane(gateway: Gateway) -> LaneStatus:
    return gateway.serving().scenarios["tiny"]


def order(adapter: Path, *, number: int) -> SwitchOrder:
    return SwitchOrder(model_id=f"tiny@{number}", adapter_path=str(adapter))


def mixed(adapters: tuple[Path, Path], folder: Path) -> Path:
    """The first adapter's files with the fingerprint of the second."""
    wrong = Path(shutil.copytree(adapters[0], folder / "wrong"))
    shutil.copy(adapters[1] / FINGERPRINT_FILE, wrong)
    return wrong


@pytest.mark.parametrize("matrices", [Type.F16, Type.Q8_0, Type.Q4_0], ids=lambda kind: kind.name)
async def test_adapter_is_proved_on_a_quantised_base(
    tiny_gguf: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path, matrices: Type
) -> None:
    """From base to adapter, from adapter to adapter, and back; another adapter is told from it."""
    gguf = rewrite(tiny_gguf, tmp_path / "base.gguf", matrices=matrices)
    async with opened(tmp_path, gguf) as gateway:
        with pytest.raises(ProbeFailedError, match="does not answer as tiny@9 should"):
            await gateway.switch("tiny", order(mixed(tiny_adapters, tmp_path), number=9))
        assert lane(gateway).model_id is None
        for number, adapter in enumerate(tiny_adapters, 1):
            await gateway.switch("tiny", order(adapter, number=number))
            assert lane(gateway).model_id == f"tiny@{number}"
        await gateway.switch("tiny", SwitchOrder(model_id=None))
        assert lane(gateway).model_id is None


@pytest.mark.parametrize("is_right", [True, False])
async def test_doubt_after_a_restart_is_told(
    tiny_gguf: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path, is_right: bool
) -> None:
    """No former server can be asked: what the worker measured stands in, and a server that answers
    otherwise is served with a warning, because its path and files are those that were proved.
    """
    adapter = Path(shutil.copytree(tiny_adapters[0], tmp_path / "tiny@1"))
    async with opened(tmp_path, tiny_gguf) as gateway:
        await gateway.switch("tiny", order(adapter, number=1))
    if not is_right:
        shutil.copy(tiny_adapters[1] / FINGERPRINT_FILE, adapter)
    with capture_logs() as logged:
        async with opened(tmp_path, tiny_gguf) as gateway:
            assert lane(gateway).model_id == "tiny@1"
    doubts = [each for each in logged if each["event"] == log.PROBE_UNSURE]
    assert bool(doubts) is not is_right
