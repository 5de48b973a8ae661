"""How long does a training take, beside the obvious script (plain_trl.py), as it is and without checkpointing?

    python benchmarks/sft.py [--seeds 3] [--only demo] [--folder FOLDER] [--threads 1] [--minutes 2]

Each way gets the same conversations, base model, settings, threads and rows in each step, and is a process that starts
from nothing and leaves an adapter. The ways take turns, in another order with each seed. Held-out loss is per assistant
token of conversations that nobody trained on, by one scorer. Under load, wall time says little and CPU time more.

Last, `honed train` as it is typed, for about so many minutes: the share of its time outside optimizer steps (imports,
base model, tokenizer, checkpoints, validation, export).
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import msgspec
from sft_data import SPREADS, conversations

from honed.domain.job import (
    Job,
    Progress,
    RunResult,
    ScoreJob,
    ScoreResult,
    TrainJob,
    TrainResult,
    TrainSettings,
    parse_result,
)

ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
PLAIN: Final = Path(__file__).with_name("plain_trl.py")
CHANGES: Final[Mapping[str, dict[str, Any]]] = {
    "TRL, its defaults": {},
    "TRL, no checkpointing": {"activation_checkpointing": False, "bf16": False},
}
OURS: Final = "honed"
P = ParamSpec("P")
T = TypeVar("T")


class Case(NamedTuple):
    """Data, model and settings of one comparison."""

    spread: str
    scale: float
    """Of the lengths; shorter ones take less time and are as mixed."""
    num_rows: int
    hidden_size: int
    num_layers: int
    vocab_size: int
    settings: dict[str, Any]


class Run(NamedTuple):
    """What one process took."""

    wall_s: float
    cpu_s: float
    steps_s: float
    """Wall time of the training loop alone."""
    peak_mb: float
    loss: float
    """Held out, per assistant token."""


_TRAJECTORIES: Final = {"batch": (2, 4), "learning_rate": 2e-3}
CASES: Final = {
    "demo": Case(
        *("demo", 1.0, 360, 256, 4, 4096),
        {"batch": (4, 1), "learning_rate": 2e-3, "num_train_epochs": 4},
    ),
    "trajectories": Case("trajectories", 0.25, 48, 256, 4, 4096, _TRAJECTORIES),
    "demo, its own model": Case(
        *("demo", 1.0, 720, 128, 2, 1024),
        {"batch": (4, 1), "learning_rate": 5e-3, "num_train_epochs": 4},
    ),
    "large vocabulary": Case("trajectories", 0.25, 16, 256, 4, 32_768, _TRAJECTORIES),
    "whole trajectories": Case("trajectories", 1.0, 16, 256, 4, 4096, _TRAJECTORIES),
}
SHORT: Final = ("demo", "trajectories")
"""Cases that are compared without being asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", choices=CASES, help="one case, also of those that are left out else"
    )
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=2, help="of `honed train`; 0 leaves it out"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            if name in ([options.only] if options.only else SHORT):
                folder = (options.folder or Path(scratch)).absolute() / name.replace(
                    " ", "-"
                ).replace(",", "")
                if options.seeds:
                    compare(name, case, folder, seeds=options.seeds, threads=options.threads)
        if options.minutes:
            folder = (options.folder or Path(scratch)).absolute() / "typed"
            typed(CASES["trajectories"], folder, 60 * options.minutes, options.threads)


