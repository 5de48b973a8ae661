"""The eight gates: what passes, what blocks, and that what was measured on other files does not count."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.checks.files import digest_of
from honed.checks.gates import GATES, Criterion, GateResult, judge
from honed.checks.run_plan import RunPlan
from honed.domain.times import now_ms
from honed.errors import ValidationError
from tests.unit.checks.rows import splits, write


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    """Three splits; nothing was measured yet."""
    folder = splits(tmp_path / "data")
    return RunPlan(train_path=folder / "train.jsonl", metrics_dir=tmp_path / "metrics")


def good(plan: RunPlan) -> dict[str, dict[str, Any]]:
    """What every gate reads, so that all pass."""
    test = digest_of(plan.splits["test"])
    measured = {
        name: {"path": str(path), "digest": digest_of(path)} for name, path in plan.splits.items()
    }
    baseline = {"score": 40.0, "target": 60.0, "test_digest": test, "metric": "accuracy"}
    return {
        "sources": {"source_count": 3},
        "raw-data": {"samples": 5000, "coverage": 80.0, "diversity": 3},
        "annotations": {"agreement": 85.0},
        "dataset": {"split_count": 3, "leakage": 0, "errors": 0, "splits": measured},
        "baseline": baseline,
        "evaluation": {
            "score": 60.0,
            "baseline_score": 40.0,
            "improvement": 20.0,
            "test_digest": test,
            "metric": "accuracy",
        },
        "quantization": {"retention": 95.0, "test_digest": test},
        "deployment": {"tokens_per_second": 10.0, "memory_gb": 8.0},
    }


def given(plan: RunPlan, **changed: Any) -> None:
    """All files as they should be, but for what is changed: a dict adds to a file, None takes it away."""
    for name, values in good(plan).items():
        change = changed.get(name.replace("-", "_"), {})
        if change is not None:
            write(plan.metrics_dir / f"{name}.json", [values | change])


def result(plan: RunPlan, name: str, **limits: float) -> GateResult:
    return judge(GATES[name].limited(limits), plan)


FILES = {
    "sources-identified": "sources",
    "raw-data-quality": "raw_data",
    "annotations-validated": "annotations",
    "dataset-validated": "dataset",
    "baseline-established": "baseline",
    "model-performance": "evaluation",
    "quantization-verified": "quantization",
    "deployment-ready": "deployment",
}


@pytest.mark.feature("TR-094")
@pytest.mark.parametrize("name", GATES)
def test_a_gate_whose_values_are_just_good_enough_passes(plan: RunPlan, name: str) -> None:
    """All seven fields; the time is that of the check."""
    given(plan)
    before = now_ms()
    found = result(plan, name)
    assert found.passed, found.blockers
    fields = ("gate_id", "passed", "message", "blockers", "warnings", "metrics", "checked_at")
    assert found.__struct_fields__ == fields
    assert (found.gate_id, found.blockers, found.warnings) == (name, (), ())
    assert found.message == GATES[name].about
    assert set(found.metrics) == {criterion.metric for criterion in GATES[name].criteria}
    assert None not in found.metrics.values()
    assert before <= found.checked_at <= now_ms()


def test_there_are_eight_gates() -> None:
    """And each reads a file of its own."""
    assert tuple(GATES) == tuple(FILES)
    assert len({gate.file for gate in GATES.values()}) == 8


@pytest.mark.feature("TR-096")
@pytest.mark.parametrize("name", GATES)
def test_what_was_not_measured_blocks(plan: RunPlan, name: str) -> None:
    """Whether the file is not there, is no JSON, or lacks the value: each says who measures it."""
    given(plan, **{FILES[name]: None})
    found = result(plan, name)
    assert not found.passed
    assert "does not exist" in found.blockers[0]
    assert "writes it" in found.blockers[0]
    assert set(found.metrics.values()) == {None}
    for metric in (criterion.metric for criterion in GATES[name].criteria):
        given(plan, **{FILES[name]: {metric: None}})
        found = result(plan, name)
        assert not found.passed
        assert found.metrics[metric] is None
        assert any(f"{metric} was not measured" in blocker for blocker in found.blockers)
    (plan.metrics_dir / GATES[name].file).write_text("{")
    assert "cannot be read" in result(plan, name).blockers[0]
    (plan.metrics_dir / GATES[name].file).write_text("{}")
    assert "holds no value" in result(plan, name).blockers[0]


@pytest.mark.feature("TR-096")
@pytest.mark.parametrize("value", ["20", True, [20], {"value": 20}])
def test_what_is_no_number_blocks(plan: RunPlan, value: Any) -> None:
    """True is no 1, and a text no number."""
    given(plan, evaluation={"improvement": value})
    found = result(plan, "model-performance")
    assert not found.passed
    assert "is no number" in found.blockers[0]


@pytest.mark.feature("TR-096")
def test_a_number_without_an_end_blocks(plan: RunPlan) -> None:
    """JSON has no such numbers, but 1e999 is read as one."""
    given(plan)
    path = plan.metrics_dir / "evaluation.json"
    path.write_text(path.read_text().replace('"improvement": 20.0', '"improvement": 1e999'))
    assert not result(plan, "model-performance").passed


@pytest.mark.parametrize(
    ("name", "metric", "value"),
    [
        ("sources-identified", "source_count", 2),
        ("raw-data-quality", "samples", 999),
        ("raw-data-quality", "coverage", 79.9),
        ("raw-data-quality", "diversity", 2),
        ("annotations-validated", "agreement", 84.9),
        ("dataset-validated", "split_count", 2),
        ("dataset-validated", "leakage", 1),
        ("dataset-validated", "errors", 1),
        ("model-performance", "improvement", 19.9),
        pytest.param(
            "quantization-verified", "retention", 94.9, marks=pytest.mark.feature("TR-097")
        ),
        ("deployment-ready", "tokens_per_second", 9.9),
        ("deployment-ready", "memory_gb", 8.1),
    ],
)
def test_a_value_beyond_its_limit_blocks(
    plan: RunPlan, name: str, metric: str, value: float
) -> None:
    """With value and limit in the message; the others do not block."""
    given(plan, **{FILES[name]: {metric: value}})
    found = result(plan, name)
    assert not found.passed
    assert len(found.blockers) == 1
    assert found.blockers[0].startswith(f"{metric} is {value:g}, expected ")
    assert found.message == f"not passed: {found.blockers[0]}"


@pytest.mark.feature("TR-097")
def test_less_than_95_percent_kept_fails(plan: RunPlan) -> None:
    """And 95 passes; on another test set nothing was shown."""
    given(plan, quantization={"retention": 94.99})
    assert not result(plan, "quantization-verified").passed
    given(plan, quantization={"retention": 95.0})
    assert result(plan, "quantization-verified").passed
    plan.splits["test"].write_text("{}\n")
    assert "another test set" in result(plan, "quantization-verified").message


@pytest.mark.feature("TR-096")
def test_gte_lte_and_eq_allow_the_limit_itself() -> None:
    """Below, at and above 5."""
    found = {
        comparison: [Criterion("x", comparison, 5).holds(value) for value in (4.0, 5.0, 6.0)]
        for comparison in ("gte", "lte", "eq")
    }
    assert found == {
        "gte": [False, True, True],
        "lte": [True, True, False],
        "eq": [False, True, False],
    }


@pytest.mark.feature("TR-096")
def test_the_improvement_that_is_asked_for_is_a_setting(plan: RunPlan) -> None:
    """20 points unless another limit is given; a limit for what the gate does not read is refused."""
    given(plan, evaluation={"improvement": 12.0})
    assert not result(plan, "model-performance").passed
    assert result(plan, "model-performance", improvement=10).passed
    assert not result(plan, "model-performance", improvement=12.5).passed
    with pytest.raises(ValidationError, match="no limit for 'gain'"):
        result(plan, "model-performance", gain=1)
    with pytest.raises(ValidationError, match="no number to compare"):
        result(plan, "model-performance", improvement=float("nan"))


def test_few_samples_pass_with_a_warning(plan: RunPlan) -> None:
    """1,000 are enough, 5,000 better."""
    given(plan, raw_data={"samples": 1000})
    found = result(plan, "raw-data-quality")
    assert found.passed
    assert found.warnings == ("samples is 1000, better 5000",)


@pytest.mark.feature("TR-095")
@pytest.mark.parametrize("name", ["baseline-established", "model-performance"])
def test_a_baseline_of_another_test_set_is_none(plan: RunPlan, name: str) -> None:
    """One byte more in the file is another set; a set that is gone is none."""
    given(plan)
    assert result(plan, name).passed
    test = plan.splits["test"]
    test.write_text(test.read_text() + "\n")
    found = result(plan, name)
    assert not found.passed
    assert "another test set" in found.blockers[0]
    test.unlink()
    assert "does not exist" in result(plan, name).blockers[0]


@pytest.mark.feature("TR-096")
@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (None, "baseline.json does not exist"),
        ({"metric": "pass_rate"}, "differ in metric"),
        ({"test_digest": "sha256:0"}, "differ in test_digest"),
        ({"score": 41.0}, "another baseline"),
    ],
    ids=["gone", "metric", "test-set", "measured-again"],
)
def test_an_improvement_counts_over_the_baseline_that_is_there(
    plan: RunPlan, baseline: dict[str, Any] | None, says: str
) -> None:
    """Otherwise both are measured again."""
    given(plan, baseline=baseline)
    found = result(plan, "model-performance")
    assert not found.passed
    assert says in found.blockers[0]


@pytest.mark.feature("TR-096")
@pytest.mark.parametrize("name", ["model-performance", "quantization-verified", "deployment-ready"])
def test_what_was_measured_of_another_adapter_does_not_count(plan: RunPlan, name: str) -> None:
    """Trained anew in the same folder it is another one; who tells no digest is taken at his word."""
    folder = plan.metrics_dir.parent / "lora"
    file = folder / ("adapter_model.safetensors" if name == "model-performance" else "adapter.gguf")
    folder.mkdir()
    file.write_bytes(b"first")
    adapter = str(folder if name == "model-performance" else file)
    given(plan, **{FILES[name]: {"adapter": adapter, "adapter_digest": digest_of(file)}})
    assert result(plan, name).passed
    file.write_bytes(b"second")
    found = result(plan, name)
    assert not found.passed
    assert f"the adapter {adapter} is not the one that was measured" in found.blockers[0]
    file.unlink()
    assert "cannot be read" in result(plan, name).message
    given(plan, **{FILES[name]: {"adapter": adapter}})
    assert result(plan, name).passed


@pytest.mark.feature("TR-096")
def test_an_improvement_that_may_be_none_warns(plan: RunPlan) -> None:
    """Its interval reaches zero: the test set is too small to tell."""
    given(plan, evaluation={"improvement_low": -3.0})
    found = result(plan, "model-performance")
    assert found.passed
    assert "begins at -3.0" in found.warnings[0]
    given(plan, evaluation={"improvement_low": 12.0})
    assert result(plan, "model-performance").warnings == ()


@pytest.mark.feature("TR-098")
def test_a_data_set_that_changed_since_it_was_measured_blocks(plan: RunPlan) -> None:
    """Any of the three files; warnings of the validator are passed on."""
    warning = {"level": "warning", "text": "train has 60% of the rows"}
    given(plan, dataset={"findings": [warning, {"level": "error", "text": "x"}]})
    found = result(plan, "dataset-validated")
    assert (found.passed, found.warnings) == (True, ("train has 60% of the rows",))
    plan.train_path.write_text(plan.train_path.read_text() + "\n")
    assert "train is not as it was measured" in result(plan, "dataset-validated").message
    plan.train_path.unlink()
    assert "cannot be read" in result(plan, "dataset-validated").message


@pytest.mark.feature("TR-098")
def test_splits_without_a_digest_block(plan: RunPlan) -> None:
    """What was measured on cannot be told."""
    given(plan, dataset={"splits": {"train": 200}})
    assert "names no path and digest" in result(plan, "dataset-validated").message


def test_a_result_is_json(plan: RunPlan, tmp_path: Path) -> None:
    """As `honed gate --json` prints it."""
    from honed.checks.files import read_json, write_json

    given(plan)
    found = result(plan, "sources-identified")
    write_json(tmp_path / "x/result.json", found)
    assert json.loads((tmp_path / "x/result.json").read_text())["metrics"] == {"source_count": 3.0}
    assert read_json(tmp_path / "x/result.json", GateResult) == found
    with pytest.raises(ValidationError, match="cannot be written"):
        write_json(tmp_path / "x/result.json/y.json", found)
