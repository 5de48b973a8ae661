"""The sections of the config: every key with its type, limits, default and meaning.

The text under a key is what `honed config reference` and the JSON schema say about it.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    model_validator,
)

from honed.config.values import Address, ConsentRule, Duration, LearnModels, PlainFile, Size
from honed.domain.consent import Consent
from honed.domain.job import AskedMethod, Bias, Device, Preset, TooLong, TrainSettings
from honed.domain.recipe import preset
from honed.learn_models import DpoConfig, LearnModel, Options, create_all


class Section(BaseModel):
    """A part of the config: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class EventsSection(Section):
    """The feed: its queue and when a group of records becomes an episode."""

    queue_size: int = Field(10_000, ge=1)
    """Events that may wait for the commit; a full queue makes the source wait."""
    queue_bytes: Size = 64 << 20
    """Bytes of events that may wait for the commit."""
    batch_max: int = Field(1_000, ge=1)
    """Events in one commit at most."""
    line_max: Size = 1 << 20
    """Bytes of one line at most."""
    episode_idle: Duration = timedelta(minutes=5)
    """A group without a new record for this long is closed as it is; 0 never."""
    settle: Duration = timedelta(seconds=2)
    """How long an ended group waits for records that are still on their way; calls come from the gateway some 20 ms
    after their answers."""
    allow_uids: tuple[NonNegativeInt, ...] = ()
    """Users, by number, who may send to `feed.sock` besides the daemon's own and root; they must be able to enter
    its folder (`runtime_dir`)."""
    inbox: Path | None = Field(None, examples=["/var/spool/honed/airline"])
    """Folder whose `.jsonl` files are followed as well; made when it is missing."""
    files: tuple[PlainFile, ...] = ()
    """Files of event lines that other programs append to, by their names, without `*`; followed, rotation and all,
    from when they exist."""
    http: Address | None = Field(None, examples=["127.0.0.1:8001"])
    """Where `POST /events` is answered; an address that other machines reach needs a token in the
    environment variable HONED_HTTP_TOKEN, or as the systemd credential http-token."""
    otlp: bool = False
    """Whether OpenTelemetry's traces are taken there too (`POST /v1/traces`)."""

    @model_validator(mode="after")
    def _traces_come_over_http(self) -> Self:
        if self.otlp and self.http is None:
            raise ValueError("otlp needs events.http: traces come over HTTP")
        return self


class ConsentSection(Section):
    """Who must not be learned from, and whose content is not trusted (`domain.consent`)."""

    exclude: tuple[ConsentRule, ...] = ()
    """What fits one of these rules gets `train: false`: it stays out of every training set."""
    excluded: Literal["keep", "drop"] = "keep"
    """keep: store what is excluded, for looking at and evaluation; drop: acknowledge and forget it."""
    untrusted: tuple[ConsentRule, ...] = ()
    """What fits one of these rules is context, never a target of learning: content of tools and web pages."""

    def consent(self) -> Consent:
        """The rules as the sink takes them."""
        return Consent(self.exclude, self.untrusted, self.excluded == "drop")


class KeepSection(Section):
    """For how long data are kept, and how much of them; 0 for ever. Looked at once a day, and by `honed cleanup`."""

    loose: Duration = timedelta(days=30)
    """Records that are part of no attempt: evaluations, probes, what came too late."""
    unlabelled: Duration = timedelta(0)
    """Episodes without an outcome."""
    trained: Duration = timedelta(0)
    """Episodes with an outcome that a training has had the chance to learn from."""
    untrained: Duration = timedelta(0)
    """Episodes with an outcome that no training has seen yet."""
    runs: Duration = timedelta(days=90)
    """The folders of ended runs: training files and logs."""
    rejected: Duration = timedelta(days=30)
    """Weights of adapters that the gate has refused and that never served; manifests stay."""
    max_size: Size | None = Field(None, examples=["20GiB"])
    """Room that the data may take in a SQLite database; beyond it the oldest go, whatever their age."""
    max_size_untrained: bool = False
    """Whether episodes that no training has seen may go for that, after all others."""


