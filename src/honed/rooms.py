"""What a config names, built: store, base model, applier, gate, training sets.

The daemon opens them; tests may bring their own in their place.
"""

from contextlib import AbstractAsyncContextManager

from honed.appliers import LlamaServerApplier, NoApplier
from honed.config import Config
from honed.gate import OutcomeGate
from honed.learn_models.learn_model import LearnModel
from honed.ports import Applier, Gate
from honed.processors import BaseModel
from honed.stores import SqlStore, open_store
from honed.training_sets import SftTrainingSets


def store_of(config: Config) -> AbstractAsyncContextManager[SqlStore]:
    """The database; no other daemon may have it at the same time."""
    events = config.events
    return open_store(
        config.database,
        alone=True,
        queue_size=events.queue_size,
        queue_bytes=events.queue_bytes,
        batch_max=events.batch_max,
    )


def gate_of(config: Config) -> Gate | None:
    """What judges candidates; None lets every one pass."""
    section = config.gate
    if not section.enabled:
        return None
    return OutcomeGate(
        min_successes=section.min_successes,
        min_failures=section.min_failures,
        alpha=section.alpha,
        permutations=section.permutations,
        seed=config.train.seed,
    )


def base_of(config: Config) -> BaseModel | None:
    """The base model that is trained on and served; None where nothing is served, or none is named."""
    gguf = config.serve.base_model_path
    if config.apply.kind == "none" or (config.base_model is None and gguf is None):
        return None
    return BaseModel(config.base_model, config.llama_dir, gguf=gguf)


def applier_of(config: Config, base: BaseModel | None) -> Applier:
    """What puts adapters into service."""
    match config.apply.kind:
        case "none":
            return NoApplier()
        case "llama_server":
            return LlamaServerApplier(
                config.serve_socket,
                scenario=config.scenario,
                feed_socket=config.feed_socket,
                make_base=base.ensure if base else None,
            )


def training_sets_of(
    config: Config, learn_model: LearnModel, store: SqlStore, secret: bytes
) -> SftTrainingSets:
    """The rows of a run; `secret` decides for ever which attempts are held out."""
    return SftTrainingSets(
        store,
        learn_model,
        scenario=config.scenario,
        secret=secret,
        held_out_fraction=config.gate.held_out_fraction,
        max_episodes=config.train.max_episodes,
        min_score=config.train.min_score,
        min_rows=config.train.min_rows,
        unlabelled=config.learn.unlabelled,
        seed=config.train.seed,
        near_duplicates=config.learn.near_duplicates,
        similarity=config.learn.near_duplicate_similarity,
    )
