"""The whole config: top-level keys, sections, and the places that follow from them."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from platformdirs import user_data_path
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from honed.config.gpu import GpuSection
from honed.config.redact import RedactSection
from honed.config.rewards import JudgeSection, RewardsSection
from honed.config.sections import (
    ApplySection,
    ConsentSection,
    EventsSection,
    GateSection,
    KeepSection,
    LearnSection,
    TrainSection,
    WorkerSection,
)
from honed.config.server import OwnKind, ServerSection
from honed.config.serving import ServeSection
from honed.config.values import Duration, Mode, Trigger
from honed.domain.ids import check_scenario
from honed.domain.processing import ProcessorMode
from honed.errors import ValidationError
from honed.triggers.text import default_watch

_SCHEMA: Final = re.compile(r"[?&]schema=")


class Config(BaseSettings):
    """Everything the operator can say."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        env_prefix="HONED__",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    scenario: str = Field(examples=["airline"])
    """The kind of work this daemon learns; required."""
    data_dir: Path = Field(Path(), examples=["/var/lib/honed/airline"])
    """Where everything is kept. Default: the user's data folder / honed / SCENARIO; for a file in /etc/honed
    /var/lib/honed / SCENARIO."""
    runtime_dir: Path | None = Field(None, examples=["/run/honed/airline"])
    """Where feed.sock and control.sock are. Default: data_dir; for a file in /etc/honed /run/honed / SCENARIO."""
    database: str = Field("", examples=["postgresql://honed@db.internal/honed"], repr=False)
    """Where the store is; default `sqlite:///{data_dir}/honed.db`. On a PostgreSQL server it is the schema
    `honed_SCENARIO`, else what `?schema=` says. Give a password in PGPASSWORD or a passfile, not here."""
    base_model: str | None = Field(None, examples=["Qwen/Qwen3-0.6B"])
    """Hub id or folder of the model that is trained and served; without it, or with `none`, nothing trains."""
    processor_mode: Mode | None = Field(None, examples=["lora"])
    """What a run does: `lora` trains an adapter, `offline` analyses the statistics of sessions, which is not part of
    this version, `full` both. Default: full when base_model is set, else offline, which trains nothing."""
    trigger: Trigger = Field(default_factory=default_watch)
    """When to learn: `count(n)`, `every("1h")`, `quality(below=0.6, window=50, min_samples=10)`,
    `drift()`, `quiet("10m")`, `window("01:00-06:00", tz="Europe/Berlin")`, `cron("0 3 * * *")`,
    `cooldown("2h")`, `budget(runs=4, per="1d")`, `failures(below=3)`, `manual()`, `always()`, `never()`, joined
    by `&` (and), `|` (or), `~` (not); docs/triggers.md says exactly what each means."""
    check_interval: Duration = Field(timedelta(seconds=10), ge=timedelta(milliseconds=10))
    """How often the trigger is asked when no episode comes in."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Log lines below it are not written."""
    events: EventsSection = EventsSection()
    """The feed: its queue and when a group of records becomes an episode."""
    consent: ConsentSection = ConsentSection()
    """Who must not be learned from, and whose content is not trusted. A rule is `FIELD=PATTERN`: FIELD is scenario,
    agent, role, user, task, group, session or tag.NAME; the pattern may hold `*` and `?`, and fits the whole value."""
    redact: RedactSection = RedactSection()
    """Secrets and personal data go out of an event before it is written anywhere (docs/redaction.md)."""
    keep: KeepSection = KeepSection()
    """For how long data are kept; 0 for ever. Looked at once a day, and by `honed cleanup`."""
    learn: LearnSection = LearnSection()
    """How records become episodes and training data."""
    rewards: RewardsSection = RewardsSection()
    """How what several sources say of an attempt becomes its outcome, and which programs are asked for theirs."""
    judge: JudgeSection = JudgeSection()
    """A model that is asked how good an attempt was, at any endpoint with OpenAI's chat completions."""
    train: TrainSection = TrainSection()
    """The LoRA run, in TRL's and PEFT's names."""
    worker: WorkerSection = WorkerSection()
    """The process that trains and scores."""
    gpu: GpuSection = GpuSection()
    """What a run asks of GPUs that it shares with the server and others."""
    gate: GateSection = GateSection()
    """When a candidate may go live by itself."""
    apply: ApplySection = ApplySection()
    """How a model gets into service."""
    serve: ServeSection = ServeSection()
    """The gateway and the llama-server processes behind it."""
    server: ServerSection = ServerSection()
    """A server that you run yourself (`apply.kind`: vllm, sglang, ollama, folder); docs/servers.md. A key, if it asks
    for one, is in the environment variable HONED_SERVER_KEY or the systemd credential server-key."""

    @field_validator("scenario")
    @classmethod
    def _scenario_names_a_folder(cls, value: str) -> str:
        try:
            return check_scenario(value)
        except ValidationError as error:
            raise ValueError(str(error)) from None

    @field_validator("base_model")
    @classmethod
    def _none_is_no_model(cls, value: str | None) -> str | None:
        return None if value == "none" else value  # the word of `honed init --base-model none`

    @model_validator(mode="after")
    def _names_what_its_server_needs(self) -> Self:
        needed = {"ollama": "from_model", "folder": "folder"}.get(self.apply.kind)
        if needed and getattr(self.server, needed) is None:
            raise ValueError(
                f'apply.kind is "{self.apply.kind}": expected server.{needed} to be set'
            )
        return self

    @model_validator(mode="after")
    def _keeps_the_base_model(self) -> Self:
        if self.apply.kind == "ollama" and self.server.from_model is not None:
            name, _, tag = self.server.from_model.lower().removeprefix("library/").partition(":")
            if name == self.scenario and (tag in ("", "latest") or tag.isdecimal()):
                raise ValueError(
                    f"server.from_model is {self.server.from_model!r}, a name that adapters of scenario "
                    f"{self.scenario} get: expected another one, or another scenario; the base model would be lost"
                )
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Fill in the places that depend on other keys."""
        data_dir = self.data_dir
        if data_dir == Path():
            data_dir = user_data_path("honed") / self.scenario
        data_dir = data_dir.expanduser().absolute()
        object.__setattr__(self, "data_dir", data_dir)
        if not self.database:
            object.__setattr__(self, "database", f"sqlite:///{quote(str(data_dir / 'honed.db'))}")
        elif self.database.startswith("postgres") and not _SCHEMA.search(self.database):
            sign = "&" if "?" in self.database else "?"
            schema = f"honed_{self.scenario}"[:63]  # the longest name that the server takes
            object.__setattr__(self, "database", f"{self.database}{sign}schema={schema}")

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
    def mode(self) -> ProcessorMode:
        """What a run does."""
        if self.processor_mode is not None:
            return self.processor_mode
        return ProcessorMode.FULL if self.base_model is not None else ProcessorMode.OFFLINE

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
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(runtime) / "honed" / "serve.sock"
        return user_data_path("honed") / "serve.sock"  # no session of systemd, as in containers

    @property
    def _sockets(self) -> Path:
        return self.runtime_dir.expanduser().absolute() if self.runtime_dir else self.data_dir

    @property
    def adapters_dir(self) -> Path:
        """Published adapters, one folder `scenario@n` each."""
        return self.data_dir / "adapters"

    @property
    def own_server(self) -> OwnKind | None:
        """Which kind of server the operator runs for the adapters; None where honed serves them, or nobody does."""
        match self.apply.kind:
            case "none" | "llama_server":
                return None
            case kind:
                return kind

    @property
    def endpoint_path(self) -> Path:
        """Says where and under which name a server that the operator runs answers for this scenario."""
        named = self.server.endpoint
        return named.expanduser().absolute() if named else self.data_dir / "endpoint.json"

    @property
    def runs_dir(self) -> Path:
        """One folder per training run."""
        return self.data_dir / "runs"

    @property
    def llama_dir(self) -> Path:
        """Base model as GGUF, logs of llama-server."""
        return self.data_dir / "llama"
