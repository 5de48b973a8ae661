"""The worker tells what it finds, in a process of its own."""

import json
import shutil
from pathlib import Path

import pytest

from honed.domain.job import ExamineJob, ExamineResult
from honed.processors import run_job

pytestmark = pytest.mark.anyio


async def _examine(base: Path | None, folder: Path) -> ExamineResult:
    job = ExamineJob(
        base_model=str(base) if base else None, result_path=str(folder / "result.json")
    )
    found = await run_job(job, folder)
    assert isinstance(found, ExamineResult)
    return found


async def test_a_base_model_that_can_be_used_is_named_as_gguf_names_it(
    tiny_base: Path, tmp_path: Path
) -> None:
    """And torch tells what it was built for."""
    found = await _examine(tiny_base, tmp_path)
    assert (found.architecture, found.base_problem) == ("qwen3", None)
    assert found.build.split()[0] in {"cpu", "cuda", "rocm"}


async def test_what_keeps_a_base_model_from_use_comes_with_advice(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Not as a failed job: what was found on the devices is told all the same."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    (base / "config.json").write_text(json.dumps(config))
    found = await _examine(base, tmp_path)
    assert found.architecture is None
    assert found.base_problem is not None
    assert "GPTNeoXForCausalLM" in found.base_problem
    assert found.base_advice
