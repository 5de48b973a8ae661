"""The config of a stand-alone run: every key, its default and its limits, and all faults at once."""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.config.run_file import ATTENTION, MLP, default_table, load_run_file, run_file_of
from honed.domain.train_settings import TrainSettings
from honed.errors import ConfigError

LEAST: dict[str, dict[str, Any]] = {
    "model": {"name": "tiny"},
    "lora": {},
    "training": {},
    "dataset": {},
}


def table(**sections: dict[str, Any]) -> dict[str, Any]:
    """The least config with more in some sections."""
    return {name: LEAST.get(name, {}) | sections.get(name, {}) for name in LEAST.keys() | sections}


def settings(**sections: dict[str, Any]) -> TrainSettings:
    return run_file_of(table(**sections), "test").settings()


def faults(found: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        run_file_of(found, "test")
    return raised.value.faults


KEYS: list[tuple[str, str, Any, list[Any], list[Any]]] = [
    ("model", "max_seq_length", 2048, [256, 131072], [255, 131073, "2048"]),
    ("model", "dtype", None, ["float16", "bfloat16"], ["float32", "fp16"]),
    ("model", "load_in_4bit", True, [False], ["no"]),
    ("lora", "r", 8, [4, 8, 16, 32, 64, 128], [7, 256, 0]),
    ("lora", "lora_alpha", 16, [1, 64], [0, -1]),
    ("lora", "lora_dropout", 0.0, [0, 0.5], [-0.1, 0.51]),
    ("lora", "bias", "none", ["all", "lora_only"], ["some"]),
    ("lora", "use_gradient_checkpointing", "unsloth", [True, False], ["true", "on"]),
    ("lora", "random_state", 3407, [1], ["x"]),
    ("lora", "use_rslora", False, [True], [1]),
    ("training", "per_device_train_batch_size", 2, [1, 64], [0, 65]),
    ("training", "gradient_accumulation_steps", 4, [1, 100], [0]),
    ("training", "warmup_steps", 5, [0, 10], [-1]),
    ("training", "max_steps", None, [1, 60], [0, True]),
    ("training", "num_train_epochs", 3, [1], [0]),
    ("training", "learning_rate", 2e-4, [1e-6, 1e-2], [9e-7, 1.1e-2]),
    ("training", "logging_steps", 1, [10], [0]),
    ("training", "optim", "adamw_8bit", ["adamw_torch", "sgd", "adafactor"], ["adam"]),
    ("training", "weight_decay", 0.01, [0, 0.1], [-0.1]),
    ("training", "lr_scheduler_type", "linear", ["cosine", "constant", "polynomial"], ["step"]),
    ("training", "seed", 3407, [1], [1.5]),
    ("training", "save_steps", 500, [1], [0]),
    ("training", "output_dir", "outputs", ["x"], [1]),
    ("training", "method", "auto", ["sft", "dpo", "kto"], ["ppo"]),
    ("training", "beta", 0.1, [0.5], [0]),
    ("training", "early_stopping_patience", 5, [0, 9], [-1]),
    ("training", "report_to", "none", ["wandb", ["trackio", "mlflow"]], ["comet", ["comet"]]),
    ("dataset", "path", "data/splits/train.jsonl", ["x.jsonl"], [""]),
    ("dataset", "text_field", "text", ["body"], [""]),
    ("dataset", "num_proc", 2, [1], [0]),
    (
        "dataset",
        "chat_template",
        None,
        ["gemma-3", "llama-3", "mistral", "chatml", "zephyr"],
        ["alpaca"],
    ),
    ("save", "lora_path", "models/checkpoints/lora", ["x"], [""]),
    ("save", "merged_path", None, ["x"], [1]),
    ("save", "gguf_path", None, ["x"], [1]),
    ("save", "gguf_quantization", "Q8_0", ["Q4_K_M", "Q5_K_M", "f16", "bf16"], ["Q2_K"]),
]


@pytest.mark.feature("TR-017", "TR-018", "TR-020", "TR-021", "TR-022", "TR-024", "TR-025")
@pytest.mark.feature("TR-031", "TR-033", "TR-035", "TR-036", "TR-039", "TR-040", "TR-041")
@pytest.mark.feature("TR-042", "TR-045", "TR-049", "TR-053")
@pytest.mark.parametrize(
    ("section", "key", "default", "taken", "refused"), KEYS, ids=[each[1] for each in KEYS]
)
def test_each_key_has_its_default_and_its_limits(
    section: str, key: str, default: Any, taken: list[Any], refused: list[Any]
) -> None:
    """Values at the limits are taken, those beyond are refused by the path of the key."""
    assert getattr(getattr(run_file_of(table(), "test"), section), key) == default
    for value in taken:
        found = run_file_of(table(**{section: {key: value}}), "test")
        assert getattr(getattr(found, section), key) == value
    for value in refused:
        (fault,) = faults(table(**{section: {key: value}}))
        assert fault.startswith(f"{section}.{key}")


PASSED_ON = [
    ("lora", {"r": 64}, {"r": 64}),
    ("lora", {"lora_alpha": 3}, {"lora_alpha": 3}),
    ("lora", {"lora_dropout": 0.25}, {"lora_dropout": 0.25}),
    ("lora", {"use_rslora": True}, {"use_rslora": True}),
    ("lora", {"random_state": 7}, {"random_state": 7, "seed": 3407}),
    ("lora", {"use_gradient_checkpointing": True}, {"gradient_checkpointing": True}),
    ("lora", {"use_gradient_checkpointing": False}, {"gradient_checkpointing": False}),
    ("lora", {}, {"gradient_checkpointing": None}),
    ("training", {"fp16": True}, {"half": "float16"}),
    ("training", {"bf16": True}, {"half": "bfloat16"}),
    ("model", {"dtype": "float16"}, {"half": "float16"}),
    ("model", {"max_seq_length": 512}, {"max_length": 512}),
    ("training", {"max_steps": 9, "num_train_epochs": 2}, {"max_steps": 9, "num_train_epochs": 2}),
    ("training", {"optim": "sgd"}, {"optim": "sgd"}),
    ("training", {"method": "kto", "beta": 0.2}, {"method": "kto", "beta": 0.2}),
    ("training", {"early_stopping_patience": 0}, {"early_stopping_patience": 0}),
    ("training", {"lr_scheduler_type": "cosine"}, {"lr_scheduler_type": "cosine"}),
    (
        "training",
        {"report_to": ["tensorboard", "mlflow"]},
        {"report_to": ("tensorboard", "mlflow")},
    ),
    ("wandb", {"enabled": True}, {"report_to": ("wandb",)}),
    ("wandb", {}, {"report_to": ()}),
]


@pytest.mark.feature("TR-026", "TR-027", "TR-034", "TR-037", "TR-055")
@pytest.mark.parametrize(
    ("section", "said", "wanted"),
    PASSED_ON,
    ids=[f"{s}-{'-'.join(w)}-{i}" for i, (s, _, w) in enumerate(PASSED_ON)],
)
def test_what_the_file_says_reaches_the_trainer(
    section: str, said: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Each value arrives under the trainer's name for it; nothing is logged elsewhere by itself."""
    found = msgspec.to_builtins(settings(**{section: said}))
    assert {name: found[name] for name in wanted} == msgspec.to_builtins(wanted)


@pytest.mark.feature("TR-016", "TR-056")
@pytest.mark.parametrize("form", ["toml", "json"])
def test_all_faults_are_said_at_once(tmp_path: Path, form: str) -> None:
    """Missing, unknown, out of bounds and contradictory, each with the path of its key, in either form."""
    path = tmp_path / f"run.{form}"
    if form == "toml":
        path.write_text(
            "[model]\nmax_seq_length = 10\n[lora]\nr = 7\nlora_dropuot = 1\n"
            "[training]\nfp16 = true\nbf16 = true\n[extra]\nx = 1\n"
        )
    else:
        path.write_text(
            json.dumps(
                {
                    "model": {"max_seq_length": 10},
                    "lora": {"r": 7, "lora_dropuot": 1},
                    "training": {"fp16": True, "bf16": True},
                    "extra": {"x": 1},
                }
            )
        )
    with pytest.raises(ConfigError) as raised:
        load_run_file(path)
    assert raised.value.faults == (
        "model.name: required (a hub id such as Qwen/Qwen3-0.6B, or a folder)",
        "model.max_seq_length: Input should be greater than or equal to 256, found 10",
        "lora.r: Input should be 4, 8, 16, 32, 64 or 128, found 7",
        "lora.lora_dropuot: unknown key, did you mean lora_dropout?",
        "dataset: required",
        "extra: unknown key",
        "training.fp16, training.bf16: both are true, a run computes in one of them",
    )
    assert all(fault in str(raised.value) for fault in raised.value.faults)


@pytest.mark.feature("TR-023", "TR-028", "TR-029", "TR-030")
def test_the_switches_remove_targets() -> None:
    """Seven projections by default; attention or the others go; without any there is nothing to learn."""

    def targets(**lora: Any) -> tuple[str, ...] | None:
        return settings(lora=lora).target_modules

    assert targets() == ATTENTION + MLP
    assert targets(finetune_attention_modules=False) == MLP
    assert targets(finetune_mlp_modules=False) == ATTENTION
    assert targets(target_modules=["q_proj", "w1"], finetune_mlp_modules=False) == ("q_proj",)
    nothing = "lora: the switches leave no target module, nothing would learn"
    assert faults(table(lora={"finetune_language_layers": False})) == (nothing,)
    both = {"finetune_attention_modules": False, "finetune_mlp_modules": False}
    assert faults(table(lora=both)) == (nothing,)
    (vision,) = faults(table(lora={"finetune_vision_layers": True}))
    assert vision.startswith("lora.finetune_vision_layers: images are not trained on")


def test_two_types_to_compute_in_are_refused() -> None:
    """Wherever they are asked for; one that is asked for twice is one."""
    said = table(model={"dtype": "bfloat16"}, training={"fp16": True})
    assert faults(said) == (
        "model.dtype, training.fp16: they ask for two types, a run computes in one",
    )
    assert settings(model={"dtype": "float16"}, training={"fp16": True}).half == "float16"


@pytest.mark.feature("TR-024", "TR-052")
def test_biases_cannot_be_written_to_gguf() -> None:
    """It is said before anything is trained."""
    (fault,) = faults(table(lora={"bias": "all"}, save={"gguf_path": "m.gguf"}))
    assert fault.startswith("lora.bias: GGUF has no place")


@pytest.mark.feature("TR-054")
def test_an_upload_is_refused_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by default; with the hub switched off the run does not even begin, and the name is required."""
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    push = {"push_to_hub": True, "hub_model_id": "me/adapter"}
    assert run_file_of(table(save=push), "test").save.push_to_hub
    assert not run_file_of(table(), "test").save.push_to_hub
    assert faults(table(save={"push_to_hub": True})) == (
        "save.hub_model_id: required with save.push_to_hub",
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (fault,) = faults(table(save=push))
    assert fault.startswith("save.push_to_hub: refused, HF_HUB_OFFLINE is set")


def test_only_what_the_file_has_counts_as_chosen() -> None:
    """What it leaves out a method's own defaults may change."""
    assert settings(training={"learning_rate": 1e-4}, lora={"r": 8}).fixed == ("learning_rate", "r")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.toml", "[model", "is not TOML"),
        ("run.json", "{", "is not JSON"),
        ("run.json", "[]", "is no table"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    """With the form that it should have."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_run_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run_file(tmp_path / "none.toml")


def test_the_sample_of_the_docs_has_every_key_with_its_default() -> None:
    """Commented ones included; it can be copied as it stands."""
    page = (Path(__file__).parents[3] / "docs/train.md").read_text()
    sample = page.split("```toml\n")[1].split("```")[0]
    run_file_of(tomllib.loads(sample), "docs")
    shown = tomllib.loads(sample)
    whole = default_table(shown["model"]["name"])
    uncommented = tomllib.loads(sample.replace("\n# ", "\n"))
    uncommented["training"].pop("fp16")
    run_file_of(uncommented, "docs")
    assert {(s, k) for s in whole for k in whole[s]} - {
        (s, k) for s in uncommented for k in uncommented[s]
    } == {
        ("training", "fp16"),
        ("training", "bf16"),
    }
    assert {s: {k: whole[s][k] for k in shown[s]} for s in shown} == shown