class PairsSection(Section):
    """Which pairs `dpo(...)` makes."""

    min_quality_gap: float = Field(0.1, ge=0.0, le=1.0)
    """Least difference of the scores of two attempts; equal scores never make a pair."""
    max_pairs: int | None = Field(None, ge=1, examples=[1000])
    """Pairs at most, those with the largest differences; default: all."""
    allow_reuse: bool = True
    """Whether an attempt may be in several pairs."""


class LearnSection(Section):
    """How records become episodes and training data (docs/learn-models.md)."""

    model: LearnModels = "chat"
    """chat: captured conversations; worker_task: the actions of a task; worker_decision_sequence: the actions of each
    worker; dependency_graph: inferences of how actions depend on each other; package.module:Class: a class of one's
    own; dpo(...) around one of them: pairs of its attempts. A list trains an adapter line for each."""
    unlabelled: Literal["wait", "train", "judge"] = "wait"
    """Episodes without an outcome wait for one, count as successes, or are judged by the judge that is configured,
    whose outcome counts until there is another."""
    review: bool = False
    """Whether a run waits until somebody has looked at what it would learn from: `honed review` shows it, `honed review
    approve` lets it run (docs/review.md)."""
    too_long: TooLong = "cut"
    """A conversation with more tokens than train.max_length ends before the turn that does not fit any more, or is
    left out."""
    system_prompt: str | None = Field(None, examples=["You are a worker in a swarm."])
    """System turn of the rows of worker_task, worker_decision_sequence and dependency_graph; default: their own."""
    min_actions: int | None = Field(None, ge=1, examples=[2])
    """Tasks of worker_task with fewer actions (default 2, `done` included), and workers of worker_decision_sequence
    with fewer (default 3), make no episode."""
    available_actions: tuple[str, ...] | None = Field(None, examples=[["check_status", "restart"]])
    """The actions that prompts of these two list; default: all that the scenario has seen."""
    system_events: tuple[str, ...] | None = Field(None, examples=[["heartbeat"]])
    """Names that are no actions for these two, besides tick_start, tick_end, task_start, task_end, guidance, idle,
    timeout and done."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """Rows that say nearly what another row of a training set says: keep and mark them, or leave them out."""
    near_duplicate_similarity: float = Field(0.8, ge=0.5, le=1.0)
    """Share of five-word sequences in common from which two rows say nearly the same; 1: the very same ones."""
    dpo: PairsSection = PairsSection()
    """Which pairs `dpo(...)` makes."""

    @property
    def names(self) -> tuple[str, ...]:
        """The learn models in their order."""
        return (self.model,) if isinstance(self.model, str) else self.model

    def models(self) -> list[LearnModel]:
        """The learn models, made; raises ConfigError."""
        options = Options(
            system_prompt=self.system_prompt,
            min_actions=self.min_actions,
            available_actions=self.available_actions,
            system_events=self.system_events,
            dpo=DpoConfig(**self.dpo.model_dump()),
        )
        return create_all(self.names, options)


Tracker = Literal["trackio", "tensorboard", "mlflow", "wandb"]


class TrainSection(Section):
    """The LoRA run, in TRL's and PEFT's names."""

    method: AskedMethod = "auto"
    """How it learns: sft imitates what went well, dpo prefers the better of two answers, kto learns from single answers
    that are good or bad; auto goes by what there is, first what can be imitated. grpo comes with a later version."""
    preset: Preset = "swarm"
    """Where the settings come from that are not written down: swarm and runner are fixed sets, auto goes by the number
    of tokens and the size of the model (docs/training.md)."""
    start_from: Literal["base", "adapter"] = "base"
    """Each adapter is trained from the base model, or goes on from the adapter in service."""
    probe_path: PlainFile | None = Field(None, examples=["/srv/honed/probe.jsonl"])
    """Conversations, one `{"messages": [...]}` a line, on which forgetting is measured, always the same ones; default:
    those that come with honed."""
    r: int = 16
    """Rank of the adapter, 1 to 256: its size, and how much it can learn."""
    lora_alpha: float = 32
    """Scale of the adapter; it is added with lora_alpha / r."""
    lora_dropout: float = 0.05
    """Share of the adapter's inputs that is left out at random in training, 0 to 0.5."""
    target_modules: tuple[str, ...] | None = Field(None, examples=[["q_proj", "v_proj"]])
    """Modules that get an adapter, by name; default: all linear layers but the head."""
    use_rslora: bool = False
    """Scale the adapter by lora_alpha / sqrt(r) instead of lora_alpha / r: for ranks of 64 and more."""
    use_dora: bool = False
    """Refused when true: llama.cpp cannot apply DoRA."""
    bias: Bias = "none"
    """Refused unless none: llama.cpp cannot apply trained biases."""
    load_in_4bit: bool = False
    """Keep the base model in 4 bits while it trains, with bitsandbytes on CUDA; elsewhere it is told and left out."""
    beta: float = 0.1
    """How strongly dpo and kto keep to the model that they start from; above 0."""
    num_train_epochs: int = 3
    """Passes over the data."""
    max_steps: int | None = Field(None, examples=[200])
    """Optimizer steps; when set it wins over num_train_epochs."""
    per_device_train_batch_size: int = 4
    """Rows at a time: what memory is spent on. Halve it when a run does not fit."""
    gradient_accumulation_steps: int = 4
    """Batches per optimizer step; batch size times this is what one step learns from."""
    learning_rate: float = 2e-4
    """Highest learning rate, above 0 up to 0.01."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_steps: int = 5
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW's pull of the weights towards 0."""
    max_length: int = 2048
    """Tokens a row may hold, 16 at least; `learn.too_long` says what becomes of a longer one."""
    seed: int = 3407
    """Same data, settings, threads and device give the same adapter on CPU."""
    device: Device = "auto"
    """auto takes CUDA when torch finds it; cuda fails without it."""
    threads: int = 0
    """CPU threads of torch; 0 means all cores but one, which serving needs."""
    logging_steps: int = 5
    """Steps between two reports of progress."""
    report_to: tuple[Tracker, ...] = ()
    """Where figures of a run go besides honed's own files: trackio, tensorboard, mlflow, wandb, each if it is installed
    beside the training stack. wandb sends them; the others write on this machine unless their own variables of the
    environment say otherwise."""
    save_steps: int = 500
    """Steps between two checkpoints, 5 minutes at most; a run that is cut off goes on from the last one."""
    validation_fraction: float = 0.1
    """Share of the groups that a run of 20 conversations or more does not learn from: they tell it when to stop."""
    early_stopping_patience: int = 5
    """Epochs without a better loss on those after which a run ends; 0 goes on. The best weights are kept."""
    max_episodes: int = Field(5_000, ge=1)
    """Newest episodes that a run looks at."""
    min_score: float = Field(0.0, ge=0.0, le=1.0)
    """Successes with a lower score are not learned from."""
    min_rows: int = Field(20, ge=1)
    """A run with fewer rows is skipped."""
    min_chars: int = Field(0, ge=0)
    """Rows with fewer characters are not learned from."""
    max_chars: int | None = Field(None, ge=1, examples=[100_000])
    """Rows with more characters are not learned from; default: no limit."""
    max_turns: int | None = Field(None, ge=2, examples=[60])
    """Rows with more turns are not learned from; default: no limit."""
    replay: float = Field(1.0, ge=0.0, le=1.0)
    """Largest share of rows from episodes that an earlier run has looked at, where there are new ones; 0: only new
    ones, 1: as they come."""
    skill_tag: str = Field("skill", min_length=1)
    """The tag of events that says which skill an episode shows."""
    max_skill_share: float = Field(1.0, gt=0.0, le=1.0)
    """Largest share of the rows that one skill may have; 1: as they come."""
    max_age_share: float = Field(1.0, gt=0.0, le=1.0)
    """Largest share that one class of age may have (under a day before the youngest, then 2, 4, 8 days and so on);
    1: as they come."""
    backoff: Duration = timedelta(seconds=60)
    """Wait after a failed run; doubles with each further failure, up to 1 h."""
    stop_grace: Duration = timedelta(seconds=10)
    """How long a cancelled worker may take to end by itself."""

    def settings(self, *, too_long: TooLong = "cut") -> TrainSettings:
        """What of this the worker needs; `too_long` is the section learn's."""
        names = [
            name for name in TrainSettings.__struct_fields__ if name in type(self).model_fields
        ]
        values = {name: getattr(self, name) for name in names}
        values["probe_path"] = None if self.probe_path is None else str(self.probe_path)
        fixed = tuple(name for name in names if name in self.model_fields_set)
        return preset(
            msgspec.convert(values | {"too_long": too_long, "fixed": fixed}, TrainSettings)
        )

    @model_validator(mode="after")
    def _within_the_limits_of_the_worker(self) -> Self:
        self.settings()  # msgspec's error is a ValueError that names the field
        return self


