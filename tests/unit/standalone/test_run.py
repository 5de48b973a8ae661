"""A whole run from its config, by a real worker on a tiny model: what it tells, writes, and how it goes on."""

import json
import os
import resource
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from honed.errors import BusyError, ProcessFailedError, TrainingError, ValidationError
from honed.standalone import Finished, RunStatus, read_status
from honed.standalone.resuming import alone, checkpoint_at
from honed.standalone.run import NOTHING_LEFT
from tests.tiny_models import offline
from tests.unit.processors.test_worker_process import worker_pid
from tests.unit.standalone.parts import Told, config, do, write_splits
from tests.unit.worker.llama import llama_server

pytestmark = pytest.mark.timeout(600)
"""Four workers with torch in them start here."""
STEPS = 12
"""24 rows, 4 to a step, twice."""
OUTPUTS = {"merged_path": "models/merged", "gguf_path": "models/tiny.gguf"}


class Done(NamedTuple):
    """A finished run."""

    folder: Path
    finished: Finished
    told: Told

    @property
    def lora(self) -> Path:
        return self.folder / "models/checkpoints/lora"

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def lines(self) -> list[str]:
        return (self.folder / "logs/training.log").read_text().splitlines()


@pytest.fixture(scope="module")
def done(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """With all outputs, evaluated each epoch."""
    folder = tmp_path_factory.mktemp("done")
    write_splits(folder)
    told = Told([], [], [])
    finished = do(config(tiny_base, save=OUTPUTS), folder, told)
    return Done(folder, finished, told)


@pytest.mark.feature("TR-066", "TR-067", "TR-068", "TR-069", "TR-070", "TR-038")
def test_the_status_tells_each_logging_step(done: Done) -> None:
    """Running until it is done; step, epoch, loss and rate are those of the step that was logged last."""
    told = done.told.statuses
    assert [status.step for status in told] == list(range(1, STEPS + 1))
    assert all(status.running and status.total_steps == STEPS for status in told)
    assert [status.epoch for status in told] == pytest.approx([i / 6 for i in range(1, 13)])
    assert {status.total_epochs for status in told} == {2.0}
    rates = [status.learning_rate for status in told]
    assert rates[:6] == pytest.approx([0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert told[-1].loss == done.finished.stats.final_loss
    assert done.told.on_disk == [msgspec.to_builtins(status) for status in told]


@pytest.mark.feature("TR-066", "TR-072", "TR-073", "TR-074", "TR-075", "TR-076", "TR-044")
def test_the_status_keeps_its_times(done: Done) -> None:
    """Begun once, checkpoints as they come, updated each time, completed in the end."""
    told = [RunStatus(**each) for each in done.told.on_disk]
    last = read_status(done.folder / "training-status.json", done.folder / "none")
    assert last is not None
    assert not last.running
    assert last.error is None
    assert {status.started_at for status in [*told, last]} == {last.started_at}
    assert all(status.completed_at is None for status in told)
    times = [status.last_updated for status in told]
    assert times == sorted(times)
    saved = [status.checkpoint_at for status in told]
    assert saved[:4] == [None] * 4
    assert len(set(saved[4:])) >= 2
    assert last.checkpoint_at is not None
    order = [last.started_at, last.checkpoint_at, last.completed_at]
    moments = [datetime.fromisoformat(str(each)) for each in order]
    assert moments == sorted(moments)
    assert not list(done.folder.glob(".training-status*"))


@pytest.mark.feature("TR-083", "TR-077", "TR-100")
def test_the_log_has_a_line_for_each_step(done: Done) -> None:
    """And says what the status says, where there is no status."""
    steps = [line.split()[1] for line in done.lines if " step=" in line]
    assert steps == [f"step={i}/{STEPS}" for i in [*range(1, STEPS + 1), STEPS]]
    log = done.folder / "logs/training.log"
    by_file = read_status(done.folder / "training-status.json", log)
    by_log = read_status(done.folder / "none.json", log)
    assert by_file is not None
    assert by_log is not None
    assert by_log.loss == pytest.approx(by_file.loss, rel=1e-5)
    same: dict[str, Any] = dict.fromkeys(("loss", "epoch", "learning_rate"))
    assert msgspec.structs.replace(by_log, **same) == msgspec.structs.replace(by_file, **same)


@pytest.mark.feature("TR-032", "TR-057")
def test_what_learns_and_from_how_many_rows_is_said(done: Done, tiny_base: Path) -> None:
    """Only adapter weights: their number, its share, and the rows of a step; the base stays as it was."""
    from safetensors.torch import load_file

    weights = load_file(done.lora / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    trained = sum(weight.numel() for weight in weights.values())
    assert done.finished.result.num_trainable == trained
    (note,) = [note for note in done.told.notes if "are trained" in note]
    assert note.startswith(f"{trained:,} of ")
    assert note.endswith("4 rows to a step (2 x 2)")
    assert any(note in line for line in done.lines)


@pytest.mark.feature("TR-050", "TR-078", "TR-079", "TR-023")
def test_the_adapter_loads_in_peft(done: Done, tiny_base: Path) -> None:
    """On all seven projections, with tokenizer, lineage and card beside it."""
    offline()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(base, done.lora)
    found = json.loads((done.lora / "adapter_config.json").read_text())
    assert sorted(found["target_modules"]) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert (found["r"], found["lora_alpha"], found["lora_dropout"]) == (8, 16, 0)
    assert (done.lora / "adapter_model.safetensors").stat().st_size > 0
    ids = AutoTokenizer.from_pretrained(done.lora)("disk: inspect", return_tensors="pt")
    assert model(**ids).logits.isfinite().all()
    card = (done.lora / "README.md").read_text()
    digest = done.json("models/checkpoints/lora/manifest.json")["data_digest"]
    assert digest in card
    assert "PeftModel.from_pretrained" in card


def test_the_manifest_explains_the_adapter(done: Done, tiny_base: Path) -> None:
    """Every field of its schema, with the values of this run."""
    from honed.worker.run_manifest import RunManifest

    path = done.lora / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes(), type=RunManifest)
    assert set(json.loads(path.read_text())) == set(RunManifest.__struct_fields__)
    assert manifest.base_model == str(tiny_base)
    assert (manifest.steps, manifest.epochs, manifest.batch_size) == (STEPS, 2.0, 4)
    assert (manifest.num_rows, manifest.num_validation_rows) == (24, 8)
    assert manifest.holdout_fraction == 0.25
    assert not manifest.early_stopped
    assert manifest.best_val_loss is not None
    assert manifest.final_loss == done.finished.stats.final_loss
    assert manifest.seed == 3407
    assert manifest.settings.optim == "adamw_torch"
    assert manifest.versions["torch"]


@pytest.mark.feature("TR-080")
def test_the_figures_are_written(done: Done, tiny_base: Path) -> None:
    """Six fields."""
    found = done.json("metrics/training-stats.json")
    assert found == {
        "model": str(tiny_base),
        "dataset_samples": 24,
        "final_loss": done.told.statuses[-1].loss,
        "total_steps": STEPS,
        "epochs": 2.0,
        "completed_at": found["completed_at"],
    }


@pytest.mark.feature("TR-046")
def test_it_is_evaluated_each_epoch(done: Done) -> None:
    """On `val.jsonl` beside the training file; the best loss is kept."""
    assert done.finished.result.metrics.extra["num_evaluations"] == 2
    state = json.loads((done.folder / f"outputs/checkpoint-{STEPS}/trainer_state.json").read_text())
    evaluated = {line["epoch"] for line in state["log_history"] if "eval_loss" in line}
    assert evaluated == {1.0, 2.0}


@pytest.mark.feature("TR-043", "TR-062")
def test_checkpoints_lie_where_the_config_says(done: Done) -> None:
    """The last two, complete, and the best one."""
    from honed.worker.checkpoints import is_complete

    found = sorted((done.folder / "outputs").glob("checkpoint-*"))
    assert 1 <= len(found) <= 3
    assert all(map(is_complete, found))


@pytest.mark.feature("TR-051", "TR-081")
def test_the_merged_model_is_that_of_base_and_adapter(done: Done, tiny_base: Path) -> None:
    """In 16 bits, with its tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = done.folder / "models/merged"
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.dtype == torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    whole = PeftModel.from_pretrained(base, done.lora).merge_and_unload()
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name].to(torch.bfloat16)), name
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert (folder / "manifest.json").read_bytes() == (done.lora / "manifest.json").read_bytes()


@pytest.mark.feature("TR-052", "TR-053", "TR-082")
def test_the_gguf_loads_in_llama_cpp(done: Done, tmp_path: Path) -> None:
    """Quantised as asked for; the server answers with it. The adapter has its GGUF too."""
    import gguf

    path = done.folder / "models/tiny.gguf"
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds == {"Q8_0", "F32"}
    assert (done.lora / "adapter.gguf").is_file()
    with llama_server(path, log=tmp_path / "server.log") as client:
        answer = client.post("/completion", json={"prompt": "disk", "n_predict": 2})
    assert answer.status_code == 200


@pytest.fixture
def again(done: Done, tmp_path: Path) -> Path:
    """A folder with the same data and nothing else."""
    shutil.copytree(done.folder / "data", tmp_path / "data")
    return tmp_path


@pytest.mark.feature("TR-062", "TR-063", "TR-072", "TR-051", "TR-052")
def test_a_killed_run_is_told_and_goes_on_to_the_same_weights(
    done: Done, tiny_base: Path, again: Path
) -> None:
    """SIGKILL after a checkpoint: the status says why it ended; resumed it gives the very bytes of the whole run."""
    run = config(tiny_base)
    work = again / "outputs/run"
    stopped: list[RunStatus] = []

    def kill(status: RunStatus) -> None:
        if status.checkpoint_at is not None and not stopped:
            stopped.append(status)
            os.kill(worker_pid(work), signal.SIGKILL)

    with pytest.raises(ProcessFailedError, match="SIGKILL"):
        do(run, again, on_status=kill)
    failed = read_status(again / "training-status.json", again / "none")
    assert failed is not None
    assert not failed.running
    assert failed.completed_at is None
    assert "SIGKILL" in str(failed.error)
    adapter = again / "models/checkpoints/lora"
    assert not adapter.exists()
    with pytest.raises(ValidationError, match="cut off") as raised:
        do(run, again)
    assert "--resume" in str(raised.value.advice)
    with pytest.raises(ValidationError, match="learning_rate changed"):
        do(config(tiny_base, training={"learning_rate": 1e-3}), again, resume=True)
    told = Told([], [], [])
    do(run, again, told, resume=True)
    assert any(note.startswith("goes on after step") for note in told.notes)
    assert told.statuses[0].step > 1
    assert {status.started_at for status in told.statuses} == {failed.started_at}
    name = "models/checkpoints/lora/adapter_model.safetensors"
    assert (again / name).read_bytes() == (done.folder / name).read_bytes()
    assert [each.name for each in adapter.parent.iterdir()] == [adapter.name]  # nothing half left
    assert not (again / "models/merged").exists()
    assert not list(again.rglob("*.gguf"))


@pytest.mark.feature("TR-063", "TR-089", "TR-076")
def test_a_loss_that_is_no_number_stops_the_run(tiny_base: Path, again: Path) -> None:
    """With the rates to try instead; status and log have the words, and the error goes up."""
    from safetensors.torch import load_file, save_file

    broken = again / "broken"
    shutil.copytree(tiny_base, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    told = Told([], [], [])
    with pytest.raises(TrainingError, match="nan") as raised:
        do(config(broken), again, told, resume=True)
    assert NOTHING_LEFT in told.notes
    assert "training.learning_rate to 1e-4 or 5e-5" in str(raised.value.advice)
    status = read_status(again / "training-status.json", again / "none")
    assert status is not None
    assert not status.running
    assert str(raised.value) in str(status.error)
    assert "1e-4 or 5e-5" in str(status.error)
    by_log = read_status(again / "none.json", again / "logs/training.log")
    assert by_log is not None
    assert by_log.error == status.error
    assert not (again / "models/checkpoints/lora").exists()


@pytest.mark.feature("TR-063")
def test_a_full_disk_is_told_though_nobody_can_write_it_down(tiny_base: Path, again: Path) -> None:
    """Not even the worker's last word finds room there; the status says how it ended, and the checkpoint stays."""

    def fill(status: RunStatus) -> None:
        if status.step == 5:
            resource.prlimit(worker_pid(again / "outputs/run"), resource.RLIMIT_FSIZE, (16, 16))

    with pytest.raises(TrainingError, match=r"could not write its result.* disk is full") as raised:
        do(config(tiny_base, training={"num_train_epochs": 50}), again, on_status=fill)
    status = read_status(again / "training-status.json", again / "none")
    assert status is not None
    assert not status.running
    assert str(raised.value) in str(status.error)
    assert not (again / "models/checkpoints/lora").exists()
    assert checkpoint_at(again / "outputs") is not None


def test_two_runs_do_not_share_a_folder(tiny_base: Path, again: Path) -> None:
    """The second one is refused before it touches anything."""
    with alone(again / "outputs"), pytest.raises(BusyError, match="another run works"):
        do(config(tiny_base), again)
    assert not (again / "training-status.json").exists()
