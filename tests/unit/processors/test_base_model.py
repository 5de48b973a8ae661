"""The base model as it is served: converted once, compared once, refused until one of the two changes."""

import os
import shutil
from pathlib import Path

import anyio
import pytest

from honed.domain.base_facts import read_facts
from honed.errors import ParityError, TrainingError
from honed.processors import BaseModel, ServedBase, ensure_base
from tests.tiny_models import make_tiny_base

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def stamps(*paths: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in paths]


async def test_base_is_converted_once(tiny_base: Path, tmp_path: Path) -> None:
    """Daemon and gateway ask at the same time: one converts, the other takes what it has made."""
    found: list[ServedBase] = []

    async def ask() -> None:
        found.append(await ensure_base(str(tiny_base), tmp_path))

    async with anyio.create_task_group() as both:
        both.start_soon(ask)
        both.start_soon(ask)
    first, second = found
    assert first == second
    assert first.facts is not None
    written = stamps(first.gguf, first.facts)
    assert await ensure_base(str(tiny_base), tmp_path) == first
    assert stamps(first.gguf, first.facts) == written
    assert {path.name for path in tmp_path.iterdir()} == {
        first.gguf.name,
        first.facts.name,
        ".base.lock",
    }
    facts = read_facts(first.facts)
    assert facts is not None
    assert facts.gguf.is_unchanged(first.gguf)
    assert facts.changed_file() is None


async def test_named_file_is_compared_once_for_each_content(
    base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """The operator's own file gets facts beside honed's; another content is looked at again."""
    named = Path(shutil.copy(tiny_gguf, tmp_path / "own.gguf"))
    served = await ensure_base(str(base), tmp_path / "llama", gguf=named)
    assert served.gguf == named
    assert served.facts is not None
    written = stamps(served.facts)
    await ensure_base(str(base), tmp_path / "llama", gguf=named)
    assert stamps(served.facts) == written
    os.utime(named, ns=(1, 1))
    await ensure_base(str(base), tmp_path / "llama", gguf=named)
    assert stamps(served.facts) != written


async def test_file_of_another_checkpoint_is_refused_until_one_changes(
    base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Whoever asks again is not answered by another comparison of the same two."""
    other = make_tiny_base(tmp_path / "other", seed=3)
    asked = BaseModel(str(other), tmp_path / "llama", gguf=tiny_gguf)
    with pytest.raises(ParityError, match=r"token_embd\.weight\[\d+, 0\]: expected") as first:
        await asked.ensure()
    assert "serve.base_model_path" in (first.value.advice or "")
    with pytest.raises(ParityError) as second:
        await asked.ensure()
    assert second.value is first.value
    shutil.rmtree(other)
    shutil.copytree(base, other)
    assert (await asked.ensure()).gguf == tiny_gguf


async def test_change_after_the_start_is_seen_before_training(base: Path, tmp_path: Path) -> None:
    """What the gateway serves is the model as it was: training on another would be for nothing."""
    asked = BaseModel(str(base), tmp_path / "llama")
    served = await asked.ensure()
    assert await asked.check_unchanged() == served.facts
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(
        config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    )
    with pytest.raises(ParityError, match="was changed since this process started"):
        await asked.check_unchanged()
    (base / "config.json").write_text(config)
    assert await asked.check_unchanged() == served.facts


async def test_named_file_that_cannot_be_compared_comes_without_facts(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """An interpreter without the training stack, or an architecture that honed does not know: it is served."""
    asked = BaseModel("/nowhere/base", tmp_path / "llama", gguf=tiny_gguf)
    assert await asked.ensure() == ServedBase(tiny_gguf, None)


async def test_named_file_that_is_not_there_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    """Nothing is converted instead of it."""
    with pytest.raises(TrainingError, match=r"serve\.base_model_path .*no\.gguf does not exist"):
        await ensure_base(str(tiny_base), tmp_path, gguf=tmp_path / "no.gguf")


async def test_file_alone_needs_no_worker(tiny_gguf: Path, tmp_path: Path) -> None:
    """Without base_model there is nothing to compare with; the interpreter has no training stack."""
    asked = BaseModel(None, tmp_path, gguf=tiny_gguf, python="/nowhere/python")
    assert await asked.ensure() == ServedBase(tiny_gguf, None)