def apart(function: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
    """Call it in a process of its own: what this one holds counts as the peak of those that it starts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given, **more).result()


def compare(name: str, case: Case, folder: Path, *, seeds: int, threads: int) -> None:
    base = apart(prepare, case, folder)
    print(f"\n{name}: {base}; {threads} thread(s)", flush=True)
    found: dict[str, list[Run]] = {way: [] for way in (*CHANGES, OURS)}
    for seed in range(seeds):
        load = os.getloadavg()[0]
        for way in random.Random(seed).sample(sorted(found), len(found)):
            run = one_run(way, case, folder, seed=seed, threads=threads)
            found[way].append(run)
            print(
                f"  seed {seed}, load {load:.1f}: {way:22} {run.wall_s:6.1f} s wall, {run.cpu_s:6.1f} s CPU, "
                f"{run.steps_s:6.1f} s in the loop, {run.peak_mb:5.0f} MiB, held-out loss {run.loss:.4f}",
                flush=True,
            )
    for what, measure in (("wall", wall), ("CPU", cpu)):
        for way in CHANGES:
            ratios = [measure(t) / measure(o) for t, o in zip(found[way], found[OURS], strict=True)]
            print(f"  {way} / {OURS}, {what}: {spread_of(ratios)}")
    show_rest(found)


def wall(run: Run) -> float:
    return run.wall_s


def cpu(run: Run) -> float:
    return run.cpu_s


def spread_of(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def show_rest(found: Mapping[str, Sequence[Run]]) -> None:
    best = min(CHANGES, key=lambda way: statistics.median(run.wall_s for run in found[way]))
    losses = [o.loss - t.loss for t, o in zip(found[best], found[OURS], strict=True)]
    around = [run.wall_s - run.steps_s for run in found[OURS]]
    print(
        f"  held-out loss, {OURS} - {best}: {', '.join(f'{loss:+.4f}' for loss in losses)}\n"
        f"  around the loop: {spread_of(around)} s\n"
        f"  peak memory: {'; '.join(f'{way} {max(r.peak_mb for r in runs):.0f} MiB' for way, runs in found.items())}"
    )


def prepare(case: Case, folder: Path) -> str:
    """Write data and base model; returns what they are."""
    import torch
    from transformers.utils import logging

    from honed.worker.examples import read_examples
    from honed.worker.pretrain import make_model, make_tokenizer, save_base
    from honed.worker.rows import rows_of

    logging.disable_progress_bar()
    spread = SPREADS[case.spread]
    for name, count, seed in (("train", case.num_rows, 1), ("held_out", 16, 2)):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = conversations(spread, count, seed, case.scale)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    examples = read_examples(folder / "train.jsonl")
    tokenizer = make_tokenizer(examples, vocab_size=1024)
    torch.manual_seed(0)
    model = make_model(case.vocab_size, hidden_size=case.hidden_size, num_layers=case.num_layers)
    save_base(model, tokenizer, folder / "base")
    lengths = sorted(
        (len(row.input_ids), row.num_targets)
        for row in rows_of(examples, tokenizer, max_length=1 << 20)
    )
    marks = [lengths[round(share * (len(lengths) - 1))][0] for share in (0, 0.1, 0.5, 0.9, 1)]
    share = sum(num for _, num in lengths) / sum(length for length, _ in lengths)
    return (
        f"{len(lengths)} rows of {marks} tokens (0, 10, 50, 90, 100 %), {100 * share:.0f} % of them count; "
        f"{model.num_parameters() / 1e6:.1f} M parameters, vocabulary {case.vocab_size}"
    )


def settings_of(case: Case, *, seed: int, threads: int) -> dict[str, Any]:
    """In TRL's names."""
    told = dict(case.settings)
    batch, accumulation = told.pop("batch")
    return {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "max_length": 16_384,
        "seed": seed,
        "threads": threads,
    } | told


def one_run(way: str, case: Case, folder: Path, *, seed: int, threads: int) -> Run:
    settings = settings_of(case, seed=seed, threads=threads)
    with fresh(folder / "run") as run_folder:
        if way == OURS:
            adapter = run_folder / "adapter"
            job = train_job(folder, run_folder, TrainSettings(**settings, validation_fraction=0))
            taken, steps_s = timed_worker(job, run_folder)
        else:
            for name in ("base", "train.jsonl"):
                (run_folder / name).symlink_to(folder / name)
            (run_folder / "settings.json").write_text(json.dumps(settings))
            adapter = run_folder / "plain"
            taken, steps_s = timed_script(run_folder, CHANGES[way])
        loss = apart(held_out_loss, folder, adapter, run_folder)
        return Run(*taken[:2], steps_s, taken[2], loss)


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name) as made:
        yield Path(made)