class WorkerSection(Section):
    """The process that trains and scores."""

    keep_warm: Duration = timedelta(0)
    """How long it stays loaded after a job, with the base model in memory, so that the next one begins at once; 0 ends
    it after each job. A run that is cancelled or paused ends it too."""


class GateSection(Section):
    """When a candidate may go live by itself."""

    enabled: bool = True
    """Without the gate no adapter is judged, and none goes live by itself."""
    held_out_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the groups that is kept from training for ever."""
    min_successes: int = Field(10, ge=2)
    """Held-out successes below which there is not enough evidence."""
    min_failures: int = Field(10, ge=2)
    """Held-out failures below which the outcome contrast is not used."""
    alpha: float = Field(0.0075, gt=0.0, lt=0.5)
    """Chance that any useless candidate passes, over all that are judged by the same held-out episodes."""
    slice_false_discoveries: float = Field(0.1, gt=0.0, lt=0.5)
    """Share, of the slices (worker, action, tool, tag) called harmed, that are not; a harmed slice is a fail."""
    protected: tuple[str, ...] = ()
    """Slices that may not become worse whatever the rest does, for example `["suite=safety"]` for what has that tag,
    and metrics as `metric=NAME`."""
    metrics: tuple[str, ...] = ()
    """Your own measures: names of entry points in the group honed.metrics."""
    max_kl: float | None = Field(None, gt=0.0, examples=[0.5])
    """Forgetting budget: how far a candidate may move the model on the probe set (train.probe_path), KL divergence from
    the base in nats per token; default: no limit."""


class CanarySection(Section):
    """A model that may go live by itself (`apply.mode` auto) is tried first, beside the one in service, by the
    outcomes of its share of the tasks (docs/canary.md)."""

    share: float = Field(0.0, ge=0.0, le=1.0)
    """Of the tasks, by a hash of their ids, that the new model gets, for example 0.1; 0: none, it goes live at once."""
    shadow: bool = False
    """It answers copies of that share instead, nobody sees what it says, and a person decides."""
    max_tasks: int = Field(1_000, ge=100, le=10_000)
    """Tasks of each, with an outcome, after which a model that is neither better nor worse is held for a person."""
    interval: Duration = Field(timedelta(seconds=30), gt=timedelta(0))
    """Between two looks at how it does."""
    max_age: Duration = Field(timedelta(days=3), gt=timedelta(0))
    """How long it waits for verdicts, since there were last enough to look at: then it is held for a person, and gives
    way to the next model."""

    @model_validator(mode="after")
    def _leaves_something_to_compare_with(self) -> Self:
        if self.share == 1 and not self.shadow:
            raise ValueError("share is 1, so nothing is left to compare with: expected less")
        return self


class ApplySection(Section):
    """How a model gets into service."""

    mode: Literal["manual", "auto"] = "manual"
    """auto: what the gate has passed goes live by itself; manual: `honed apply`."""
    kind: Annotated[
        Literal["none", "llama_server", "vllm", "sglang", "ollama", "folder"],
        BeforeValidator(lambda kind: "llama_server" if kind == "gateway" else kind),
    ] = "llama_server"
    """llama_server, or gateway, which is the same: through the gateway, whatever server is behind it; vllm, sglang,
    ollama, folder: in a server that you run yourself, without the gateway (`[server]`, docs/servers.md); none: adapters
    are only written down."""
    max_history: int = Field(5, ge=2)
    """Adapters that were in service and can be gone back to; the oldest falls out."""
    canary: CanarySection = CanarySection()
    """A model that may go live by itself is tried first, on a share of the tasks (docs/canary.md)."""

    @model_validator(mode="after")
    def _tries_where_it_can(self) -> Self:
        if self.canary.share and self.kind != "llama_server":
            raise ValueError(
                f'canary.share: kind is "{self.kind}": expected llama_server, where two versions can answer'
            )
        return self
