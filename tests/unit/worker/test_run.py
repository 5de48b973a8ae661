"""Stand-alone runs on a tiny model, in this process: what each setting does, and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.config.run_file import run_file_of
from honed.domain.job import Progress, RunJob, RunResult
from honed.domain.train_settings import Half
from honed.errors import TrainingError, UnsupportedError
from tests.tiny_models import conversations, offline
from tests.unit.standalone.parts import write_lines

ONE_STEP = {
    "max_steps": 1,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
    "learning_rate": 5e-3,
}


def job(
    base: Path | str, folder: Path, rows: list[dict[str, Any]] | None = None, **sections: Any
) -> RunJob:
    """Of a config with these sections; one step unless they say otherwise."""
    table = {"model": {"name": str(base)}, "lora": {}, "training": ONE_STEP, "dataset": {}}
    for name, keys in sections.items():
        table[name] = table.get(name, {}) | keys
    run = run_file_of(table, "test")
    folder.mkdir(exist_ok=True)
    lines = rows or [{"messages": row["messages"]} for row in conversations(8)]
    data = write_lines(folder / "train.jsonl", lines)
    return RunJob(
        run_id="lora-tiny-1",
        base_model=str(base),
        data_path=str(data),
        validation_path=None,
        corpus_path=str(data),
        data_digest="",
        lora_path=str(folder / "lora"),
        checkpoints_path=str(folder / "outputs"),
        result_path=str(folder / "result.json"),
        settings=run.settings(),
        may_lack_targets="target_modules" not in run.lora.model_fields_set,
        chat_template=run.dataset.chat_template,
    )


def done(todo: RunJob) -> tuple[RunResult, list[str]]:
    """The run and what it told."""
    offline()
    from honed.worker.run import run

    told: list[Progress] = []
    result = run(todo, told.append)
    return result, [progress.note for progress in told if progress.note is not None]


def adapter(todo: RunJob) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(todo.lora_path) / "adapter_config.json").read_text())
    return found


def weights(todo: RunJob) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(Path(todo.lora_path) / "adapter_model.safetensors")
    return found


@pytest.mark.feature("TR-020", "TR-021", "TR-022", "TR-024", "TR-027", "TR-029", "TR-030")
def test_the_adapter_has_the_shape_of_the_config(tiny_base: Path, tmp_path: Path) -> None:
    """Rank, alpha, dropout, biases, scale, and no targets where the switches remove them."""
    todo = job(
        tiny_base,
        tmp_path,
        lora={
            "r": 4,
            "lora_alpha": 12,
            "lora_dropout": 0.2,
            "bias": "lora_only",
            "use_rslora": True,
            "finetune_attention_modules": False,
        },
    )
    done(todo)
    found = adapter(todo)
    wanted = {
        "r": 4,
        "lora_alpha": 12,
        "lora_dropout": 0.2,
        "bias": "lora_only",
        "use_rslora": True,
        "target_modules": ["down_proj", "gate_proj", "up_proj"],
    }
    assert {name: found[name] for name in wanted} == wanted
    assert {name.split(".")[-3] for name in weights(todo)} == set(wanted["target_modules"])


def test_what_is_not_learned_from_is_told(tiny_base: Path, tmp_path: Path) -> None:
    """Rows that are too long, with their number and that of their tokens; in the figures too."""
    rows = [{"messages": row["messages"]} for row in conversations(8)]
    for row in rows[:3]:
        row["messages"] = [{"role": "user", "content": "disk " * 600}, row["messages"][-1]]
    todo = job(tiny_base, tmp_path, rows, model={"name": str(tiny_base), "max_seq_length": 256})
    result, told = done(todo)
    tokens = sum(result.metrics.dropped_tokens.values())
    assert f"not learned from: 3 of 8 rows, {tokens} tokens beyond max_length" in told
    assert (result.num_rows, result.metrics.dropped_rows) == (5, 3)


def test_a_run_shorter_than_its_logging_steps_tells_its_loss(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The last step is logged, whatever is said of the others."""
    steps = {"max_steps": 3, "logging_steps": 50}
    result, _ = done(job(tiny_base, tmp_path, training=ONE_STEP | steps))
    assert result.metrics.num_steps == 3
    assert result.metrics.final_loss is not None


def test_an_adapter_that_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    """A run that was cut off between its two renames leaves the former one there; one that fails leaves it, too."""
    from honed.worker.run_outputs import published

    former = tmp_path / ".lora.former"
    former.mkdir()
    (former / "adapter_config.json").write_text("former")

    def fail() -> None:
        with published(tmp_path / "lora"):
            raise TrainingError("no")

    with pytest.raises(TrainingError, match="no"):
        fail()
    assert (tmp_path / "lora/adapter_config.json").read_text() == "former"
    assert [each.name for each in tmp_path.iterdir()] == ["lora"]


