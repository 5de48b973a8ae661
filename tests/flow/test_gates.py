"""From raw rows to an adapter in use, gate by gate, by the commands that a person types, on a tiny model.

What is measured is real: an adapter that a worker has trained on the CPU, llama-servers that answer.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from honed.checks import GATES
from honed.checks.raw_data import count_raw
from honed.cli.app import app
from honed.domain.job import TrainJob, TrainResult, TrainSettings, parse_result
from tests.tiny_models import SUBJECTS
from tests.unit.checks.rows import write

pytestmark = pytest.mark.timeout(600)

ACTIONS = ("restart", "purge", "scale", "rotate", "flush", "drain", "resize", "revert")


def talk(number: int) -> dict[str, Any]:
    """The subject names the one right action."""
    subject = number % 8
    messages = [
        {"role": "user", "content": f"alert {number}: the {SUBJECTS[subject]} is full"},
        {"role": "assistant", "content": f"{SUBJECTS[subject]}: {ACTIONS[subject]}"},
    ]
    more = {"source": f"host {number % 3}", "category": SUBJECTS[subject], "language": "en"}
    return {"messages": messages, "task_id": f"t{number}", **more}


def train(folder: Path, base: Path, data: Path) -> TrainResult:
    """In a process of its own, without a GPU."""
    job = TrainJob(
        run_id="r1",
        model_id="lora@1",
        scenario="lora",
        learn_model="chat",
        base_model=str(base),
        data_path=str(data),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(folder / "lora"),
        result_path=str(folder / "result.json"),
        settings=TrainSettings(
            max_steps=60,
            learning_rate=1e-2,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            max_length=128,
            device="cpu",
            threads=1,
        ),
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    command = [sys.executable, "-m", "honed.worker", str(folder / "job.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    result = parse_result((folder / "result.json").read_bytes())
    assert isinstance(result, TrainResult)
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Three splits, a base model and an adapter that was trained on the first of them."""
    folder = tmp_path_factory.mktemp("gates")
    rows = [talk(number) for number in range(1, 281)]
    write(folder / "data/splits/train.jsonl", rows[:200])
    write(folder / "data/splits/val.jsonl", rows[200:220])
    write(folder / "data/splits/test.jsonl", rows[220:])
    (folder / "base").symlink_to(tiny_base)
    train(folder, tiny_base, folder / "data/splits/train.jsonl")
    return folder


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the one that a person is in."""
    monkeypatch.chdir(made)
    return made


def honed(*words: str) -> tuple[int, Any]:
    """Exit status, and what the command printed as JSON."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.stdout, done.stderr
    return done.exit_code, json.loads(done.stdout)


def foretold(place: Path, num_tokens: int) -> float:
    """Percent of the test set's first tokens that the worker finds right, with the adapter."""
    from honed.domain.evaluating import EvaluateJob
    from honed.worker.evaluate import evaluate

    job = EvaluateJob(
        base_model=str(place / "base"),
        adapter_path=str(place / "lora"),
        data_path=str(place / "data/splits/test.jsonl"),
        result_path="",
        device="cpu",
        threads=1,
    )
    counted = right = 0
    for row in evaluate(job, lambda progress: None).rows:
        if counted < num_tokens:
            counted, right = counted + row.num_tokens, right + row.num_correct
    assert counted == num_tokens
    return 100 * right / counted


@pytest.mark.feature("TR-092", "TR-093", "TR-095", "TR-096")
def test_baseline_and_adapter_are_measured_on_one_test_set(place: Path) -> None:
    """The target is what the baseline says; the gain over it is what the gate reads."""
    status, result = honed("gate", "baseline-established")
    assert (status, result["passed"]) == (1, False)
    status, baseline = honed("gate", "baseline", "--base-model", "base", "--improvement", "30")
    assert status == 0
    assert baseline["target"] == pytest.approx(baseline["score"] + 30)
    assert honed("gate", "baseline-established")[0] == 0
    status, found = honed("evaluate", "--adapter", "lora")
    assert status == 0
    assert found["test_digest"] == baseline["test_digest"]
    assert [row[0] for row in found["rows"]] == [row[0] for row in baseline["rows"]]
    assert found["improvement"] == pytest.approx(found["score"] - baseline["score"])
    assert found["improvement_low"] < found["improvement"] < found["improvement_high"]
    assert found["loss"] < found["baseline_loss"]
    assert (found["target"], found["passed"]) == (baseline["target"], True)
    status, result = honed("gate", "model-performance")
    assert (status, result["metrics"]) == (0, {"improvement": found["improvement"]})
    most = f"improvement={found['improvement'] + 1}"
    assert honed("gate", "model-performance", "--limit", most)[0] == 1


