"""Does a daemon that learns from four fifths of some trajectories foretell the rest better, and what does its gate say?

    python benchmarks/trajectories.py TRAJECTORIES.jsonl [--folder FOLDER] [--key 1]

Takes rows of tau-bench's form: `task_id`, `trial`, `reward`, and OpenAI messages in `traj`. They go the operator's way:
`honed import`, `honed run`, `honed train-now --wait`, with the gate and the held-out share of the defaults. Thrice:

- all rows as demonstrations of one agent, each told to be a success whatever came of it;
- a tenth of the tasks, in the same way;
- all rows with their rewards, as the file has them: successes are learned from, both kinds held out.

The tiny base knows the language and not the agent: it has learned to write the customers' turns of the training tasks.
The key of the held-out split is the first from --key on that holds out a fifth of the tasks.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from honed import log
from honed.domain.job import PretrainJob, PretrainResult, Progress
from honed.listen import is_listening
from honed.processors import run_job
from honed.training_sets import HeldOutSplit

Rows = list[dict[str, Any]]
HELD_OUT: Final = 0.2
"""The default of `gate.held_out_fraction`."""
CONFIG: Final = """\
scenario = "airline"
data_dir = {data_dir}
base_model = {base_model}
trigger = "manual()"
[train]
min_rows = 1
lora_dropout = 0.0
learning_rate = 2e-3
lr_scheduler_type = "cosine"
num_train_epochs = {epochs}
per_device_train_batch_size = 1
gradient_accumulation_steps = 1
max_length = 8192
device = "cpu"
threads = {threads}
[apply]
kind = "none"
"""
STARTED_S: Final = 60.0


def main() -> None:
    """Print what each of the three comes to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", type=Path, nargs="?", help="trajectories, JSON lines")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--key", type=int, default=1)
    parser.add_argument("--pretraining-steps", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.path is None:  # `make bench` has none
        parser.print_usage()
        return
    log.configure(level="WARNING")
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, (options.folder or Path(scratch)).absolute())


def compare(options: argparse.Namespace, folder: Path) -> None:
    rows: Rows = [json.loads(line) for line in options.path.read_text().splitlines()]
    tasks = sorted({str(row["task_id"]) for row in rows})
    secret, held_out = split(tasks, options.key)
    successes = sum(row["reward"] > 0 for row in rows)
    print(
        f"{len(rows)} trajectories of {len(tasks)} tasks, {successes} of them successes; "
        f"{len(held_out)} tasks held out"
    )
    training = [row for row in rows if str(row["task_id"]) not in held_out]
    anyio.run(pretrain, options, training, folder)
    demonstrations = [
        {"messages": row["traj"], "task_id": row["task_id"], "trial": row["trial"], "reward": 1}
        for row in rows
    ]
    tenth = tenth_of(tasks, held_out)
    few = [row for row in demonstrations if str(row["task_id"]) in tenth]
    for name, given in (
        ("demonstrations", demonstrations),
        ("a tenth of the demonstrations", few),
        ("attempts with their rewards", rows),
    ):
        learn(name, given, secret, options, folder)


def split(tasks: Sequence[str], first: int) -> tuple[bytes, set[str]]:
    """A key that holds out a fifth of the tasks, and which those are."""
    for number in itertools.count(first):
        secret = number.to_bytes(32, "big")
        by = HeldOutSplit(secret, HELD_OUT)
        held_out = {task for task in tasks if by.is_held_out(task)}
        if len(held_out) == round(HELD_OUT * len(tasks)):
            return secret, held_out
    raise AssertionError("numbers do not end")


def tenth_of(tasks: Sequence[str], held_out: set[str]) -> set[str]:
    """The first tasks of both sides, a tenth of each and one at least."""
    sides = ([t for t in tasks if t in held_out], [t for t in tasks if t not in held_out])
    return {task for side in sides for task in side[: max(1, round(len(side) / 10))]}