def test_texts_have_no_answers_to_compare(tiny_base: Path, tmp_path: Path) -> None:
    """A method that compares says so, rather than that another one is taken."""
    todo = job(
        tiny_base, tmp_path, [{"text": "disk: inspect"}] * 4, training=ONE_STEP | {"method": "kto"}
    )
    with pytest.raises(TrainingError, match="method kto needs answers to compare"):
        done(todo)


@pytest.mark.parametrize(
    ("device", "asked", "has", "wanted"),
    [
        ("cuda", None, True, None),
        ("cuda", None, False, "float16"),
        ("cuda", "bfloat16", False, "bfloat16"),
        ("cpu", None, False, None),
    ],
    ids=["has", "has-not", "asked", "cpu"],
)
def test_a_device_without_bfloat16_computes_in_float16(
    device: str, asked: Half | None, has: bool, wanted: Half | None
) -> None:
    """Unless somebody has chosen."""
    from honed.worker.base_model import half_of

    assert half_of(device, asked, has_bfloat16=lambda: has) == wanted


@pytest.mark.feature("TR-023")
def test_target_modules_are_checked_against_the_model(tiny_base: Path, tmp_path: Path) -> None:
    """One that somebody has chosen and that is not there is refused, with those that are."""
    todo = job(tiny_base, tmp_path, lora={"target_modules": ["q_proj", "w1"]})
    with pytest.raises(TrainingError, match="has no linear layer w1") as raised:
        done(todo)
    assert "q_proj" in str(raised.value.advice)


@pytest.mark.feature("TR-026", "TR-042")
def test_the_seed_of_the_adapter_decides_its_first_weights(tiny_base: Path, tmp_path: Path) -> None:
    """The same for the same random_state, whatever the seed of the rows is; other ones for another."""
    never = ONE_STEP | {"warmup_steps": 1}  # the rate of the first step is 0
    runs = []
    for name, state, seed in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        todo = job(
            tiny_base,
            tmp_path / name,
            lora={"random_state": state},
            training=never | {"seed": seed},
        )
        done(todo)
        runs.append(weights(todo))
    first, same, other = runs
    names = [name for name in first if ".lora_A." in name]
    assert all(first[name].equal(same[name]) for name in names)
    assert not any(first[name].equal(other[name]) for name in names)


@pytest.mark.feature("TR-019", "TR-039", "TR-018", "TR-037")
@pytest.mark.parametrize("optim", ["adamw_8bit", "adamw_torch", "sgd", "adafactor"])
def test_each_optimizer_trains_and_what_needs_cuda_is_told(
    tiny_base: Path, tmp_path: Path, optim: str
) -> None:
    """On a CPU 8 bits become AdamW, 4-bit weights and half types are left out."""
    todo = job(tiny_base, tmp_path, training={"optim": optim, "fp16": True})
    result, notes = done(todo)
    assert result.metrics.num_steps == 1
    assert weights(todo)
    assert any(note.startswith("model.load_in_4bit: ") for note in notes)
    assert "float16 needs CUDA: float32 is computed in" in notes
    assert ("training.optim: adamw_8bit needs CUDA: adamw_torch is taken" in notes) == (
        optim == "adamw_8bit"
    )
    manifest = json.loads((Path(todo.lora_path) / "manifest.json").read_text())
    assert manifest["optimizer"] == ("adamw_torch" if optim == "adamw_8bit" else optim)
    assert manifest["precision"] == "float32"


