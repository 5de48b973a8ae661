"""A training by a script, in a program of one's own: data, command line, adapter, register, faults."""

import contextlib
import json
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from honed import LoraTrainer, LoraTrainerConfig
from honed.domain.outcome import Failure, Success, Unknown
from honed.domain.trained_model import TrainedModel
from honed.errors import (
    ConfigError,
    EmptyDataError,
    HonedError,
    ProcessFailedError,
    ScriptNotFoundError,
    StoreError,
    TrainingError,
)
from honed.keeping import run_files
from honed.learn_models import create
from honed.ports import EpisodeFilter
from honed.stores import SqlStore, open_store
from honed.training_sets import HeldOutSplit
from honed.worker.examples import read_lessons
from tests.tiny_models import make_tiny_adapter
from tests.unit.processors.test_worker_process import group_is_gone
from tests.unit.training_sets.test_builder import add, told

CHAT = create("chat")
WON = Success(1.0)
OUR_OWN = """\
import json, pathlib, shutil, sys

pathlib.Path("{argv}").write_text(json.dumps(sys.argv[1:]))
flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
print("learning", flush=True)
for loss in (2.5, 1.25):
    print(json.dumps({{"step": 1, "loss": loss}}), flush=True)
print(json.dumps({{"gpu_memory_mb": {gpu}}}))
shutil.copytree("{adapter}", flags["--output"])
"""


@pytest.fixture(scope="session")
def peft_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a script that knows nothing of honed leaves: PEFT's files alone."""
    folder = make_tiny_adapter(tiny_base, tmp_path_factory.mktemp("own") / "adapter")
    for path in folder.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    return folder


def config(folder: Path, script: str | None = None, **changed: Any) -> LoraTrainerConfig:
    """A script with this text, in the places of a test."""
    places: dict[str, Any] = {"output_dir": folder / "adapters", "data_dir": folder / "training"}
    if script is not None:
        places["train_script"] = folder / "own_script.py"
        places["train_script"].write_text(script)
    return LoraTrainerConfig(**places | changed)


def with_episodes(
    test: Callable[[SqlStore], Awaitable[None]], *, count: int = 4, outcome: Any = WON
) -> None:
    """Run a test on a store that has so many episodes of the scenario `air`."""

    async def main() -> None:
        async with open_store("sqlite://") as store:
            for number in range(count):
                await add(store, told(f"t{number}", outcome))
            await test(store)

    anyio.run(main)


async def fault(trainer: LoraTrainer) -> HonedError:
    with pytest.raises(HonedError) as found:
        await trainer.train(CHAT)
    return found.value


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.feature("SE-106")
def test_settings_have_defaults() -> None:
    """Thirteen keywords, all of which may be left out."""
    plain = LoraTrainerConfig()
    told = {field.name: getattr(plain, field.name) for field in fields(plain)}
    assert told == {
        "base_model": "LiquidAI/LFM2.5-1.2B-Instruct",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "epochs": 3,
        "batch_size": 4,
        "gradient_accumulation": 4,
        "learning_rate": 2e-4,
        "max_seq_length": 2048,
        "train_script": None,
        "output_dir": None,
        "data_dir": None,
        "python_path": sys.executable,
    }


@pytest.mark.feature("SE-106")
def test_wrong_settings_are_refused_all_at_once() -> None:
    """Each setting that is out of its limits is named with what was expected; the ends of the limits are inside."""
    with pytest.raises(ConfigError) as refused:
        LoraTrainerConfig(lora_rank=257, learning_rate=0.1, epochs=True, max_seq_length=255)
    assert refused.value.faults == (
        "lora_rank is 257: expected a whole number in 1..256",
        "epochs is True: expected a whole number of 1 or more",
        "learning_rate is 0.1: expected a number above 0, up to 0.01",
        "max_seq_length is 255: expected a whole number of 256 or more",
    )
    for bad in (
        {"lora_rank": 0},
        {"lora_alpha": 0},
        {"lora_alpha": float("nan")},
        {"lora_dropout": 0.6},
        {"batch_size": 0},
        {"gradient_accumulation": 1.5},
        {"learning_rate": "fast"},
        {"base_model": ""},
    ):
        with pytest.raises(ConfigError):
            LoraTrainerConfig(**bad)  # type: ignore[arg-type]
    LoraTrainerConfig(lora_rank=256, lora_dropout=0.5, learning_rate=1e-2, max_seq_length=256)


