"""The base model as it is served: converted once, compared once, refused until one of the two changes."""

import json
import os
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from honed.domain.base_facts import read_facts
from honed.errors import ParityError, ProcessFailedError, TrainingError
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


async def test_replaced_file_is_looked_at_again(
    base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Whoever named the wrong file, and puts the right one there, need not start anything again."""
    named = Path(shutil.copy(tiny_gguf, tmp_path / "own.gguf"))
    asked = BaseModel(str(base), tmp_path / "llama", gguf=named)
    served = await asked.ensure()
    named.write_bytes(b"no model")
    with pytest.raises(ParityError, match="cannot be read as GGUF"):
        await asked.check_unchanged()
    shutil.copy(tiny_gguf, named)
    assert await asked.check_unchanged() == served.facts


async def test_replaced_part_is_looked_at_again(tiny_base: Path, tmp_path: Path) -> None:
    """A file in parts is named by its first; the others count too."""
    named, other = (tmp_path / f"own-0000{i}-of-00002.gguf" for i in (1, 2))
    asked = BaseModel(str(tiny_base), tmp_path / "llama", gguf=named)
    refused = []
    named.write_bytes(b"no model")
    for content in (b"none", b"none", b"another"):
        if not other.exists() or other.read_bytes() != content:
            other.write_bytes(content)
        with pytest.raises(ParityError) as error:
            await asked.ensure()
        refused.append(error.value)
    assert refused[0] is refused[1]
    assert refused[1] is not refused[2]


async def test_facts_are_those_of_all_parts(tiny_base: Path, tmp_path: Path) -> None:
    """A later part that was replaced is compared anew, also by a process that starts now."""
    named, other = (tmp_path / f"own-0000{i}-of-00002.gguf" for i in (1, 2))
    named.write_bytes(b"one")
    places = []
    for content in (b"two", b"three"):
        other.write_bytes(content)
        asked = BaseModel(str(tiny_base), tmp_path / "llama", gguf=named)
        places.append(asked._places("key")[1])
    assert places[0] != places[1]


async def test_file_that_nothing_reads_changes_no_base(base: Path, tmp_path: Path) -> None:
    """A tool that leaves its own notes in the folder stops no training, and converts nothing anew."""
    asked = BaseModel(str(base), tmp_path / "llama")
    served = await asked.ensure()
    written = stamps(served.gguf)
    (base / "trainer_state.json").write_text("{}")
    assert await asked.check_unchanged() == served.facts
    assert await BaseModel(str(base), tmp_path / "llama").ensure() == served
    assert stamps(served.gguf) == written


def interpreter(path: Path, script: str) -> str:
    """Something to start workers with."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "script",
    [
        "kill -9 $$",
        f'PYTHONPATH="$(dirname "$0")/crash" exec {sys.executable} "$@"',
    ],
    ids=["killed", "a fault that nobody foresaw"],
)
async def test_named_file_is_not_served_when_the_worker_gave_no_verdict(
    base: Path, tiny_gguf: Path, tmp_path: Path, script: str
) -> None:
    """It may be another model: it is refused, not trained for, and compared as soon as a worker lives."""
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "gguf.py").write_text("raise RuntimeError('no such luck')\n")
    python = interpreter(tmp_path / "python", script)
    asked = BaseModel(str(base), tmp_path / "llama", gguf=tiny_gguf, python=python)
    with pytest.raises(ProcessFailedError):
        await asked.ensure()
    with pytest.raises(ProcessFailedError):
        await asked.check_unchanged()
    interpreter(tmp_path / "python", f'exec {sys.executable} "$@"')
    assert (await asked.ensure()).facts is not None


async def test_named_file_comes_without_facts_where_there_is_no_training_stack(
    base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A machine that only serves has nothing to compare with; that is served, and said."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['gguf'] = None\n")
    script = f'PYTHONPATH="$(dirname "$0")" exec {sys.executable} "$@"'
    python = interpreter(tmp_path / "python", script)
    asked = BaseModel(str(base), tmp_path / "llama", gguf=tiny_gguf, python=python)
    assert await asked.ensure() == ServedBase(tiny_gguf, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"architectures": ["OtherForCausalLM"]},
        {"model_type": "nobody_knows_it"},
    ],
    ids=["architecture", "model type"],
)
async def test_named_file_of_a_model_that_honed_does_not_know_comes_without_facts(
    base: Path, tiny_gguf: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    """Nothing speaks against it, and no later look would find more."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changed))
    asked = BaseModel(str(base), tmp_path / "llama", gguf=tiny_gguf)
    assert await asked.ensure() == ServedBase(tiny_gguf, None)


async def test_named_file_is_not_served_for_a_folder_that_is_not_whole(
    base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A download that goes on is looked at again when it is there; formats that are not read never will be."""
    weights = base / "model.safetensors"
    asked = BaseModel(str(base), tmp_path / "llama", gguf=tiny_gguf)
    with pytest.raises(TrainingError, match="was not found"):
        await BaseModel("/nowhere/base", tmp_path / "llama", gguf=tiny_gguf).ensure()
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config[:20])
    with pytest.raises(TrainingError, match=r"no usable config\.json"):
        await asked.ensure()
    (base / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"no usable config\.json"):
        await BaseModel(str(base), tmp_path / "llama", gguf=tiny_gguf).ensure()
    (base / "config.json").write_text(config)
    (base / "tokenizer_config.json").rename(tmp_path / "away")
    (base / "tokenizer_config.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="cannot be read"):
        await asked.ensure()
    (tmp_path / "away").replace(base / "tokenizer_config.json")
    weights.rename(base / "model-00001-of-00002.safetensors")
    with pytest.raises(TrainingError, match=r"has no model\.safetensors"):
        await asked.ensure()
    (base / "model-00001-of-00002.safetensors").rename(base / "pytorch_model.bin")
    assert await asked.ensure() == ServedBase(tiny_gguf, None)


async def test_named_file_that_is_not_there_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    """Nothing is converted instead of it."""
    with pytest.raises(TrainingError, match=r"serve\.base_model_path .*no\.gguf does not exist"):
        await ensure_base(str(tiny_base), tmp_path, gguf=tmp_path / "no.gguf")


async def test_file_alone_needs_no_worker(tiny_gguf: Path, tmp_path: Path) -> None:
    """Without base_model there is nothing to compare with; the interpreter has no training stack."""
    asked = BaseModel(None, tmp_path, gguf=tiny_gguf, python="/nowhere/python")
    assert await asked.ensure() == ServedBase(tiny_gguf, None)