@pytest.mark.feature("TR-010", "TR-015")
def test_a_tiny_model_is_trained_where_there_is_no_gpu(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-flight says that it fits, and the adapter is there; a missing baseline fails unless that is allowed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(place))  # no nvidia-smi
    words = ("preflight", "--base-model", "base", "--metrics", "none")
    status, found = honed(*words)
    checks = {each["check"]: each for each in found}
    assert len(checks) == 9
    assert (checks["model_fits"]["status"], checks["gpu"]["status"]) == ("pass", "warn")
    assert (status, checks["baseline"]["status"]) == (1, "fail")
    assert honed(*words, "--without-baseline")[0] == 0
    assert (place / "lora/adapter_model.safetensors").stat().st_size > 0


@pytest.mark.feature("TR-097")
def test_a_quantised_model_is_compared_with_the_whole_one(place: Path, tmp_path: Path) -> None:
    """On llama-server, token by token, as the worker counts; q8_0 keeps what the tiny adapter learned."""
    from honed.worker.gguf_base import write_base

    for outtype in ("f32", "q8_0"):
        write_base(place / "base", tmp_path / f"{outtype}.gguf", outtype=outtype)
    status, found = honed(
        *("gate", "quantization", "--base-model", "base", "--adapter", "lora", "--tokens", "40"),
        *("--quantized", str(tmp_path / "q8_0.gguf"), "--reference", str(tmp_path / "f32.gguf")),
    )
    assert status == 0
    assert 40 <= found["num_tokens"] < 60
    assert found["retention"] == pytest.approx(100 * found["score"] / found["reference_score"])
    assert found["reference_score"] == pytest.approx(foretold(place, found["num_tokens"]), abs=2)
    assert found["reference_score"] > 80
    status, result = honed("gate", "quantization-verified")
    assert (status, result["metrics"]["retention"]) == (0, found["retention"]), result
    assert honed("gate", "quantization-verified", "--limit", "retention=101")[0] == 1


def test_speed_and_memory_of_a_server_are_measured(place: Path, tiny_gguf: Path) -> None:
    """While it answers prompts of the test set; nothing is left of it."""
    status, found = honed("gate", "deployment", "--adapter", "lora", "--model", str(tiny_gguf))
    assert status == 0
    assert (found["num_requests"], found["num_tokens"]) == (3, 192)
    assert found["tokens_per_second"] > 0
    assert 0.001 < found["memory_gb"] < 8
    assert not (place / "metrics" / "work" / "deployment" / "deployment.pid").exists()
    limits = ("--limit", "tokens_per_second=0.1")
    assert honed("gate", "deployment-ready", *limits)[0] == 0
    assert honed("gate", "deployment-ready", *limits, "--limit", "memory_gb=0.0001")[0] == 1


@pytest.mark.feature("TR-098", "TR-099")
def test_a_data_set_passes_its_gate_until_it_leaks(place: Path) -> None:
    """What was validated is what is judged; a copied row is found."""
    status, report = honed("validate", "--splits", "data/splits")
    assert (status, report["split_count"], report["leakage"]) == (0, 3, 0)
    assert honed("gate", "dataset-validated")[0] == 0
    test = place / "data/splits/test.jsonl"
    clean = test.read_bytes()
    try:
        test.write_bytes(
            clean + (place / "data/splits/train.jsonl").read_bytes().splitlines(True)[0]
        )
        status, result = honed("gate", "dataset-validated")
        assert (status, "not as it was measured" in result["message"]) == (1, True)
        status, report = honed("validate", "--splits", "data/splits")
        assert (status, report["leakage"]) == (1, 1)
        assert honed("gate", "dataset-validated")[1]["metrics"]["leakage"] == 1
    finally:
        test.write_bytes(clean)


