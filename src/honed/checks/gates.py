"""The eight gates between raw data and an adapter in use: each reads measured values and passes or blocks.

A gate measures nothing. It reads one file under `metrics/` (`measures`), holds its values against limits, and looks
whether they were measured on what lies there now. A value that is absent, or no number, blocks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from honed.adapter_files import ADAPTER_WEIGHTS
from honed.checks.files import digest_of, read_json
from honed.checks.measures import (
    ANNOTATIONS,
    BASELINE,
    DATASET,
    DEPLOYMENT,
    EVALUATION,
    QUANTIZATION,
    RAW_DATA,
    SOURCES,
)
from honed.checks.run_plan import RunPlan
from honed.domain.times import now_ms
from honed.errors import ValidationError

Comparison = Literal["gte", "lte", "eq"]

_COMPARE: Final[Mapping[Comparison, Callable[[float, float], bool]]] = {
    "gte": lambda value, limit: value >= limit,
    "lte": lambda value, limit: value <= limit,
    "eq": lambda value, limit: value == limit,
}
_WORDS: Final[Mapping[Comparison, str]] = {"gte": "at least", "lte": "at most", "eq": "exactly"}

Values = Mapping[str, Any]


class GateResult(Struct, frozen=True, kw_only=True):
    """What a gate says."""

    gate_id: str
    passed: bool
    message: str
    blockers: tuple[str, ...]
    """Why it does not pass; empty exactly when it does."""
    warnings: tuple[str, ...]
    """What someone should look at all the same."""
    metrics: dict[str, float | None]
    """The values that were held against limits; None where one is absent."""
    checked_at: int
    """Unix milliseconds, UTC."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A value, and what it must be."""

    metric: str
    comparison: Comparison
    limit: float
    good: float | None = None
    """A limit of the same kind that only warns."""

    def holds(self, value: float) -> bool:
        """Whether the value is as it must be."""
        return _COMPARE[self.comparison](value, self.limit)

    def is_good(self, value: float) -> bool:
        """Whether it is as it should be."""
        return self.good is None or _COMPARE[self.comparison](value, self.good)

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"{_WORDS[self.comparison]} {self.limit:g}"

    def __str__(self) -> str:
        return f"{self.metric} {self.wanted}"


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of the table."""

    name: str
    about: str
    """What passes, in a few words."""
    file: str
    """Under `metrics/`."""
    measured_by: str
    """The command that writes it."""
    criteria: tuple[Criterion, ...]
    stale: Callable[[Values, RunPlan], Iterator[str]] = lambda values, plan: iter(())
    """Why the values are not those of what lies there now."""
    remarks: Callable[[Values], Iterator[str]] = lambda values: iter(())
    """Warnings beside those of the criteria."""

    def limited(self, limits: Mapping[str, float]) -> "Gate":
        """The gate with other limits, by metric.

        Raises:
            ValidationError: it has no such metric.
        """
        known = {criterion.metric for criterion in self.criteria}
        for metric, limit in limits.items():
            if metric not in known:
                raise ValidationError(
                    f"the gate {self.name} has no limit for {metric!r}",
                    advice=f"it has limits for {', '.join(sorted(known))}",
                )
            if not math.isfinite(limit):
                raise ValidationError(
                    f"the limit {limit} for {metric} is no number to compare with"
                )
        return replace(
            self,
            criteria=tuple(
                replace(each, limit=limits.get(each.metric, each.limit)) for each in self.criteria
            ),
        )


def judge(gate: Gate, plan: RunPlan) -> GateResult:
    """Hold the measured values against the gate's limits."""
    path = plan.metrics_dir / gate.file
    values, blockers = _read(path, gate)
    warnings: list[str] = []
    found = {each.metric: _number(values, each.metric) for each in gate.criteria}
    for criterion in gate.criteria if values else ():
        value = found[criterion.metric]
        if value is None:
            blockers.append(_absent(criterion.metric, values, path, gate))
        elif not criterion.holds(value):
            blockers.append(f"{criterion.metric} is {value:g}, expected {criterion.wanted}")
        elif not criterion.is_good(value):
            warnings.append(f"{criterion.metric} is {value:g}, better {criterion.good:g}")
    if values:
        blockers += gate.stale(values, plan)
        warnings += gate.remarks(values)
    passed = not blockers
    return GateResult(
        gate_id=gate.name,
        passed=passed,
        message=gate.about if passed else f"not passed: {blockers[0]}",
        blockers=tuple(blockers),
        warnings=tuple(warnings),
        metrics=found,
        checked_at=now_ms(),
    )


def _read(path: Path, gate: Gate) -> tuple[Values, list[str]]:
    """The values, or why there are none."""
    try:
        values = read_json(path, dict[str, Any])
    except ValidationError as error:
        return {}, [str(error)]
    if values is None:
        return {}, [f"{path} does not exist: {gate.measured_by} writes it"]
    return values, [] if values else [f"{path} holds no value"]


def _number(values: Values, metric: str) -> float | None:
    """The value where it is a number; True is none, and JSON has none without an end."""
    value = values.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _absent(metric: str, values: Values, path: Path, gate: Gate) -> str:
    if values.get(metric) is None:
        return f"{metric} was not measured: {path} does not hold it ({gate.measured_by} writes it)"
    return f"{metric} in {path} is no number: {values[metric]!r:.40}"


