"""Trains on stored episodes by a script, in a program of one's own and without a daemon.

async with open_store("sqlite:///honed.db") as store:
    trainer = LoraTrainer(LoraTrainerConfig(train_script="lora/train.py"), store)
    model = await trainer.train(create("chat"))

The episodes are those of the filter; with the `split` of a scenario's daemon, without those that its gate judges by.
The adapter gets the next id of its scenario and is registered, neither judged nor put into service.
"""

import contextlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import anyio
import anyio.to_thread
import msgspec
from platformdirs import user_data_path

from honed.adapter_files import ADAPTER_GGUF
from honed.domain.episode import Episode
from honed.domain.ids import adapter_id
from honed.domain.job import (
    ExportAdapterJob,
    ExportAdapterResult,
    Progress,
    TrainJob,
    TrainSettings,
)
from honed.domain.outcome import is_success
from honed.domain.script import LoraTrainerConfig, Said
from honed.domain.times import now_ms
from honed.domain.trained_model import Method, TrainedModel, TrainingMetrics
from honed.domain.training_data import ChatExample, TrainingData
from honed.errors import EmptyDataError, LearnError, TrainingError
from honed.learn_models import DpoLearnModel, LearnModel, convert, method_of
from honed.ports import EpisodeFilter, OnProgress, Store
from honed.processors import check_free, check_script, publish, run_job, run_script
from honed.training_sets import HeldOutSplit, RowSpool, SpooledRow, Turns

__all__ = ["LoraTrainer", "LoraTrainerConfig"]

_CHUNK: Final = 32
_METHODS: Final = ("sft", "dpo", "kto")
_progress = msgspec.json.Decoder(Progress)


class _Data(NamedTuple):
    """The files that a training reads."""

    path: Path
    digest: str
    num_rows: int
    episode_ids: tuple[str, ...]