def test_raw_rows_and_labels_are_measured_for_their_gates(place: Path) -> None:
    """Sources, categories, agreement."""
    files = ("data/splits/train.jsonl", "data/splits/test.jsonl")
    status, found = honed("gate", "raw-data", *files, "--expect", "disk", "--expect", "weather")
    assert status == 0
    assert found["raw_data"]["coverage"] == 50
    assert found["sources"]["source_count"] == count_raw(map(Path, files))[0].source_count == 3
    assert honed("gate", "sources-identified")[0] == 0
    status, result = honed("gate", "raw-data-quality")
    assert (status, len(result["blockers"])) == (1, 2)
    rows = [{"item": i, "annotator": a, "label": i % 2} for i in range(9) for a in ("ann", "bo")]
    write(place / "labels.jsonl", rows)
    assert honed("gate", "annotations", "labels.jsonl")[1]["agreement"] == 100
    assert honed("gate", "annotations-validated")[0] == 0


@pytest.mark.feature("TR-095")
@pytest.mark.parametrize("command", ["validate", "evaluate", *GATES])
def test_what_cannot_be_done_is_said_in_a_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder nothing was measured and nothing is there: status 1 or 2, and words without a traceback."""
    monkeypatch.chdir(tmp_path)
    words = ["gate", command] if command in GATES else [command]
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (1, 2), done.output
    assert done.output.strip()
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_data_of_a_run_are_found_by_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `train` and `preflight` find them; the length of its rows is the config's."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("train", "held", "test")):
        write(tmp_path / f"rows/{name}.jsonl", [talk(30 * number + i) for i in range(20)])
    (tmp_path / "run.toml").write_text(
        '[model]\nname = "x"\n[lora]\n[training]\n[dataset]\npath = "rows/train.jsonl"\n'
        'validation_path = "rows/held.jsonl"\n'
    )
    done = CliRunner().invoke(app, ["validate", "--config", "run.toml", "--json"])
    report = json.loads(done.output)
    found = {name: (each["path"], each["num_rows"]) for name, each in report["splits"].items()}
    assert found == {
        "train": ("rows/train.jsonl", 20),
        "validation": ("rows/held.jsonl", 20),
        "test": ("rows/test.jsonl", 20),
    }
    assert json.loads((tmp_path / "metrics/dataset.json").read_bytes()) == report
    both = CliRunner().invoke(app, ["validate", "--config", "run.toml", "--splits", "rows"])
    assert both.exit_code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gate", "deployment-ready", "--limit", "speed=1"), "no limit for 'speed'"),
        (("gate", "deployment-ready", "--limit", "memory_gb"), "'memory_gb' is no limit"),
        (("evaluate", "--config", "absent.toml"), "absent.toml cannot be read"),
        (("validate", "--splits", "."), "has none of train.jsonl"),
        (("validate",), "name files"),
        (("validate", "--config", "absent.toml"), "absent.toml cannot be read"),
        (("gate", "baseline", "--base-model", "x"), "data/splits/test.jsonl cannot be read"),
        (("gate", "baseline"), "no base model is named"),
        (("gate", "deployment", "--model", "x.gguf"), "data/splits/test.jsonl cannot be read"),
    ],
    ids=str,
)
def test_wrong_words_are_told(
    words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given, and what was expected."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (1, 2, 78)
    assert says in done.stderr


def test_an_adapter_is_loaded_once(place: Path, tiny_gguf: Path) -> None:
    """A model that has it merged in is served alone; which of both is meant is said."""
    words = ("gate", "deployment", "--adapter", "lora")
    status, found = honed(*words, "--model", str(tiny_gguf), "--merged")
    assert (status, found["adapter"]) == (0, None)
    assert honed(*words, "--model", str(tiny_gguf))[1]["adapter"] == str(
        place / "lora/adapter.gguf"
    )
    done = CliRunner().invoke(app, [*words, "--merged"])
    assert (done.exit_code, "not converted" in done.stderr) == (1, True)
    done = CliRunner().invoke(app, ["gate", "quantization", "--base-model", "base", "--merged"])
    assert (done.exit_code, "name both files" in done.stderr) == (1, True)
    (place / "bare").mkdir(exist_ok=True)
    done = CliRunner().invoke(app, ["gate", "deployment", "--adapter", "bare"])
    assert (done.exit_code, "has no adapter.gguf" in done.stderr) == (1, True)
