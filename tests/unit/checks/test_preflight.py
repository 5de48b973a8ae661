"""The nine checks, on machines and data made up for them; what the machine has is given in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from honed.checks.files import digest_of
from honed.checks.preflight import MachineFacts, PreflightCheck, preflight
from honed.checks.run_plan import RunPlan
from honed.domain.job import ExamineResult, TorchDevice
from honed.machine.gpus import Gpu, Gpus
from honed.machine.memory import Memory
from tests.unit.checks.rows import splits, talks, write

GIB = 1 << 30
NAMES = (
    "train_file",
    "row_format",
    "samples",
    "validation",
    "gpu",
    "cuda",
    "config",
    "model_fits",
    "baseline",
)


def machine(total: float = 0, free: float | None = None, devices: int = 1) -> MachineFacts:
    """With one card of that many GiB, or none."""
    memory = Memory(16 * GIB, 12 * GIB)
    if not total:
        return MachineFacts(Gpus(), memory, ExamineResult(torch="2.13.0", build="cpu", devices=()))
    left = total if free is None else free
    card = Gpu("Card", int(total * GIB), int((total - left) * GIB), "580.1")
    seen = TorchDevice(name="Card", total_bytes=card.total, free_bytes=card.free)
    examined = ExamineResult(torch="2.13.0", build="cuda 13.0", devices=(seen,) * devices)
    return MachineFacts(Gpus((card,)), memory, examined)


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """A run that has all it needs."""
    folder = splits(tmp_path / "data", train=1200, validation=100, test=60)
    metrics = tmp_path / "metrics"
    digest = digest_of(folder / "test.jsonl")
    write(metrics / "baseline.json", [{"score": 40.0, "target": 60.0, "test_digest": digest}])
    return RunPlan(
        base_model="unsloth/gemma-3-4b-it",
        train_path=folder / "train.jsonl",
        metrics_dir=metrics,
    )


def model(folder: Path, parameters: int) -> str:
    """A folder that says what a model's does, with as many weights."""
    words = {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    }
    write(folder / "config.json", [words])
    entry = {"dtype": "U8", "shape": [parameters], "data_offsets": [0, parameters]}
    header = json.dumps({"x": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + parameters)  # a hole, not bytes
    return str(folder)


def checks(plan: RunPlan, facts: MachineFacts, **settings: Any) -> dict[str, PreflightCheck]:
    return {each.check: each for each in preflight(plan, facts, **settings)}


@pytest.mark.feature("TR-010")
def test_all_nine_pass_where_nothing_is_missing(plan: RunPlan) -> None:
    """In one report, always in the same order; what passes needs no advice."""
    found = preflight(plan, machine(12))
    assert tuple(each.check for each in found) == NAMES
    assert [(each.check, each.found) for each in found if each.status != "pass"] == []
    assert not any(each.advice for each in found)


@pytest.mark.feature("TR-010")
def test_all_nine_are_done_where_everything_is_missing(tmp_path: Path) -> None:
    """None takes another along, and each says what to do."""
    plan = RunPlan(train_path=tmp_path / "none.jsonl", metrics_dir=tmp_path)
    found = preflight(plan, MachineFacts(Gpus(), Memory(GIB, GIB), None))
    assert tuple(each.check for each in found) == NAMES
    assert all(each.advice for each in found if each.status != "pass")
    assert {each.check for each in found if each.status == "fail"} == {
        "train_file",
        "row_format",
        "samples",
        "cuda",
        "baseline",
    }


@pytest.mark.feature("TR-001")
def test_a_missing_training_file_fails_by_its_path(plan: RunPlan) -> None:
    """The path that was looked for is named."""
    gone = replace(plan, train_path=plan.train_path.with_name("absent.jsonl"))
    found = checks(gone, machine(12))["train_file"]
    assert found.status == "fail"
    assert str(gone.train_path) in found.found


@pytest.mark.feature("TR-002")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_faulty_line_fails_with_its_number_and_the_format_step(plan: RunPlan, split: str) -> None:
    """Of either file, the first one."""
    path = plan.splits[split]
    path.write_text(path.read_text() + '{"question": 1}\n{\n')
    number = len(path.read_text().splitlines()) - 1
    found = checks(plan, machine(12))["row_format"]
    assert found.status == "fail"
    assert f"{path}, line {number}: " in found.found
    assert "convert to conversations in the format step" in (found.advice or "")


@pytest.mark.feature("TR-003")
@pytest.mark.parametrize(
    ("rows", "status"), [(99, "fail"), (100, "warn"), (999, "warn"), (1000, "pass")]
)
def test_too_few_samples_fail_and_few_warn(plan: RunPlan, rows: int, status: str) -> None:
    """Under 100, under 1,000; lines that are no rows do not count."""
    write(plan.train_path, [*talks(0, rows), "{"])
    assert checks(plan, machine(12))["samples"].status == status


@pytest.mark.feature("TR-004")
def test_a_validation_split_is_used_or_missed(plan: RunPlan) -> None:
    """`val.jsonl` beside the training file, or the file that is named."""
    assert "100 rows" in checks(plan, machine(12))["validation"].found
    named = replace(plan, validation_path=plan.splits["test"])
    assert "test.jsonl, 60 rows" in checks(named, machine(12))["validation"].found
    plan.splits["validation"].write_text("")
    assert checks(plan, machine(12))["validation"].status == "warn"
    plan.splits["validation"].unlink()
    assert checks(plan, machine(12))["validation"].status == "warn"


@pytest.mark.feature("TR-005")
def test_memory_of_the_card_is_told_with_what_fits_it(plan: RunPlan) -> None:
    """Free and all; a card that others use is worth a look, and one that does not answer too."""
    found = checks(plan, machine(16, free=15))["gpu"]
    assert found.status == "pass"
    assert "15.0 GiB of 16.0 GiB free" in found.found
    assert "gemma-3-12b" in found.found
    assert checks(plan, machine(16, free=4))["gpu"].status == "warn"
    assert checks(plan, machine())["gpu"].status == "warn"
    broken = replace(machine(), gpus=Gpus(fault="no driver"))
    assert "no driver" in checks(plan, broken)["gpu"].found


@pytest.mark.feature("TR-006")
def test_what_torch_can_compute_on_is_told(plan: RunPlan) -> None:
    """A card that it does not see, or cannot compute on, fails: the run would take the CPU, or end."""
    assert "built for cuda 13.0, Card" in checks(plan, machine(12))["cuda"].found
    unseen = checks(plan, machine(12, devices=0))["cuda"]
    assert (unseen.status, "does not see Card" in unseen.found) == ("fail", True)
    faulty = TorchDevice(name="Card", total_bytes=1, free_bytes=1, problem="no kernel image")
    facts = machine(12)
    broken = replace(facts, examined=ExamineResult(torch="2", build="cuda", devices=(faulty,)))
    assert "no kernel image" in checks(plan, broken)["cuda"].found
    assert checks(plan, machine())["cuda"].status == "warn"
    assert checks(plan, replace(facts, examined=None))["cuda"].status == "fail"


@pytest.mark.feature("TR-007")
def test_the_config_that_holds_is_told(plan: RunPlan, tmp_path: Path) -> None:
    """The file and its settings, or the defaults; its faults fail."""
    assert "the defaults hold: batch 2, accumulation 4, r 8, length 2048, 4-bit" in (
        checks(plan, machine(12))["config"].found
    )
    named = replace(plan, config_path=tmp_path / "run.toml", r=64)
    assert "run.toml: batch 2, accumulation 4, r 64" in checks(named, machine(12))["config"].found
    faulty = checks(named, machine(12), config_faults=("lora.r is 7", "training is missing"))
    assert faulty["config"].status == "fail"
    assert faulty["config"].found == "lora.r is 7; training is missing"


@pytest.mark.feature("TR-005", "TR-008", "TR-011", "TR-012")
@pytest.mark.parametrize(
    ("base_model", "gib", "changed", "status", "says"),
    [
        ("gemma-3-4b", 12, {}, "pass", None),
        ("gemma-3-4b", 8, {}, "warn", "lower to batch 1, accumulation 8, r 8, length 1024"),
        ("gemma-3-4b", 8, {"batch_size": 1, "max_length": 1024}, "pass", None),
        ("gemma-3-4b", 8, {"batch_size": 2, "max_length": 1024}, "warn", "lower to batch 1"),
        ("gemma-3-4b", 8, {"batch_size": 1, "max_length": 2048}, "warn", "lower to batch 1"),
        ("gemma-3-4b", 7.96, {"batch_size": 1, "max_length": 1024}, "pass", None),
        ("gemma-3-12b", 8, {}, "fail", "choose gemma-3-4b with batch 1"),
        ("gemma-3-12b", 16, {}, "pass", None),
        ("gemma-3-27b", 16, {}, "fail", "choose gemma-3-12b"),
        ("llama-3.1-8b", 8, {}, "fail", "choose gemma-3-4b"),
        ("some/model", 8, {}, "warn", "this card fits gemma-3-4b"),
        (None, 8, {}, "warn", "model.name"),
    ],
    ids=str,
)
def test_whether_the_model_fits_the_card_is_looked_up(
    plan: RunPlan, base_model: str | None, gib: float, changed: Any, status: str, says: str | None
) -> None:
    """Too little memory fails; where lower settings help, they are named."""
    asked = replace(plan, base_model=base_model, **changed)
    found = checks(asked, machine(gib))["model_fits"]
    assert found.status == status, found
    assert says is None or says in (found.advice or "")


@pytest.mark.feature("TR-008")
def test_a_card_that_others_fill_warns(plan: RunPlan) -> None:
    """It would fit if they were gone."""
    found = checks(plan, machine(12, free=3))["model_fits"]
    assert (found.status, found.advice) == (
        "warn",
        "end the other programs on it, or lower batch and length",
    )


@pytest.mark.feature("TR-008", "TR-015")
def test_without_a_card_the_memory_of_the_machine_counts(plan: RunPlan, tmp_path: Path) -> None:
    """A tiny model trains; one that would take days, or that is too large, does not."""
    tiny = replace(plan, base_model=model(tmp_path / "tiny", 100_000))
    found = checks(tiny, machine())["model_fits"]
    assert (found.status, "0.1 M parameters" in found.found) == ("pass", True)
    small = replace(machine(), memory=Memory(GIB // 2, GIB // 4))
    assert checks(tiny, small)["model_fits"].status == "fail"
    billions = replace(plan, base_model=model(tmp_path / "large", 1_500_000_000))
    assert checks(billions, machine())["model_fits"].advice == (
        "a run takes hours or days on a CPU: choose a smaller model"
    )
    found = checks(plan, machine())["model_fits"]
    assert (found.status, "needs a GPU with 8 GB" in found.found) == ("fail", True)
    assert checks(replace(plan, base_model="some/model"), machine())["model_fits"].status == "warn"


@pytest.mark.feature("TR-008")
def test_what_a_model_needs_that_no_table_holds_is_estimated(plan: RunPlan, tmp_path: Path) -> None:
    """From its shape, and the settings of the run."""
    asked = replace(plan, base_model=model(tmp_path / "other", 100_000))
    assert checks(asked, machine(8))["model_fits"].status == "pass"
    longer = replace(asked, max_length=131_072, batch_size=64)
    assert checks(longer, machine(8))["model_fits"].status == "fail"


def test_what_the_rows_are_for_decides_how_much_a_run_needs(plan: RunPlan, tmp_path: Path) -> None:
    """A pair is two rows at once; a conversation goes through by itself."""
    told = replace(plan, base_model=model(tmp_path / "tiny", 100_000), max_length=131_072)

    def needed(row: dict[str, object]) -> float:
        write(tmp_path / "rows.jsonl", [row])
        found = checks(replace(told, train_path=tmp_path / "rows.jsonl"), machine())["model_fits"]
        return float(found.found.split("needs about ")[1].split()[0])

    turn = {"role": "user", "content": "2 + 2?"}
    talk = needed({"messages": [turn, {"role": "assistant", "content": "4"}]})
    answer = needed({"prompt": "2 + 2?", "completion": "4", "label": True})
    pair = needed({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    assert talk < answer < pair


@pytest.mark.feature("TR-009")
def test_a_missing_baseline_fails_unless_it_is_not_wanted(plan: RunPlan) -> None:
    """With it, score and target are told; one of another test set is told too."""
    assert checks(plan, machine(12))["baseline"].found == "40.0 of 100, target 60.0"
    plan.splits["test"].write_text("{}\n")
    assert "another test set" in checks(plan, machine(12))["baseline"].found
    path = plan.metrics_dir / "baseline.json"
    path.write_text(json.dumps({"score": 40.0}))
    assert checks(plan, machine(12))["baseline"].status == "fail"
    path.unlink()
    assert checks(plan, machine(12))["baseline"].status == "fail"
    assert checks(plan, machine(12), needs_baseline=False)["baseline"].status == "warn"