@pytest.mark.feature("SE-107", "SE-109", "SE-114", "SE-115", "SE-116", "SE-126")
def test_own_script_trains_through_the_flags(
    tiny_base: Path, peft_folder: Path, tmp_path: Path
) -> None:
    """A script that knows nothing of honed gives an adapter that can be served and is registered with its episodes."""
    argv = tmp_path / "argv.json"

    async def test(store: SqlStore) -> None:
        script = OUR_OWN.format(argv=argv, adapter=peft_folder, gpu="None")
        trainer = LoraTrainer(
            config(tmp_path, script, base_model=str(tiny_base), learning_rate=1e-3, lora_rank=8),
            store,
        )
        await add(store, told("bad", Failure("no")))
        ids = [row.id for row in await store.list_episodes(EpisodeFilter(limit=4))]
        model = await trainer.train(CHAT)
        data = tmp_path / "training" / "chat.jsonl"
        flags = json.loads(argv.read_text())
        assert flags[:2] == ["--data", str(data)]
        assert flags[2] == "--output"
        assert flags[4:] == [
            *("--model", str(tiny_base), "--rank", "8", "--alpha", "32", "--dropout", "0.05"),
            *("--epochs", "3", "--batch-size", "4", "--grad-accum", "4", "--lr", "0.001"),
            *("--max-seq-length", "2048"),
        ]
        assert model.id == "air@1"
        assert (model.scenario, model.learn_model, model.method) == ("air", "chat", "sft")
        assert model.base_model == str(tiny_base)
        assert list(model.episode_ids) == ids
        assert model.sample_count == len(rows(data)) == 4
        assert model.metrics is not None
        assert model.metrics.final_loss == 1.25
        assert model.metrics.gpu_memory_mb is None
        assert model.metrics.training_time_secs is not None
        assert model.metrics.training_time_secs > 0
        assert await store.get_model("air@1") == model
        _is_complete(model)
        assert listed(tmp_path / "adapters") == ["air@1"]

    with_episodes(test)


def _is_complete(model: TrainedModel) -> None:
    folder = Path(model.adapter_path)
    told = json.loads((folder / "manifest.json").read_text())
    assert told["model_id"] == model.id
    assert told["digests"]["adapter"] == model.digest
    assert told["episode_ids"] == list(model.episode_ids)
    assert model.gguf_path is not None
    assert Path(model.gguf_path).read_bytes()[:4] == b"GGUF"
    assert (folder / "fingerprint.json").is_file()


@pytest.mark.feature("SE-111", "SE-114", "SE-116")
def test_script_of_honed_trains_on_a_cpu(tiny_base: Path, tmp_path: Path) -> None:
    """The script that comes with honed makes a folder that PEFT loads; ids rise, and one that was deleted is not given
    again."""

    async def test(store: SqlStore) -> None:
        assert await store.next_model_number("air") == 1
        losses: list[float | None] = []
        trainer = LoraTrainer(
            config(tmp_path, base_model=str(tiny_base), epochs=6, batch_size=1, lora_rank=4),
            store,
            on_progress=lambda progress: losses.append(progress.loss),
        )
        model = await trainer.train(CHAT)
        assert model.id == "air@2"
        assert model.metrics is not None
        assert model.metrics.num_steps == 6
        assert model.metrics.final_loss == [loss for loss in losses if loss is not None][-1]
        assert model.metrics.gpu_memory_mb is None or model.metrics.gpu_memory_mb > 0
        _is_complete(model)
        await store.delete_model(model.id)
        assert await store.next_model_number("air") == 3
        from peft import PeftModel

        from honed.worker.base_model import load_model

        loaded = PeftModel.from_pretrained(load_model(tiny_base, "cpu"), model.adapter_path)
        assert loaded.peft_config["default"].r == 4

    with_episodes(test)


@pytest.mark.feature("SE-114")
def test_ids_of_another_form_are_kept() -> None:
    """What an imported event says of the adapter that answered is kept, whatever its form."""

    async def test(store: SqlStore) -> None:
        for name in ("lora-1700000000000-0a1b2c3d", "my adapter", "air@7"):
            events = told(name, WON)
            events[0]["lora"] = name
            await add(store, events)
        made_by = {row.adapter_id for row in await store.list_episodes(EpisodeFilter())}
        assert made_by == {"lora-1700000000000-0a1b2c3d", "my adapter", "air@7"}
        assert await store.next_model_number("air") == 1

    with_episodes(test, count=0)


