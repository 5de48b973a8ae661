"""What a config names, built: store, base model, applier, gate, training sets.

The daemon opens them; tests may bring their own in their place.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import anyio

from honed.appliers import LlamaServerApplier, chosen_applier
from honed.config import Config
from honed.domain.dataset import SHAPE_OF, Shape
from honed.domain.episode import Episode
from honed.errors import ConfigError
from honed.gate import HeldOutGate, load_metrics
from honed.learn_models import DpoConfig, LearnModel, method_of
from honed.listen import check_unix_path
from honed.loop import (
    Announce,
    Approval,
    CanaryWatch,
    Heat,
    InService,
    Lines,
    OfflineRuns,
    Regating,
    TrainingRuns,
    TriggerLoop,
)
from honed.ports import Applier, CanaryApplier, Gate, Processor
from honed.processors import BaseModel, LocalProcessor, Sharing
from honed.rewards import alarms
from honed.sink import Sink
from honed.sources import check_sources
from honed.stores import SqlStore, open_store
from honed.training_sets import EpisodeTrainingSets


def learn_models_of(config: Config) -> list[LearnModel]:
    """The learn models that the config names, each of which can do its work here.

    Raises:
        ConfigError: one cannot be made, or what it makes could not be learned from.
    """
    models = config.learn.models()
    if len(models) > 1 and config.base_model is not None and config.apply.kind != "none":
        raise ConfigError(
            f"learn.model names {len(models)} models, each of which trains an adapter line, and "
            f"apply.kind is {config.apply.kind!r}, which serves one line for each scenario",
            advice='set apply.kind to "none", which only writes adapters down; or name one model, and learn '
            "the others in scenarios of their own",
        )
    if config.train.method == "grpo" and config.base_model is not None:
        raise ConfigError(
            'train.method is "grpo", which learns from rollouts: this version makes none',
            advice="a later version brings it; choose auto, sft, dpo or kto, which learn from episodes",
        )
    for model in models:
        _see_that_it_fits(config, model)
    if config.learn.unlabelled == "judge" and not _has_judge(config):
        raise ConfigError(
            'learn.unlabelled is "judge", and no judge is configured',
            advice='set judge.url, or set learn.unlabelled to "wait"',
        )
    return models


def _see_that_it_fits(config: Config, model: LearnModel) -> None:
    """Refuse a method that the rows of a learn model do not allow."""
    asked = config.train.method
    if config.base_model is None or asked == "auto":
        return
    if asked == "sft":
        if method_of(model) != "sft":
            raise ConfigError(
                f"train.method is 'sft', and learn.model {model.name} makes pairs, which are not imitated one by one",
                advice='set train.method to "auto", or learn.model to the model inside the brackets',
            )
        return
    if not callable(getattr(model, "extractor", None)):
        raise ConfigError(
            f"train.method is {asked!r}, and learn.model {model.name} does not say what of its episodes is compared: "
            "expected a method `extractor`",
            advice='set train.method to "sft", or choose another learn model (docs/learn-models.md)',
        )


def _has_judge(config: Config) -> bool:
    return config.judge.url is not None


def check_start(config: Config) -> None:
    """See, before anything is opened, that a daemon can work with what the config says.

    Raises:
        ConfigError: it trains, and there is no base model; a socket's path is too long; or other machines reach
            `events.http` without a token.
    """
    for path in (config.feed_socket, config.control_socket):
        check_unix_path(path)
    check_sources(config.events)
    if config.mode.trains and config.base_model is None:
        raise ConfigError(
            f"processor_mode is {config.mode} and base_model is not set: expected a model to train",
            advice='set base_model, or processor_mode = "offline", which trains nothing',
        )


def store_of(config: Config) -> AbstractAsyncContextManager[SqlStore]:
    """The database; no other daemon may have it at the same time."""
    events = config.events
    return open_store(
        config.database,
        alone=True,
        queue_size=events.queue_size,
        queue_bytes=events.queue_bytes,
        batch_max=events.batch_max,
        composition=config.rewards.composition(),
    )


def sink_of(
    config: Config,
    models: Sequence[LearnModel],
    store: SqlStore,
    secret: bytes,
    on_episode: Callable[[Episode], None],
) -> Sink:
    """What events go through; `secret` keys the digests by which repeats are recognised."""
    return Sink(
        store,
        models,
        scenario=config.scenario,
        secret=secret,
        settle=config.events.settle,
        idle=config.events.episode_idle,
        on_episode=on_episode,
        consent=config.consent.consent(),
        redaction=config.redact.redaction(secret),
    )


def processor_of(config: Config, applier: Applier) -> LocalProcessor:
    """What trains; a server that this applier speaks to is asked to make room."""
    make_room = applier.make_room if isinstance(applier, LlamaServerApplier) else None
    return LocalProcessor(
        runs_dir=config.runs_dir,
        adapters_dir=config.adapters_dir,
        stop_grace=config.train.stop_grace,
        keep_warm=config.worker.keep_warm,
        sharing=Sharing(config.gpu, make_room),
    )


def gate_of(config: Config) -> Gate | None:
    """What judges candidates; None lets every one pass."""
    section = config.gate
    if not section.enabled:
        return None
    return HeldOutGate(
        min_successes=section.min_successes,
        min_failures=section.min_failures,
        alpha=section.alpha,
        slice_false_discoveries=section.slice_false_discoveries,
        max_kl=section.max_kl,
        protected=section.protected,
        metrics=load_metrics(section.metrics),
        seed=config.train.seed,
    )


def base_of(config: Config) -> BaseModel | None:
    """The base model that is trained on and served; None where honed serves nothing itself, or none is named."""
    gguf = config.serve.base_model_path
    is_ours = config.apply.kind == "llama_server" and config.serve.lora_server is None
    if not is_ours or (config.base_model is None and gguf is None):
        return None
    return BaseModel(config.base_model, config.llama_dir, gguf=gguf)


def applier_of(config: Config, base: BaseModel | None) -> Applier:
    """What puts adapters into service."""
    return chosen_applier(config, base.ensure if base else None)


def in_service_of(
    config: Config, applier: Applier, store: SqlStore, announce: Announce
) -> InService:
    """What knows which adapter serves."""
    return InService(
        store,
        applier,
        scenario=config.scenario,
        max_history=config.apply.max_history,
        auto=config.apply.mode == "auto",
        announce=announce,
        has_lines=len(config.learn.names) > 1,
    )


def canaries_of(
    config: Config, applier: Applier, store: SqlStore, in_service: InService, announce: Announce
) -> CanaryWatch:
    """What tries models on a share of the tasks; `in_service` gives it those that may go live by themselves.

    Raises:
        ConfigError: a share is configured, and the applier that was given can serve one version only.
    """
    section = config.apply.canary
    if not isinstance(applier, CanaryApplier) and section.share:
        raise ConfigError(
            f"apply.canary.share is {section.share}, and {type(applier).__name__} serves one version at a time",
            advice="set apply.canary.share to 0, or serve through the gateway",
        )
    return CanaryWatch(
        store,
        in_service,
        applier if isinstance(applier, CanaryApplier) else None,
        scenario=config.scenario,
        section=section,
        announce=announce,
        suspect=alarms,
    )


def runs_of(
    config: Config,
    learn_models: Sequence[LearnModel],
    store: SqlStore,
    secret: bytes,
    in_service: InService,
    *,
    processor: Processor,
    gate: Gate | None,
    base: BaseModel | None,
    announce: Announce,
) -> list[TrainingRuns]:
    """What trains, one for each learn model; none in the mode offline."""
    if not config.mode.trains:
        return []
    assert config.base_model is not None, "`check_start` has seen to it"
    return [
        TrainingRuns(
            store,
            training_sets_of(config, learn_model, store, secret),
            processor,
            gate,
            in_service,
            scenario=config.scenario,
            learn_model=learn_model.name,
            base_model=config.base_model,
            settings=config.train.settings(too_long=config.learn.too_long),
            runs_dir=config.runs_dir,
            first_backoff_s=config.train.backoff.total_seconds(),
            announce=announce,
            check_base=base.check_unchanged if base else None,
            regating=regating_of(
                config,
                learn_model,
                store,
                secret,
                in_service,
                processor=processor,
                gate=gate,
                announce=announce,
            ),
        )
        for learn_model in learn_models
    ]


def regating_of(
    config: Config,
    learn_model: LearnModel,
    store: SqlStore,
    secret: bytes,
    in_service: InService,
    *,
    processor: Processor,
    gate: Gate | None,
    announce: Announce,
) -> Regating | None:
    """What judges candidates again that wait for evidence; None without a gate."""
    if gate is None or config.base_model is None:
        return None
    return Regating(
        store,
        training_sets_of(config, learn_model, store, secret),
        processor,
        gate,
        in_service,
        scenario=config.scenario,
        learn_model=learn_model.name,
        base_model=config.base_model,
        settings=config.train.settings(too_long=config.learn.too_long),
        runs_dir=config.runs_dir,
        announce=announce,
    )


def lines_of(
    config: Config,
    learn_models: Sequence[LearnModel],
    store: SqlStore,
    runs: Sequence[TrainingRuns],
    approvals: Sequence[Approval] = (),
    announce: Announce = lambda type, details: None,
) -> Lines:
    """The loops of the learn models, in their order; `runs` is empty when nothing can train."""
    turn, names = anyio.Lock(), [model.name for model in learn_models]
    heat = Heat(config.gpu)
    return Lines(
        [
            TriggerLoop(
                store,
                runs[at] if runs else None,
                config.trigger,
                scenario=config.scenario,
                learn_model=name,
                check_interval=config.check_interval,
                turn=turn,
                others=names[:at] + names[at + 1 :],
                approval=approvals[at] if approvals else None,
                offline=OfflineRuns(
                    store, scenario=config.scenario, learn_model=name, announce=announce
                ),
                heat=heat,
            )
            for at, name in enumerate(names)
        ]
    )


def approval_of(
    config: Config,
    learn_model: LearnModel,
    store: SqlStore,
    secret: bytes,
    announce: Announce = lambda type, details: None,
) -> Approval:
    """Where people look at what a run would learn from."""
    return Approval(
        store,
        training_sets_of(config, learn_model, store, secret),
        scenario=config.scenario,
        learn_model=learn_model.name,
        scratch=config.runs_dir,
        is_required=config.learn.review,
        announce=announce,
    )


def training_sets_of(
    config: Config, learn_model: LearnModel, store: SqlStore, secret: bytes
) -> EpisodeTrainingSets:
    """The rows of a run; `secret` decides for ever which attempts are held out."""
    return EpisodeTrainingSets(
        store,
        learn_model,
        scenario=config.scenario,
        secret=secret,
        held_out_fraction=config.gate.held_out_fraction,
        max_episodes=config.train.max_episodes,
        min_score=config.train.min_score,
        min_rows=config.train.min_rows,
        unlabelled=config.learn.unlabelled,
        judged=config.rewards.judged,
        seed=config.train.seed,
        near_duplicates=config.learn.near_duplicates,
        similarity=config.learn.near_duplicate_similarity,
        min_chars=config.train.min_chars,
        max_chars=config.train.max_chars,
        max_turns=config.train.max_turns,
        replay=config.train.replay,
        skill_tag=config.train.skill_tag,
        max_skill_share=config.train.max_skill_share,
        max_age_share=config.train.max_age_share,
        pairs=DpoConfig(**config.learn.dpo.model_dump()),
        shape=shape_of(config, learn_model),
        fallbacks=fallbacks_of(config, learn_model),
    )


def shape_of(config: Config, learn_model: LearnModel) -> Shape:
    """What a row of a run is: as the method reads it that the config asks for, else the learn model's own."""
    asked = config.train.method
    return SHAPE_OF.get(method_of(learn_model) if asked == "auto" else asked, "sft")


def fallbacks_of(config: Config, learn_model: LearnModel) -> tuple[Shape, ...]:
    """What else the rows may be where nobody has chosen a method, and there is too little to imitate."""
    can_compare = callable(getattr(learn_model, "extractor", None))
    if config.train.method == "auto" and method_of(learn_model) == "sft" and can_compare:
        return ("preference", "labelled")
    return ()