# ---------------------------------------------------------------- measured on what lies there now


def _other_test_set(values: Values, plan: RunPlan) -> Iterator[str]:
    """Says so where the test set is another one, or gone."""
    test = plan.splits["test"]
    if not test.is_file():
        yield f"the test set {test} does not exist"
    elif values.get("test_digest") != digest_of(test):
        yield f"it was measured on another test set than {test}: measure again"


def _other_adapter(values: Values, plan: RunPlan) -> Iterator[str]:
    """Says so where the adapter was trained anew since, or is gone; who measured otherwise need not tell its digest."""
    adapter, digest = values.get("adapter"), values.get("adapter_digest")
    if not isinstance(adapter, str) or not isinstance(digest, str):
        return
    path = Path(adapter)
    try:
        if digest != digest_of(path / ADAPTER_WEIGHTS if path.is_dir() else path):
            yield f"the adapter {adapter} is not the one that was measured: measure again"
    except ValidationError as error:
        yield str(error)


def _other_test_set_or_adapter(values: Values, plan: RunPlan) -> Iterator[str]:
    yield from _other_test_set(values, plan)
    yield from _other_adapter(values, plan)


def _other_baseline(values: Values, plan: RunPlan) -> Iterator[str]:
    """An improvement holds over the baseline that is there, on the same set and by the same metric."""
    yield from _other_test_set_or_adapter(values, plan)
    baseline = read_json(plan.metrics_dir / BASELINE, dict[str, Any])
    if baseline is None:
        yield f"{plan.metrics_dir / BASELINE} does not exist: `honed gate baseline` writes it"
        return
    for key in ("test_digest", "metric"):
        if key in baseline and key in values and baseline[key] != values[key]:
            yield f"baseline and evaluation differ in {key}: measure both again"
    if _number(baseline, "score") != _number(values, "baseline_score"):
        yield "it was compared with another baseline than the one there: `honed evaluate` again"


def _other_splits(values: Values, plan: RunPlan) -> Iterator[str]:
    """Every file as it was measured."""
    splits = values.get("splits")
    for name, split in splits.items() if isinstance(splits, dict) else ():
        try:
            path, digest = Path(split["path"]), split["digest"]
            if digest != digest_of(path):
                yield f"{name} is not as it was measured: `honed validate` again"
        except (KeyError, TypeError):
            yield f"splits.{name} names no path and digest"
        except ValidationError as error:
            yield str(error)


def _interval(values: Values) -> Iterator[str]:
    low = _number(values, "improvement_low")
    if low is not None and low <= 0:
        yield f"the improvement may be none: its 95 % interval begins at {low:+.1f}"


def _found_in_data(values: Values) -> Iterator[str]:
    for finding in values.get("findings") or ():
        if isinstance(finding, dict) and finding.get("level") == "warning":
            yield str(finding.get("text"))


GATES: Final[Mapping[str, Gate]] = {
    gate.name: gate
    for gate in (
        Gate(
            "sources-identified",
            "three sources or more",
            SOURCES,
            "`honed gate raw-data`",
            (Criterion("source_count", "gte", 3),),
        ),
        Gate(
            "raw-data-quality",
            "enough rows, over what is expected, of several kinds",
            RAW_DATA,
            "`honed gate raw-data --expect`",
            (
                Criterion("samples", "gte", 1000, good=5000),
                Criterion("coverage", "gte", 80),
                Criterion("diversity", "gte", 3),
            ),
        ),
        Gate(
            "annotations-validated",
            "those who label agree",
            ANNOTATIONS,
            "`honed gate annotations`",
            (Criterion("agreement", "gte", 85),),
        ),
        Gate(
            "dataset-validated",
            "three splits, no leakage, every line a row",
            DATASET,
            "`honed validate --splits`",
            (
                Criterion("split_count", "eq", 3),
                Criterion("leakage", "eq", 0),
                Criterion("errors", "eq", 0),
            ),
            stale=_other_splits,
            remarks=_found_in_data,
        ),
        Gate(
            "baseline-established",
            "the base model was measured on the present test set",
            BASELINE,
            "`honed gate baseline`",
            (Criterion("score", "gte", 0), Criterion("target", "gte", 0)),
            stale=_other_test_set,
        ),
        Gate(
            "model-performance",
            "the adapter is as much better as was asked for",
            EVALUATION,
            "`honed evaluate`",
            (Criterion("improvement", "gte", 20),),
            stale=_other_baseline,
            remarks=_interval,
        ),
        Gate(
            "quantization-verified",
            "the quantised model keeps its score",
            QUANTIZATION,
            "`honed gate quantization`",
            (Criterion("retention", "gte", 95),),
            stale=_other_test_set_or_adapter,
        ),
        Gate(
            "deployment-ready",
            "fast and small enough to serve",
            DEPLOYMENT,
            "`honed gate deployment`",
            (
                Criterion("tokens_per_second", "gte", 10),
                Criterion("memory_gb", "lte", 8),
            ),
            stale=_other_adapter,
        ),
    )
}
"""By name, in the order in which they are passed."""
