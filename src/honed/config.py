"""What the operator wrote: one TOML file, one frozen Config of small frozen sections.

Every key can also come from the environment as `HONED__SECTION__KEY`, which wins over the file. Unknown keys are
refused with the nearest known one. Every limit is checked here, once; a room receives its section and trusts it.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

import msgspec
from platformdirs import user_config_path, user_data_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic import ValidationError as PydanticError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from honed.domain.ids import check_scenario
from honed.domain.job import Device, TrainSettings
from honed.errors import ConfigError, TriggerSyntaxError, ValidationError
from honed.triggers.duration import parse_duration
from honed.triggers.text import from_table, parse
from honed.triggers.trigger import TrainTrigger

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _parse_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9]\d*)\s*(KiB|MiB|GiB)?", value)):
        return int(match[1]) * _SIZES.get(match[2] or "", 1)
    raise ValueError(f"{value!r} is not a size: expected for example 64MiB or bytes")


def _parse_trigger(value: object) -> TrainTrigger:
    if isinstance(value, TrainTrigger):
        return value
    try:
        return parse(value) if isinstance(value, str) else from_table(value)
    except TriggerSyntaxError as error:
        raise ValueError(str(error)) from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(_parse_size)]


class Section(BaseModel):
    """A part of the config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class EventsSection(Section):
    """The feed: its queue and when a group of records becomes an episode."""

    queue_size: int = Field(10_000, ge=1)
    """Events that may wait for the commit; a full queue makes the source wait."""
    queue_bytes: Size = 64 << 20
    batch_max: int = Field(1_000, ge=1)
    """Events in one commit at most."""
    line_max: Size = 1 << 20
    """Bytes of one line at most."""
    episode_idle: Duration = timedelta(minutes=5)
    """A group without a new record for this long is closed as it is; 0 never."""
    settle: Duration = timedelta(seconds=2)
    """How long an ended group waits for records that are still on their way."""


class LearnSection(Section):
    """How records become episodes and training data."""

    model: Literal["chat", "worker_decision_sequence"] = "chat"
    unlabelled: Literal["wait", "train"] = "wait"
    """Episodes without an outcome wait for one, or count as successes."""


class TrainSection(Section):
    """The LoRA run, in TRL's and PEFT's names."""

    method: Literal["auto", "sft"] = "auto"
    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    target_modules: tuple[str, ...] | None = None
    num_train_epochs: int = 3
    max_steps: int | None = None
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 4
    learning_rate: float = 2e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "linear"
    warmup_steps: int = 5
    weight_decay: float = 0.01
    max_length: int = 2048
    seed: int = 3407
    device: Device = "auto"
    threads: int = 0
    logging_steps: int = 5
    max_episodes: int = Field(5_000, ge=1)
    """Newest episodes that a run looks at."""
    min_score: float = Field(0.0, ge=0.0, le=1.0)
    min_rows: int = Field(20, ge=1)
    """A run with fewer rows is skipped."""
    backoff: Duration = timedelta(seconds=60)
    """Wait after a failed run; doubles with each further failure, up to 1 h."""
    stop_grace: Duration = timedelta(seconds=10)
    """How long a cancelled worker may take to end by itself."""

    def settings(self) -> TrainSettings:
        """What of this the worker needs."""
        names = TrainSettings.__struct_fields__
        return msgspec.convert({name: getattr(self, name) for name in names}, TrainSettings)

    @model_validator(mode="after")
    def _within_the_limits_of_the_worker(self) -> Self:
        self.settings()  # msgspec's error is a ValueError that names the field
        return self


class GateSection(Section):
    """When a candidate may go live by itself."""

    enabled: bool = True
    held_out_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the groups that is kept from training for ever."""
    min_successes: int = Field(10, ge=2)
    """Held-out successes below which there is not enough evidence."""
    min_failures: int = Field(10, ge=2)
    """Held-out failures below which the outcome contrast is not used."""
    alpha: float = Field(0.01, gt=0.0, lt=0.5)
    """Chance of passing a candidate whose gains have nothing to do with outcomes."""
    permutations: int = Field(2_000, ge=200)


class ApplySection(Section):
    """How a model gets into service."""

    mode: Literal["manual", "auto"] = "manual"
    kind: Literal["none", "llama_server"] = "llama_server"
    max_history: int = Field(5, ge=2)


class ServeSection(Section):
    """The gateway and the llama-server processes behind it."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    """0 takes a free one."""
    socket: Path | None = None
    """`serve.sock`; default in the user's runtime folder (else data folder) / honed."""
    llama_server: Path | None = None
    """Executable of llama.cpp's server; default: the one bundled with the extra `serve`."""
    base_model_path: Path | None = None
    """The base model as GGUF; default: converted once from `base_model` into `data_dir/llama`."""
    ctx_size: int = Field(4096, ge=64)
    """Tokens of context per slot."""
    parallel: int = Field(4, ge=1)
    """Slots: requests that one server answers at a time."""
    threads: int = Field(0, ge=0)
    """0 means all cores but one."""
    n_gpu_layers: int = Field(99, ge=0)
    startup_timeout: Duration = timedelta(seconds=120)
    drain_timeout: Duration = timedelta(seconds=30)
    max_body: Size = 16 << 20
    """Bytes of one request's body at most."""


