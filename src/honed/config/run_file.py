"""The config file of a stand-alone run (`honed train --config RUN.toml`): TOML or JSON, held to this schema.

All that is wrong in it is said at once, with the path of each key, before anything is loaded. What it leaves out has
the defaults of the preset `runner`.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticError

from honed.domain.running import Quantization, TemplateName
from honed.domain.train_settings import AskedMethod, Bias, Half, Optimizer, TrainSettings
from honed.errors import ConfigError

Trackers = Literal["none", "wandb", "tensorboard", "mlflow", "trackio"]

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")
_ATTENTION_NAMES: Final = {*ATTENTION, "out_proj", "qkv_proj"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """The base model."""

    name: Annotated[str, Field(min_length=1)]
    """Hub id (`owner/name`) or folder."""
    max_seq_length: Annotated[int, Field(ge=256, le=131072)] = 2048
    """Tokens that a row may hold."""
    dtype: Half | None = None
    """None: bfloat16 on CUDA. A CPU computes in float32."""
    load_in_4bit: bool = True
    """Left out, with a warning, without CUDA."""


class LoraSection(_Section):
    """The adapter."""

    r: Literal[4, 8, 16, 32, 64, 128] = 8
    lora_alpha: Annotated[float, Field(ge=1)] = 16
    lora_dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    target_modules: list[str] = [*ATTENTION, *MLP]
    """Names of linear layers of the model."""
    bias: Bias = "none"
    """All but `none` cannot be written to GGUF."""
    use_gradient_checkpointing: Literal[True, False, "unsloth"] = "unsloth"
    """true: compute activations again instead of keeping them; unsloth: so on an accelerator, where memory is short."""
    random_state: int = 3407
    """Seed of the adapter's first weights."""
    use_rslora: bool = False
    finetune_vision_layers: bool = False
    """Refused when true: images are not trained on."""
    finetune_language_layers: bool = True
    finetune_attention_modules: bool = True
    """false removes the attention's layers from the targets."""
    finetune_mlp_modules: bool = True
    """false removes the others."""


class TrainingSection(_Section):
    """The steps."""

    method: AskedMethod = "auto"
    """auto: what the rows are decides."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly dpo and kto keep to the base model."""
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=64)] = 2
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 4
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """A number of steps wins over epochs."""
    num_train_epochs: Annotated[int, Field(ge=1)] = 3
    learning_rate: Annotated[float, Field(ge=1e-6, le=1e-2)] = 2e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "linear"
    optim: Optimizer = "adamw_8bit"
    """adamw_8bit is adamw_torch on a CPU."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    seed: int = 3407
    logging_steps: Annotated[int, Field(ge=1)] = 1
    save_steps: Annotated[int, Field(ge=1)] = 500
    fp16: bool | None = None
    """With bf16 None too: what the device has."""
    bf16: bool | None = None
    early_stopping_patience: Annotated[int, Field(ge=0)] = 5
    """Evaluations without a better one that end the run; 0 goes on."""
    output_dir: str = "outputs"
    """Checkpoints, and what the run works with."""
    report_to: Trackers | list[Trackers] = "none"
    """Where figures are logged besides; each must be installed."""


class DatasetSection(_Section):
    """What is learned."""

    path: Annotated[str, Field(min_length=1)] = "data/splits/train.jsonl"
    validation_path: str | None = None
    """None: `val.jsonl` beside it, where there is one."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """Field of preformatted rows."""
    num_proc: Annotated[int, Field(ge=1)] = 2
    """Threads that tokenise preformatted rows; of conversations one after another is rendered."""
    chat_template: TemplateName | None = None
    """None: the model's own."""


class SaveSection(_Section):
    """What is written in the end."""

    lora_path: Annotated[str, Field(min_length=1)] = "models/checkpoints/lora"
    merged_path: str | None = None
    """Folder for the merged model in 16 bits; None writes none."""
    gguf_path: str | None = None
    """File for the merged model as GGUF; None writes none."""
    gguf_quantization: Quantization = "Q8_0"
    push_to_hub: bool = False
    hub_model_id: str | None = None


class WandbSection(_Section):
    """Weights & Biases, off unless enabled."""

    enabled: bool = False
    project: str | None = None
    run_name: str | None = None


class RunFile(_Section):
    """A stand-alone run."""

    model: ModelSection
    lora: LoraSection
    training: TrainingSection
    dataset: DatasetSection
    save: SaveSection = SaveSection()
    wandb: WandbSection = WandbSection()

    @property
    def validation_path(self) -> Path | None:
        """The file that the run is evaluated on each epoch; None without one."""
        if self.dataset.validation_path is not None:
            return Path(self.dataset.validation_path)
        beside = Path(self.dataset.path).with_name("val.jsonl")
        return beside if beside.is_file() else None

    @property
    def trackers(self) -> tuple[str, ...]:
        """Where figures are logged besides."""
        told = self.training.report_to
        named = [told] if isinstance(told, str) else told
        wandb = ["wandb"] if self.wandb.enabled else []
        return tuple(dict.fromkeys(name for name in [*named, *wandb] if name != "none"))

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Those that the switches leave."""
        return tuple(_targets(self.lora.model_dump()))

    def settings(self) -> TrainSettings:
        """What of this the trainer needs."""
        lora, training = self.lora, self.training
        checkpointing = lora.use_gradient_checkpointing
        half: Half | None = "float16" if training.fp16 else "bfloat16" if training.bf16 else None
        return TrainSettings(
            method=training.method,
            beta=training.beta,
            preset="runner",
            fixed=self._chosen(),
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=self.target_modules,
            use_rslora=lora.use_rslora,
            bias=lora.bias,
            random_state=lora.random_state,
            gradient_checkpointing=None if checkpointing == "unsloth" else checkpointing,
            load_in_4bit=self.model.load_in_4bit,
            max_length=self.model.max_seq_length,
            half=half or self.model.dtype,
            num_train_epochs=training.num_train_epochs,
            max_steps=training.max_steps,
            per_device_train_batch_size=training.per_device_train_batch_size,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=training.warmup_steps,
            optim=training.optim,
            weight_decay=training.weight_decay,
            seed=training.seed,
            logging_steps=training.logging_steps,
            save_steps=training.save_steps,
            early_stopping_patience=training.early_stopping_patience,
            report_to=self.trackers,
        )

    def _chosen(self) -> tuple[str, ...]:
        """Names of the settings that the file has, which a method's own defaults do not change."""
        known = set(TrainSettings.__struct_fields__)
        said = self.model.model_fields_set | self.lora.model_fields_set
        return tuple(sorted((said | self.training.model_fields_set) & known))