class LoraTrainer:
    """Turns stored episodes into a registered adapter, by a script in a process of its own."""

    def __init__(
        self,
        config: LoraTrainerConfig,
        store: Store,
        *,
        split: HeldOutSplit | None = None,
        turns: Turns = "messages",
        on_progress: OnProgress = lambda progress: None,
        on_line: Callable[[bytes], object] = lambda line: None,
    ) -> None:
        """Start nothing yet.

        Args:
            config: script, settings and places.
            store: where the episodes are, and where the adapter is registered.
            split: which episodes are held out; None: none is.
            turns: the column of the training file that has a conversation's turns.
            on_progress: called for each line of the script's stdout that is honed's own progress.
            on_line: called for each line of its stdout.
        """
        self.config = config
        self._store = store
        self._split = split
        self._turns = turns
        self._on_progress = on_progress
        self._on_line = on_line

    async def train(
        self, learn_model: LearnModel, filter: EpisodeFilter | None = None
    ) -> TrainedModel:
        """Train an adapter and register it; cancelling the task ends the script's process group.

        Args:
            learn_model: makes the rows.
            filter: which episodes; None: all of this learn model.

        Raises:
            ScriptNotFoundError: nothing was written.
            EmptyDataError: no episodes, or no training rows of them.
            ProcessFailedError: the script failed; its exit status, -1 by a signal, and what it wrote to stderr.
            TrainingError: it left no adapter, or one that cannot be served.
            StoreError: the episodes cannot be read, or the adapter not be registered.
        """
        config = self.config
        check_script(config.python_path, config.train_script)
        wanted = filter or EpisodeFilter()
        if wanted.learn_model is None:
            wanted = msgspec.structs.replace(wanted, learn_model=learn_model.name)
        scenario = await self._scenario(wanted)
        home = user_data_path("honed") / scenario
        data_dir = (config.data_dir or home / "training").absolute()
        output_dir = (config.output_dir or home / "adapters").absolute()
        try:
            for folder in (data_dir, output_dir):
                await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
            data = await self._write_data(learn_model, wanted, scenario, data_dir)
            model_id = adapter_id(scenario, await self._store.next_model_number(scenario))
            return await self._run(learn_model, scenario, model_id, data, output_dir)
        except OSError as error:
            raise TrainingError(
                f"{error.filename or data_dir} cannot be written: {error.strerror}"
            ) from error

    async def _scenario(self, wanted: EpisodeFilter) -> str:
        """Of all the episodes.

        Raises:
            EmptyDataError: there are none.
            TrainingError: they are of several, or of none.
        """
        found: Counter[str | None] = Counter()
        if wanted.scenario is not None:
            found[wanted.scenario] = await self._store.count_episodes(wanted)
            found = +found
        else:
            found.update(row.scenario for row in await self._store.list_episodes(wanted))
        if not found:
            raise EmptyDataError(
                f"no episodes: {wanted.learn_model} has none that the filter lets through",
                advice="send events, or filter less",
            )
        (scenario,) = found if len(found) == 1 else (None,)
        if scenario is None:
            names = ", ".join(f"{name or 'none'} ({count})" for name, count in found.most_common())
            raise TrainingError(
                f"the episodes are of the scenarios {names}: expected one, which the adapter is named after",
                advice="filter by scenario",
            )
        return scenario

    # ------------------------------------------------------------ data

    async def _write_data(
        self, model: LearnModel, wanted: EpisodeFilter, scenario: str, folder: Path
    ) -> _Data:
        """Write the rows and their metadata; raises EmptyDataError."""
        actions = await self._store.distinct_actions(scenario)
        left_out: Counter[str] = Counter()
        with RowSpool(folder, turns=self._turns) as spool:
            rows: list[SpooledRow] = []
            ids: set[str] = set()

            def take(found: Sequence[TrainingData]) -> None:
                for data in found:
                    rows.append(spool.add(data))
                    said = (data.metadata.episode_id, data.metadata.rejected_episode_id)
                    ids.update(filter(None, said))

            episodes: list[Episode] = []
            async for episode in self._store.query_episodes(wanted):
                if await self._is_held_out(episode):
                    left_out["held out"] += 1
                    continue
                episodes.append(episode)
                if len(episodes) == _CHUNK and not isinstance(model, DpoLearnModel):
                    take(await anyio.to_thread.run_sync(_rows, model, episodes, actions, left_out))
                    episodes = []
            take(await anyio.to_thread.run_sync(_rows, model, episodes, actions, left_out))
            if not rows:
                told = ", ".join(f"{count} {why}" for why, count in left_out.most_common())
                raise EmptyDataError(
                    f"no training rows: no episode of {model.name} can teach ({told or 'no pairs'})",
                    advice="only successes are imitated; pairs need two outcomes under one group_id",
                    left_out=dict(left_out),
                )
            suffix = ".dpo" if method_of(model) == "dpo" else ""
            path = folder / f"{model.name}{suffix}.jsonl"
            metadata = path.with_suffix(".meta.jsonl")
            digest = await anyio.to_thread.run_sync(spool.write, rows, path, metadata)
        return _Data(path, digest, len(rows), tuple(sorted(ids)))

    async def _is_held_out(self, episode: Episode) -> bool:
        if self._split is None:
            return False
        settled = await self._store.lessons.sides(self._split.names(episode))
        return self._split.side(episode, settled) != "training"

    # ------------------------------------------------------------ run

    async def _run(
        self, model: LearnModel, scenario: str, model_id: str, data: _Data, output_dir: Path
    ) -> TrainedModel:
        target = output_dir / model_id
        check_free(target)
        # beside its place, so that a rename publishes it; named alike, since scripts name runs by it
        scratch = output_dir / f".{model_id}"
        unpublished = scratch / model_id
        log_path = data.path.parent / f"{model_id}.log"
        said = Said()

        def hear(line: bytes) -> None:
            self._on_line(line)
            if said.take(line):
                with contextlib.suppress(msgspec.DecodeError):  # somebody's own form
                    self._on_progress(_progress.decode(line))

        try:
            await anyio.Path(scratch).mkdir()
            started = time.monotonic()
            await run_script(self.config.command(data.path, unpublished), log_path, hear)
            metrics = TrainingMetrics(
                final_loss=said.loss if said.final_loss is None else said.final_loss,
                mean_loss=said.mean_loss,
                training_time_secs=time.monotonic() - started,
                gpu_memory_mb=said.gpu_memory_mb,
                num_steps=said.num_steps,
            )
            method = cast(Method, said.method if said.method in _METHODS else method_of(model))
            trained = TrainedModel(
                id=model_id,
                scenario=scenario,
                run_id=model_id,
                base_model=self.config.base_model,
                learn_model=model.name,
                method=method,
                adapter_path=str(target),
                gguf_path=str(target / ADAPTER_GGUF),
                digest="",
                data_digest=data.digest,
                episode_ids=data.episode_ids,
                sample_count=data.num_rows,
                created_at_ms=now_ms(),
                metrics=metrics,
                method_reason=said.method_reason or "the script says so",
            )
            digest = await self._complete(trained, data, unpublished, scratch)
            trained = msgspec.structs.replace(trained, digest=digest)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(publish, unpublished, target)
                try:
                    await self._store.add_model(trained)
                except BaseException:  # an adapter that nobody knows is in nobody's way
                    await anyio.to_thread.run_sync(shutil.rmtree, target)
                    raise
            return trained
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))

    async def _complete(
        self, trained: TrainedModel, data: _Data, folder: Path, scratch: Path
    ) -> str:
        """Add what serving needs and the script has not written; the adapter's digest.

        Raises:
            TrainingError: it is no adapter, or none that llama.cpp can apply.
        """
        result_path = scratch / "completed.json"
        lineage = TrainJob(
            run_id=trained.run_id,
            model_id=trained.id,
            scenario=trained.scenario,
            learn_model=trained.learn_model,
            base_model=trained.base_model,
            data_path=str(data.path),
            held_out_path=None,
            incumbent_path=None,
            output_path=str(folder),
            result_path=str(result_path),
            settings=_settings(self.config, trained.method),
            episode_ids=data.episode_ids,
            data_digest=data.digest,
        )
        target = Path(trained.adapter_path)
        assert trained.metrics is not None
        job = ExportAdapterJob(
            base_model=trained.base_model,
            adapter_path=str(folder),
            lineage=lineage,
            metrics=trained.metrics,
            method=trained.method,
            method_reason=trained.method_reason,
            num_rows=data.num_rows,
            result_path=str(result_path),
        )
        # the interpreter of the script need not have honed
        try:
            result = await run_job(job, scratch / "completing", python=sys.executable)
        except TrainingError as error:
            kept = target.with_name(f"{target.name}.refused")
            if await anyio.Path(folder).is_dir():
                await anyio.Path(folder).rename(kept)
                error.add_note(f"what the script left is kept in {kept}")
            raise
        assert isinstance(result, ExportAdapterResult)
        return result.digest


def _rows(
    model: LearnModel,
    episodes: Sequence[Episode],
    actions: Sequence[str],
    left_out: Counter[str],
) -> Sequence[TrainingData]:
    """The rows of episodes; those that give none are counted."""
    if isinstance(model, DpoLearnModel):
        return model.convert_pairs(model.build_pairs(episodes, available_actions=actions))
    rows = []
    for episode in episodes:
        try:
            data = convert(model, episode, available_actions=actions)
        except LearnError as error:
            left_out[error.reason or "it cannot be converted"] += 1
            continue
        if not episode.may_teach:
            left_out["it may not be learned from"] += 1
        elif isinstance(data, ChatExample) and not is_success(episode.outcome):
            left_out["no success"] += 1  # failures are never imitated
        else:
            rows.append(data)
    return rows


def _settings(config: LoraTrainerConfig, method: Method) -> TrainSettings:
    return TrainSettings(
        method=method,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        max_length=config.max_seq_length,
    )