@pytest.mark.feature("SE-108")
def test_nothing_to_learn_from_has_two_reasons(tmp_path: Path) -> None:
    """No episodes, and episodes that give no row, are told apart; the script is not started."""
    script = "raise SystemExit('started')"

    async def none(store: SqlStore) -> None:
        found = await fault(LoraTrainer(config(tmp_path, script), store))
        assert isinstance(found, EmptyDataError)
        assert str(found).startswith("no episodes: chat has none")

    async def no_rows(store: SqlStore) -> None:
        await add(store, told("lost", Unknown()))
        found = await fault(LoraTrainer(config(tmp_path, script), store))
        assert isinstance(found, EmptyDataError)
        assert str(found).startswith("no training rows: no episode of chat can teach")
        assert found.left_out == {"no success": 5}
        assert not list(tmp_path.glob("**/*.jsonl"))

    with_episodes(none, count=0)
    with_episodes(no_rows, outcome=Failure("no"))


@pytest.mark.feature("SE-110")
@pytest.mark.parametrize("turns", ["messages", "conversations"])
def test_data_file_is_named_after_the_learn_model(turns: Any, tmp_path: Path) -> None:
    """Rows hold `messages`, or `conversations` on request; the worker reads both, and turns in from/value form."""

    async def test(store: SqlStore) -> None:
        own = config(tmp_path, "raise SystemExit(3)")
        await fault(LoraTrainer(own, store, turns=turns))
        path = tmp_path / "training" / "chat.jsonl"
        assert [list(row) for row in rows(path)] == [[turns]] * 4
        assert [row["outcome_score"] for row in rows(path.with_suffix(".meta.jsonl"))] == [1.0] * 4
        said = [lesson.messages for lesson in read_lessons(path)]  # type: ignore[union-attr]
        assert said == [row[turns] for row in rows(path)]

    with_episodes(test)
    foreign = tmp_path / "foreign.jsonl"
    turn = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    foreign.write_text(json.dumps({"conversations": turn}))
    (lesson,) = read_lessons(foreign)
    assert lesson.messages == [  # type: ignore[union-attr]
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    ]


@pytest.mark.feature("SE-110")
def test_pairs_have_a_file_of_their_own(tmp_path: Path) -> None:
    """A learn model of pairs writes `prompt`, `chosen` and `rejected` into NAME.dpo.jsonl."""

    async def test() -> None:
        async with open_store("sqlite://") as store:
            asked = [{"role": "user", "content": "what now?"}]
            for name, outcome in (("good", Success(1.0)), ("bad", Failure("no"))):
                events = told(name, outcome, answer=name, group_id="g")
                events[0]["messages"] = asked
                await add(store, events, "dpo(chat)")
            own = config(tmp_path, "raise SystemExit(3)")
            with pytest.raises(ProcessFailedError):
                await LoraTrainer(own, store).train(create("dpo(chat)"))
        (row,) = rows(tmp_path / "training" / "dpo(chat).dpo.jsonl")
        assert row["chosen"][0]["content"] == "good"
        assert row["rejected"][0]["content"] == "bad"

    anyio.run(test)


def test_held_out_episodes_are_left_out(tmp_path: Path) -> None:
    """With the split of a daemon, what its gate judges by is not learned from."""
    split = HeldOutSplit(bytes(32), 0.5)
    held = [name for name in (f"t{n}" for n in range(4)) if split.is_held_out(name)]
    assert 0 < len(held) < 4

    async def test(store: SqlStore) -> None:
        await fault(LoraTrainer(config(tmp_path, "raise SystemExit(3)"), store, split=split))
        asked = [row["messages"][0]["content"] for row in rows(tmp_path / "training/chat.jsonl")]
        assert len(asked) == 4 - len(held)
        assert not {f"do {name}" for name in held} & set(asked)

    with_episodes(test)


def test_forgotten_episodes_leave_the_training_files(tmp_path: Path) -> None:
    """Who forgets an episode of a scenario forgets what a training by a script has written of it, too."""

    async def test(store: SqlStore) -> None:
        await fault(LoraTrainer(config(tmp_path, "raise SystemExit(3)"), store))
        first, *_ = await store.list_episodes(EpisodeFilter())
        assert (tmp_path / "training" / "air@1.log").is_file()
        assert run_files.take_out(tmp_path / "runs", [first.id]) == ["training"]
        assert listed(tmp_path / "training") == ["chat.jsonl", "chat.meta.jsonl"]
        assert len(rows(tmp_path / "training" / "chat.jsonl")) == 3

    with_episodes(test)