async def pretrain(options: argparse.Namespace, training: Rows, folder: Path) -> None:
    """A base that has learned to write the customers' turns."""
    started = time.monotonic()
    write(folder / "text.jsonl", [swapped(row["traj"]) for row in training])
    job = PretrainJob(
        data_path=str(folder / "text.jsonl"),
        output_path=str(folder / "base"),
        result_path=str(folder / "pretrain" / "result.json"),
        steps=options.pretraining_steps,
        batch_size=1,  # rows are long: padding costs more than a batch gains
        vocab_size=4096,
        seed=0,
        threads=options.threads,
    )
    result = await run_job(job, folder / "pretrain", ignore)
    assert isinstance(result, PretrainResult)
    print(
        f"base: {result.num_parameters / 1e6:.2f} M parameters, {options.pretraining_steps} steps, "
        f"loss {result.final_loss:.3f}, {time.monotonic() - started:.0f} s",
        flush=True,
    )


def swapped(messages: Rows) -> dict[str, Any]:
    """The conversation with user and agent changed about, tool turns left out."""
    other = {"user": "assistant", "assistant": "user"}
    turns = [
        {"role": other.get(turn["role"], turn["role"]), "content": turn["content"]}
        for turn in messages
        if turn["role"] != "tool" and turn.get("content")
    ]
    return {"messages": turns}


def learn(name: str, rows: Rows, secret: bytes, options: argparse.Namespace, folder: Path) -> None:
    """Import, train, gate; print what came out."""
    place = folder / name.replace(" ", "-")
    write(place / "rows.jsonl", rows)
    config = place / "honed.toml"
    config.write_text(
        CONFIG.format(
            data_dir=json.dumps(str(place / "data")),
            base_model=json.dumps(str(folder / "base")),
            epochs=options.epochs,
            threads=options.threads,
        )
    )
    (place / "data").mkdir(mode=0o700, exist_ok=True)
    key = place / "data" / "secret.key"
    key.touch(mode=0o600)
    key.write_bytes(secret)
    started = time.monotonic()
    told = honed("import", str(place / "rows.jsonl"), "--json", config=config)
    with daemon(config, place):
        honed("train-now", "--wait", "--json", config=config)
        (run,) = honed("runs", "--json", config=config)
        models = honed("adapters", "--json", config=config)
    print(f"\n{name}: {told['episodes']} episodes, {time.monotonic() - started:.0f} s")
    if not models:
        print(f"  no adapter: {run['state']}, {run.get('error') or run.get('reason')}")
        return
    show(models[0], run)


def show(model: dict[str, Any], run: dict[str, Any]) -> None:
    gate, metrics = model["gate"], model["metrics"]
    print(
        f"  trained: {metrics['num_steps']} steps by {run.get('method')}, loss "
        f"{metrics['extra']['first_loss']:.3f} -> {metrics['final_loss']:.3f}"
    )
    if gate["held_out_loss_before"] is not None:
        print(
            f"  held out: {gate['num_successes']} successes and {gate['num_failures']} failures; on successes "
            f"loss {gate['held_out_loss_before']:.3f} -> {gate['held_out_loss_after']:.3f} nats per token, accuracy "
            f"{gate['accuracy_before']:.3f} -> {gate['accuracy_after']:.3f}"
        )
    print(f"  gate, by {gate['proof']}: {gate['decision']}: {gate['reason']}", flush=True)


@contextmanager
def daemon(config: Path, place: Path) -> Iterator[None]:
    """`honed run`, from when it listens until the end of the block."""
    with (place / "daemon.log").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "honed", "run", "--config", str(config)],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + STARTED_S
        while not is_listening(place / "data" / "control.sock"):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"honed run did not start:\n{(place / 'daemon.log').read_text()}")
            time.sleep(0.1)
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def honed(*arguments: str, config: Path) -> Any:
    """What a command prints for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    if done.returncode and not done.stdout:
        raise SystemExit(
            f"honed {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
        )
    return json.loads(done.stdout)


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ignore(progress: Progress) -> None:
    pass


if __name__ == "__main__":
    main()