def timed(
    command: list[str],
    log: Path,
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[float, float, float]:
    """Seconds of wall and CPU, and the peak of memory in MiB, of a process that must end well."""
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={
                **os.environ,
                **ENVIRONMENT,
                "HF_HOME": str(log.parent / "hf"),
                **(variables or {}),
            },
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def timed_script(folder: Path, changes: dict[str, Any]) -> tuple[tuple[float, float, float], float]:
    taken = timed([sys.executable, str(PLAIN), str(folder), json.dumps(changes)], folder / "log")
    return taken, json.loads((folder / "plain" / "seconds.json").read_text())


def timed_worker(job: Job, folder: Path) -> tuple[tuple[float, float, float], float]:
    path = folder / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    taken = timed([sys.executable, "-m", "honed.worker", str(path)], folder / "log")
    result = parse_result(Path(job.result_path).read_bytes())
    assert isinstance(result, TrainResult), result
    return taken, result.metrics.training_time_secs or 0.0


def train_job(data: Path, folder: Path, settings: TrainSettings) -> TrainJob:
    return TrainJob(
        run_id="benchmark",
        model_id="benchmark@1",
        scenario="benchmark",
        learn_model="chat",
        base_model=str(data / "base"),
        data_path=str(data / "train.jsonl"),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(folder / "adapter"),
        result_path=str(folder / "result.json"),
        settings=msgspec.structs.replace(settings, device="cpu", method="sft"),
    )


def held_out_loss(data: Path, adapter: Path, folder: Path) -> float:
    from honed.worker.scores import score

    job = ScoreJob(
        base_model=str(data / "base"),
        held_out_path=str(data / "held_out.jsonl"),
        candidate_path=str(adapter),
        incumbent_path=None,
        result_path=str(folder / "scores.json"),
        max_length=16_384,
        device="cpu",
        threads=1,
    )
    found = score(job, ignore)
    assert isinstance(found, ScoreResult)
    tokens = sum(each.num_tokens for each in found.scores)
    return -sum(each.candidate * each.num_tokens for each in found.scores) / tokens


CONFIG: Final = """
[model]
name = {base}
max_seq_length = 16384
[lora]
r = 16
lora_alpha = 32
[training]
num_train_epochs = {epochs}
learning_rate = 2e-3
warmup_steps = 2
per_device_train_batch_size = 2
save_steps = 10
[dataset]
path = {train}
validation_path = {validation}
"""


def typed(case: Case, folder: Path, wanted_s: float, threads: int) -> None:
    """`honed train` with checkpoints and a validation file; one short run says how many passes take the time."""
    told = apart(prepare, case, folder)
    lines = (folder / "held_out.jsonl").read_text().splitlines(keepends=True)
    (folder / "validation.jsonl").write_text("".join(lines[: case.num_rows // 10 + 1]))
    print(
        f"\n`honed train`: {told}; a checkpoint every 10 steps, validation on a tenth as many rows each pass",
        flush=True,
    )
    first = typed_run(folder, 1, threads)
    epochs = max(1, round((wanted_s - first.wall_s) / first.steps_s))
    show_typed(typed_run(folder, epochs, threads), epochs)


class Typed(NamedTuple):
    """What `honed train` took."""

    wall_s: float
    loop_s: float
    steps_s: float
    num_steps: int


def typed_run(folder: Path, epochs: int, threads: int) -> Typed:
    with fresh(folder / "typed") as place:
        names = {"base": "base", "train": "train.jsonl", "validation": "validation.jsonl"}
        paths = {name: json.dumps(str(folder / path)) for name, path in names.items()}
        (place / "run.toml").write_text(CONFIG.format(epochs=epochs, **paths))
        command = [sys.executable, "-m", "honed", "train", "--config", "run.toml"]
        wall_s, _, _ = timed(
            command, place / "log", cwd=place, variables={"OMP_NUM_THREADS": str(threads)}
        )
        result = parse_result((place / "outputs" / "run" / "result.json").read_bytes())
        assert isinstance(result, RunResult), result
        metrics = result.metrics
        return Typed(
            wall_s,
            metrics.training_time_secs or 0.0,
            metrics.extra["seconds_in_steps"],
            metrics.num_steps or 0,
        )


def show_typed(run: Typed, epochs: int) -> None:
    outside = run.wall_s - run.steps_s
    print(
        f"  {epochs} passes, {run.num_steps} steps: {run.wall_s:.1f} s wall, {run.steps_s:.1f} s in steps, "
        f"{run.loop_s - run.steps_s:.1f} s between them, {run.wall_s - run.loop_s:.1f} s before and after: "
        f"{100 * outside / run.wall_s:.1f} % outside steps"
    )


def ignore(progress: Progress) -> None:
    pass


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    main()