class Config(BaseSettings):
    """Everything the operator can say."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        env_prefix="HONED__",
        env_nested_delimiter="__",
    )

    scenario: str
    """The kind of work this daemon learns; required."""
    data_dir: Path = Path()
    """Default: the user's data folder / honed / SCENARIO."""
    database: str = ""
    """SQLAlchemy URL; default `sqlite:///{data_dir}/honed.db`."""
    base_model: str | None = None
    """Hub id or folder of the model that is trained and served; without it nothing trains."""
    trigger: Annotated[TrainTrigger, BeforeValidator(_parse_trigger)] = Field(
        default_factory=lambda: parse('count(100) | every("1h")')
    )
    check_interval: Duration = Field(timedelta(seconds=10), ge=timedelta(milliseconds=10))
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    events: EventsSection = EventsSection()
    learn: LearnSection = LearnSection()
    train: TrainSection = TrainSection()
    gate: GateSection = GateSection()
    apply: ApplySection = ApplySection()
    serve: ServeSection = ServeSection()

    @field_validator("scenario")
    @classmethod
    def _scenario_names_a_folder(cls, value: str) -> str:
        try:
            return check_scenario(value)
        except ValidationError as error:
            raise ValueError(str(error)) from None

    def model_post_init(self, context: Any, /) -> None:
        """Fill in the places that depend on other keys."""
        data_dir = self.data_dir
        if data_dir == Path():
            data_dir = user_data_path("honed") / self.scenario
        data_dir = data_dir.expanduser().absolute()
        object.__setattr__(self, "data_dir", data_dir)
        if not self.database:
            object.__setattr__(self, "database", f"sqlite:///{quote(str(data_dir / 'honed.db'))}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @property
    def feed_socket(self) -> Path:
        """Where events come in."""
        return self._sockets / "feed.sock"

    @property
    def control_socket(self) -> Path:
        """Where the daemon is asked and told."""
        return self._sockets / "control.sock"

    @property
    def serve_socket(self) -> Path:
        """Where the gateway is asked and told."""
        if self.serve.socket is not None:
            return self.serve.socket
        if runtime := os.environ.get("RUNTIME_DIRECTORY"):
            return Path(runtime) / "serve.sock"
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(runtime) / "honed" / "serve.sock"
        return user_data_path("honed") / "serve.sock"  # no session of systemd, as in containers

    @property
    def _sockets(self) -> Path:
        runtime = os.environ.get("RUNTIME_DIRECTORY")
        return Path(runtime) if runtime else self.data_dir

    @property
    def adapters_dir(self) -> Path:
        """Published adapters, one folder `scenario@n` each."""
        return self.data_dir / "adapters"

    @property
    def runs_dir(self) -> Path:
        """One folder per training run."""
        return self.data_dir / "runs"

    @property
    def llama_dir(self) -> Path:
        """Base model as GGUF, logs of llama-server."""
        return self.data_dir / "llama"


def config_paths() -> Iterator[Path]:
    """Where a config file is looked for, first found wins."""
    if named := os.environ.get("HONED_CONFIG"):
        yield Path(named)
        return
    yield Path("honed.toml")
    yield user_config_path("honed") / "config.toml"
    yield Path("/etc/honed/config.toml")


def load_config(path: Path | None = None, **overrides: Any) -> Config:
    """Read the config file (if there is one) and the environment.

    Args:
        path: the file; None looks in the usual places and does without one.
        overrides: values that win over the file but not over the environment.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; all faults are listed at once.
    """
    found = path or next((p for p in config_paths() if p.is_file()), None)
    named = path is not None or "HONED_CONFIG" in os.environ
    if named and found is None:
        raise ConfigError(f"config file {os.environ['HONED_CONFIG']} does not exist")
    table = _read_toml(found) if found else {}
    where = str(found) if found else "environment"
    faults = _unknown_variables()
    try:
        config = Config(**(table | overrides))
    except PydanticError as error:
        faults += [_fault(item) for item in error.errors(include_url=False)]
    except SettingsError as error:
        faults.append(str(error))
    if faults:
        raise ConfigError(f"config ({where}): {'; '.join(faults)}")
    return config


def _unknown_variables() -> list[str]:
    """Variables that look like ours but name no key; pydantic passes over them."""
    known = list(Config.model_fields)
    faults = []
    for name in sorted(os.environ):
        key = name.removeprefix("HONED__").partition("__")[0].lower()
        if name.startswith("HONED__") and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean HONED__{near[0].upper()}?" if near else ""
            faults.append(f"{name}: unknown key{hint}")
    return faults


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error


def _fault(item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        return f"{name}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if item["type"] == "missing":
        variable = f"HONED__{name.upper().replace('.', '__')}"
        return f"{name}: required (`honed init` writes a file; or set {variable})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def _known_keys(path: list[str]) -> list[str]:
    model: Any = Config
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
