"""Memory that is there, memory that is needed, and models that fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from honed.domain.job import TrainSettings
from honed.machine.gpus import Gpu, Gpus
from honed.machine.memory import Memory, memory
from honed.machine.model import LocalModel
from honed.machine.plan import (
    GIB,
    LOGITS_ON_CPU,
    TOKENS_ON_CPU,
    ServingPlan,
    serving_bytes,
    training_bytes,
)
from honed.machine.proposals import KNOWN, preferred, proposals

PLAN = ServingPlan(ctx_size=4096, parallel=4)
SMALL = KNOWN[0].shape


def test_a_container_has_what_its_group_allows(tmp_path: Path) -> None:
    """The least of the machine, the group and the groups around it; page cache counts as free."""
    group = tmp_path / "sys/fs/cgroup/pod/box"
    group.mkdir(parents=True)
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/pod/box\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert memory(tmp_path) == Memory(8 * GIB, 4 * GIB)
    (group / "memory.max").write_text("max\n")
    outer = group.parent
    (outer / "memory.max").write_text(f"{2 * GIB}\n")
    (outer / "memory.current").write_text(f"{GIB}\n")
    (outer / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    assert memory(tmp_path) == Memory(2 * GIB, 2 * GIB - GIB // 2)


def test_two_servers_share_weights_on_the_cpu_and_not_on_a_gpu() -> None:
    """The pages of one file are mapped by both; a GPU holds a copy for each."""
    assert SMALL is not None
    one, two = (serving_bytes(SMALL, PLAN, servers=n, on_gpu=False) for n in (1, 2))
    weights = 4 * SMALL.num_parameters
    assert two - one < weights
    assert serving_bytes(SMALL, PLAN, servers=2, on_gpu=True) - two == weights


def _run(batch: int, length: int, *, on_gpu: bool = False, **told: Any) -> float:
    assert SMALL is not None
    settings = TrainSettings(per_device_train_batch_size=batch, max_length=length, **told)
    return training_bytes(SMALL, settings, on_gpu=on_gpu) / GIB


def test_a_run_needs_more_with_batch_and_length() -> None:
    """And less on a GPU, where activations are computed again; in 4 bits the base takes a third or so."""
    assert _run(1, 2048) > 2 * _run(1, 512)
    assert _run(4, 2048, on_gpu=True) > 1.5 * _run(1, 2048, on_gpu=True)
    assert _run(4, 2048, on_gpu=True) < _run(1, 2048)
    kept = _run(4, 2048, on_gpu=True, gradient_checkpointing=False)
    assert kept > 2 * _run(4, 2048, on_gpu=True)
    saved = _run(1, 512, on_gpu=True) - _run(1, 512, on_gpu=True, load_in_4bit=True)
    assert 0.5 < saved < 1.0  # of 1.1 GiB


def test_a_pass_on_the_cpu_has_so_many_tokens_at_most() -> None:
    """Rows beyond that go through one after the other; a longer row goes alone, and no pair is divided."""
    assert _run(4, 2048) == _run(1, 2048) == _run(16, 512)
    assert _run(4, 4096) == _run(1, 4096) > _run(1, 2048)
    assert _run(4, 2048, method="dpo") > 3 * _run(1, 2048, method="dpo")


def test_each_method_has_its_rows() -> None:
    """A pair is two rows, and an answer is never alone in its batch."""
    assert _run(1, 512, method="dpo") == _run(2, 512, method="kto") == _run(1, 512, method="kto")
    assert _run(1, 512, method="dpo") > _run(1, 512, method="sft")
    assert _run(4, 512, method="dpo") > _run(4, 512, method="kto")


def test_the_numbers_are_the_workers_own() -> None:
    """The plan does not import the worker, which needs torch."""
    pytest.importorskip("torch")
    from honed.worker import head_loss, sft

    assert (TOKENS_ON_CPU, LOGITS_ON_CPU) == (sft.TOKENS_ON_CPU, head_loss.TILE)


def _best(memory_gib: float, card_gib: float = 0, here: tuple[LocalModel, ...] = ()) -> str:
    cards = (Gpu("card", int(card_gib * GIB), 0, "1"),) if card_gib else ()
    found = Memory(64 * GIB, int(memory_gib * GIB))
    return preferred(proposals(here, found, Gpus(cards))).name


def test_the_proposal_grows_with_the_machine() -> None:
    """The largest that fits; never one whose licence needs a remark; without room the smallest."""
    assert _best(2) == "Qwen/Qwen3-0.6B"
    assert _best(500) == "Qwen/Qwen3-0.6B"  # without a GPU larger ones train for days
    assert _best(8, card_gib=16) == "Qwen/Qwen3-0.6B"  # the one with a remark would fit
    assert _best(8, card_gib=24) == "Qwen/Qwen3-1.7B"
    assert _best(8, card_gib=141) == "Qwen/Qwen3-8B"


def test_a_model_that_is_here_comes_first(tmp_path: Path) -> None:
    """Nothing needs to be loaded for it; only if it fits."""
    here = LocalModel("here", tmp_path, "Qwen3ForCausalLM", SMALL, "mit")
    assert _best(24, here=(here,)) == "here"
    large = replace(here, shape=KNOWN[3].shape)
    assert _best(24, here=(large,)) == "Qwen/Qwen3-0.6B"


def test_settings_are_made_to_fit() -> None:
    """Batch and length shrink before a model is given up; a step learns from 16 rows all the same."""
    found = proposals((), Memory(64 * GIB, 22 * GIB), Gpus())[0]
    assert found.fits
    assert (found.batch_size, found.max_length) == (1, 1024)
    assert found.batch_size * found.gradient_accumulation_steps == 16