def load_run_file(path: Path, *, base_model: str | None = None) -> RunFile:
    """Read a config file.

    Args:
        path: TOML, or JSON by its suffix.
        base_model: instead of the file's `model.name`.

    Raises:
        ConfigError: it cannot be read, or is wrong; all faults are listed at once.
    """
    table = _read(path)
    if base_model is not None and isinstance(table.setdefault("model", {}), dict):
        table["model"]["name"] = base_model
    return run_file_of(table, str(path))


def run_file_of(table: Mapping[str, Any], where: str) -> RunFile:
    """The config that a table says.

    Raises:
        ConfigError: it is wrong; all faults are listed at once.
    """
    faults: list[str] = []
    found = None
    try:
        found = RunFile.model_validate(table)
    except PydanticError as error:
        faults = list(_faults(error.errors(include_url=False)))
    faults += _contradictions(table)
    if faults or found is None:
        faults = list(dict.fromkeys(faults))
        raise ConfigError(f"config ({where}): {'; '.join(faults)}", faults=faults)
    return found


def default_table(base_model: str | None = None) -> dict[str, Any]:
    """Every key with its default; `model.name` where it is known."""
    sections: dict[str, type[BaseModel]] = {
        "model": ModelSection,
        "lora": LoraSection,
        "training": TrainingSection,
        "dataset": DatasetSection,
        "save": SaveSection,
        "wandb": WandbSection,
    }
    table = {
        name: {
            key: field.get_default(call_default_factory=True)
            for key, field in section.model_fields.items()
            if not field.is_required()
        }
        for name, section in sections.items()
    }
    if base_model is not None:
        table["model"] = {"name": base_model, **table["model"]}
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise ConfigError(f"config file {path} is not text: {error}") from error
    form = "JSON" if path.suffix == ".json" else "TOML"
    try:
        found = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"config file {path} is not {form}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"config file {path} is no table of sections")
    return found


def _faults(items: Iterable[Any]) -> Iterator[str]:
    """A line for each; what may be a value or a list of them is told by what it may be."""
    told = set()
    for item in items:
        path = [str(part) for part in item["loc"]]
        plain = [part for part in path if not part.startswith(("literal[", "list["))]
        name = ".".join(plain[:2])
        if plain == path:
            yield _fault(item, path)
        elif name not in told:
            told.add(name)
            yield f"{name}: {item['msg']} or a list of them, found {item['input']!r}"


def _fault(item: Any, path: list[str]) -> str:
    name = ".".join(path)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _known(path[:-1]), n=1)
        return f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if item["type"] == "missing":
        hint = " (a hub id such as Qwen/Qwen3-0.6B, or a folder)" if name == "model.name" else ""
        return f"{name}: required{hint}"
    return f"{name}: {item['msg']}, found {item['input']!r}"


def _known(path: list[str]) -> list[str]:
    """Names of the keys of a section; empty where the path leads to none."""
    model: Any = RunFile
    for part in path:
        model = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def _contradictions(table: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between keys; asked of the table itself, so that it is said beside all else."""
    lora, training, save = (_section(table, name) for name in ("lora", "training", "save"))
    if training.get("fp16") is True and training.get("bf16") is True:
        yield "training.fp16, training.bf16: both are true, a run computes in one of them"
    halves = {"float16": "fp16", "bfloat16": "bf16"}
    asked = {kind for kind, key in halves.items() if training.get(key) is True}
    dtype = _section(table, "model").get("dtype")
    if dtype in halves and asked - {dtype}:
        yield f"model.dtype, training.{halves[min(asked - {dtype})]}: they ask for two types, a run computes in one"
    if lora.get("finetune_vision_layers") is True:
        yield "lora.finetune_vision_layers: images are not trained on, expected false"
    if isinstance(lora.get("target_modules", []), list) and not list(_targets(lora)):
        yield "lora: the switches leave no target module, nothing would learn"
    if save.get("gguf_path") is not None and lora.get("bias", "none") != "none":
        yield "lora.bias: GGUF has no place for trained biases, expected none with save.gguf_path"
    if save.get("push_to_hub") is True:
        if not save.get("hub_model_id"):
            yield "save.hub_model_id: required with save.push_to_hub"
        offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(name)]
        if offline:
            yield f"save.push_to_hub: refused, {offline[0]} is set: unset it, or upload the adapter's folder later"


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def _targets(lora: Mapping[str, Any]) -> Iterator[str]:
    """The target modules that the switches leave."""
    if lora.get("finetune_language_layers", True) is False:
        return
    for name in lora.get("target_modules", [*ATTENTION, *MLP]):
        part = "attention" if str(name).rpartition(".")[2] in _ATTENTION_NAMES else "mlp"
        if lora.get(f"finetune_{part}_modules", True) is not False:
            yield name