@pytest.mark.feature("SE-113")
def test_faults_are_told_apart(tmp_path: Path) -> None:
    """Settings, script, data, process, files and store: each fault has its class, and none leaves an adapter."""
    with pytest.raises(ConfigError):
        LoraTrainerConfig(batch_size=0)

    async def test(store: SqlStore) -> None:
        missing = config(tmp_path, train_script=tmp_path / "nowhere.py")
        found = await fault(LoraTrainer(missing, store))
        assert isinstance(found, ScriptNotFoundError)
        assert str(tmp_path / "nowhere.py") in str(found)
        found = await fault(LoraTrainer(config(tmp_path, python_path="no-such-python"), store))
        assert isinstance(found, ScriptNotFoundError)
        assert listed(tmp_path) == []  # nothing was written

        fails = "import sys\nprint('the card is gone', file=sys.stderr)\nsys.exit(7)"
        found = await fault(LoraTrainer(config(tmp_path, fails), store))
        assert isinstance(found, ProcessFailedError)
        assert found.exit_code == 7
        assert "the card is gone" in found.stderr

        killed = "import os\nos.kill(os.getpid(), 9)"
        found = await fault(LoraTrainer(config(tmp_path, killed), store))
        assert isinstance(found, ProcessFailedError)
        assert found.exit_code == -1
        assert listed(tmp_path / "adapters") == []

        with_none = EpisodeFilter(scenario="elsewhere")
        with pytest.raises(EmptyDataError):
            await LoraTrainer(config(tmp_path), store).train(CHAT, with_none)

        (tmp_path / "file").touch()
        in_the_way = config(tmp_path, "pass", data_dir=tmp_path / "file")
        found = await fault(LoraTrainer(in_the_way, store))
        assert type(found) is TrainingError
        assert str(tmp_path / "file") in str(found)

    with_episodes(test)

    async def broken() -> None:
        path = tmp_path / "honed.db"
        async with open_store(f"sqlite:///{path}") as store:
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.execute("DROP TABLE episodes")
            assert isinstance(await fault(LoraTrainer(config(tmp_path, "pass"), store)), StoreError)

    anyio.run(broken)


@pytest.mark.feature("SE-113", "SE-126")
def test_what_cannot_be_served_is_kept_aside(
    tiny_base: Path, peft_folder: Path, tmp_path: Path
) -> None:
    """An adapter that llama.cpp cannot apply is an error that says why, and its files are not lost."""
    script = OUR_OWN.format(argv=tmp_path / "argv.json", adapter=peft_folder, gpu=512.0)
    script += "path = pathlib.Path(flags['--output']) / 'adapter_config.json'\n"
    script += "path.write_text(json.dumps(json.loads(path.read_text()) | {'use_dora': True}))\n"

    async def test(store: SqlStore) -> None:
        own = config(tmp_path, script, base_model=str(tiny_base))
        found = await fault(LoraTrainer(own, store))
        assert isinstance(found, TrainingError)
        assert "DoRA" in str(found)
        kept = tmp_path / "adapters" / "air@1.refused"
        assert str(kept) in str(found.advice)
        assert (kept / "adapter_model.safetensors").is_file()
        assert await store.list_models("air") == []

    with_episodes(test)


@pytest.mark.feature("SE-117")
def test_events_come_in_while_a_script_trains(tmp_path: Path) -> None:
    """The store takes new episodes in meanwhile; cancelling ends the script and what it has started."""
    script = "import os, subprocess, sys\n"
    script += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    script += "print(os.getpid(), child.pid, flush=True)\nchild.wait()\n"

    async def test(store: SqlStore) -> None:
        told_pids: list[Sequence[bytes]] = []
        started = anyio.Event()

        def hear(line: bytes) -> None:
            told_pids.append(line.split())
            started.set()

        trainer = LoraTrainer(config(tmp_path, script), store, on_line=hear)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(trainer.train, CHAT)
                await started.wait()
                for number in range(20):
                    await add(store, told(f"meanwhile-{number}", Success(1.0)))
                assert await store.count_episodes(EpisodeFilter()) == 24
                tasks.cancel_scope.cancel()
        group = int(told_pids[0][0])
        assert group_is_gone(group)
        assert listed(tmp_path / "adapters") == []

    with_episodes(test)


def test_script_ends_with_its_program(tmp_path: Path) -> None:
    """A program that is killed leaves no script behind, whosever script it is."""
    program = tmp_path / "program.py"
    program.write_text(
        "import anyio, sys\nfrom pathlib import Path\nfrom honed.processors import run_script\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "say = lambda line: print('pid', line.decode(), flush=True)\n"
        f"anyio.run(run_script, [sys.executable, '-c', code], Path({str(tmp_path / 'log')!r}), say)\n"
    )

    async def test() -> None:
        async with await anyio.open_process([sys.executable, str(program)]) as process:
            assert process.stdout is not None
            said = BufferedByteReceiveStream(process.stdout)
            while not (line := await said.receive_until(b"\n", 10_000)).startswith(b"pid "):
                pass  # the log
            group = int(line.split()[1])
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert group_is_gone(group)

    anyio.run(test)