@pytest.mark.feature("TR-034", "TR-035", "TR-085", "TR-033", "TR-041")
def test_a_number_of_steps_wins_and_a_rising_loss_is_flagged(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Two steps though an epoch has eight; both learned nothing, on other rows, and the second had the higher loss."""
    rows = [{"text": "disk " * 40}] * 4 + [{"text": "cpu queue login " * 40}] * 4
    training = {"max_steps": 2, "num_train_epochs": 9, "learning_rate": 1e-6, "optim": "sgd"}
    training |= {"per_device_train_batch_size": 1, "lr_scheduler_type": "constant", "seed": 1}
    losses = []
    for number, seed in enumerate((1, 2, 3, 4)):
        todo = job(tiny_base, tmp_path / str(number), rows, training=training | {"seed": seed})
        result, _ = done(todo)
        assert (result.metrics.num_steps, result.total_steps) == (2, 2)
        first, last = result.metrics.extra["first_loss"], result.metrics.final_loss
        assert last is not None
        assert result.is_diverged == (last > first)
        losses.append(last - first)
    assert max(losses) > 0


@pytest.mark.feature("TR-025")
@pytest.mark.parametrize("checkpointing", [True, False, "unsloth"])
def test_checkpointing_changes_no_weight(
    tiny_base: Path, tmp_path: Path, checkpointing: bool | str
) -> None:
    """What is computed again is what was computed."""
    plain = job(tiny_base, tmp_path / "plain", lora={"use_gradient_checkpointing": False})
    other = job(tiny_base, tmp_path / "other", lora={"use_gradient_checkpointing": checkpointing})
    for todo in (plain, other):
        done(todo)
    found = weights(other)
    assert all(weight.allclose(found[name]) for name, weight in weights(plain).items())


@pytest.mark.feature("TR-090")
def test_a_model_that_is_not_found_shows_how_one_is_named(tmp_path: Path) -> None:
    """A folder, or an id of the hub."""
    with pytest.raises(TrainingError, match="'no/such model' was not found") as raised:
        done(job("no/such model", tmp_path))
    assert "a hub id such as Qwen/Qwen3-0.6B" in str(raised.value.advice)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _of_another_kind(path: Path) -> None:
    told = json.loads(path.read_text())
    told["model"]["type"] = "Unheard"
    path.write_text(json.dumps(told))


@pytest.mark.feature("TR-091")
@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("tokenizer.json", _cut, "the tokenizer of"),
        ("tokenizer.json", _of_another_kind, "the tokenizer of"),
        ("tokenizer_config.json", _cut, "the tokenizer of"),
        ("model.safetensors", _cut, "the weights of"),
        ("model.safetensors", Path.unlink, "the weights of"),
    ],
    ids=["tokenizer", "kind", "tokenizer-config", "weights", "gone"],
)
def test_a_damaged_file_of_the_base_model_is_named(
    tiny_base: Path, tmp_path: Path, name: str, spoil: Callable[[Path], object], told: str
) -> None:
    """As what it is, with what to compare; not as a fault of the program."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    spoil(base / name)
    with pytest.raises(TrainingError, match=f"^{told} {base} cannot be loaded") as raised:
        done(job(base, tmp_path / "run"))
    assert "of the model on the hub" in str(raised.value.advice)


@pytest.mark.parametrize("found", ["nothing", "folder"])
def test_data_that_have_vanished_are_named(tiny_base: Path, tmp_path: Path, found: str) -> None:
    """Between the order and its run; so is a folder in their place."""
    todo = job(tiny_base, tmp_path)
    data = Path(todo.data_path)
    data.unlink()
    if found == "folder":
        data.mkdir()
    with pytest.raises(TrainingError, match=f"training file {data} cannot be read"):
        done(todo)


@pytest.mark.feature("TR-048", "TR-091")
def test_a_template_of_another_model_is_warned_of(tiny_base: Path, tmp_path: Path) -> None:
    """The run goes on with it, and saves it with the tokenizer."""
    todo = job(tiny_base, tmp_path, dataset={"chat_template": "gemma-3"})
    _, notes = done(todo)
    assert sum("chat_template gemma-3 does not match" in note for note in notes) == 2
    assert "<start_of_turn>" in (Path(todo.lora_path) / "chat_template.jinja").read_text()


@pytest.mark.feature("TR-065", "TR-055")
def test_a_tracker_that_is_missing_is_named_before_anything_is_trained(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what installs it; nothing is installed by itself."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UnsupportedError, match="wandb, which is not installed") as raised:
        done(job(tiny_base, tmp_path, wandb={"enabled": True}))
    assert "pip install wandb" in str(raised.value.advice)
    assert not (tmp_path / "lora").exists()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.feature("TR-053", "TR-052")
def test_other_types_are_written_by_the_tool_of_llama_cpp(
    tiny_base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """It gets the merged model in bf16, the file to write and the type; its failure is told, and leaves no file."""
    from honed.worker.base_model import load_tokenizer
    from honed.worker.run_outputs import write_merged

    tool = tmp_path / "llama-quantize"
    tool.write_text('#!/bin/sh\nhead -c 4 "$1" > "$2" && printf %s "$3" >> "$2"\n')
    tool.chmod(0o755)
    todo = job(tiny_base, tmp_path / "run")
    told = {"gguf_path": str(tmp_path / "out/tiny.gguf"), "gguf_quantization": "Q4_K_M"}
    todo = msgspec.structs.replace(todo, **told, quantizer=str(tool))
    write_merged(todo, tiny_base, tiny_adapters[0], load_tokenizer(tiny_base))
    assert (tmp_path / "out/tiny.gguf").read_bytes() == b"GGUFQ4_K_M"
    (tmp_path / "out/tiny.gguf").unlink()
    tool.write_text("#!/bin/sh\necho it does not fit >&2\nexit 3\n")
    with pytest.raises(TrainingError, match="ended with status 3: it does not fit"):
        write_merged(todo, tiny_base, tiny_adapters[0], load_tokenizer(tiny_base))
    assert not list((tmp_path / "out").iterdir())
