"""Does LoRA training on the successes of some tasks lower the loss on the successes of others?

    python benchmarks/held_out_loss.py TRAJECTORIES.jsonl [--folder FOLDER]

Takes JSON lines with OpenAI messages in `traj` or `messages`, and optionally `task_id`, `reward` (1
is a success) and `tools`. Splits by task, makes a tokenizer and a tiny base model from the
customers' turns of the training tasks, trains an adapter on those tasks' successes in a worker
process, and prints the loss per assistant token of the held-out tasks before and after.
"""

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import anyio

from honed import log
from honed.domain.job import (
    EpisodeScore,
    PretrainJob,
    PretrainResult,
    Progress,
    TrainJob,
    TrainResult,
    TrainSettings,
)
from honed.processors import run_job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path, help="trajectories, JSON lines")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the tasks held out")
    parser.add_argument("--pretraining-steps", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    log.configure(level="WARNING")
    with tempfile.TemporaryDirectory() as scratch:
        anyio.run(run, options, (options.folder or Path(scratch)).absolute())


async def run(options: argparse.Namespace, folder: Path) -> None:
    rows = [read(line, i) for i, line in enumerate(options.path.read_text().splitlines())]
    training = [row for row in rows if not is_held_out(row, options)]
    held_out = [row for row in rows if is_held_out(row, options)]
    successes = [row for row in training if row["reward"] >= 1]
    print(
        f"{len(rows)} trajectories, {len({row['task_id'] for row in rows})} tasks; "
        f"training: {len(training)}, of them {len(successes)} successes; held out: "
        f"{len({row['task_id'] for row in held_out})} tasks, {len(held_out)} trajectories, "
        f"of them {sum(row['reward'] >= 1 for row in held_out)} successes"
    )
    for name, part in (
        ("text", [swapped(row) for row in training]),
        ("train", successes),
        ("held_out", held_out),
    ):
        write(folder / f"{name}.jsonl", part)
    await pretrain(options, folder)
    scores = await fine_tune(options, folder)
    for name, wanted in (("successes", True), ("failures", False)):
        chosen = [
            s for s, row in zip(scores, held_out, strict=True) if (row["reward"] >= 1) is wanted
        ]
        show(name, chosen)


def read(line: str, number: int) -> dict[str, Any]:
    data = json.loads(line)
    return {
        "messages": data.get("traj") or data["messages"],
        "tools": data.get("tools"),
        "task_id": str(data.get("task_id", number)),
        "reward": float(data.get("reward", 1.0)),
    }


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    """The conversation with user and agent changed about, tool turns left out."""
    other = {"user": "assistant", "assistant": "user"}
    turns = [
        {"role": other.get(turn["role"], turn["role"]), "content": turn["content"]}
        for turn in row["messages"]
        if turn["role"] != "tool" and turn.get("content")
    ]
    return {"messages": turns}


def is_held_out(row: dict[str, Any], options: argparse.Namespace) -> bool:
    """By a hash of the task, so that attempts at one task stay on one side."""
    return zlib.crc32(f"{options.seed}:{row['task_id']}".encode()) / 2**32 < options.held_out


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def pretrain(options: argparse.Namespace, folder: Path) -> None:
    """A base that knows the language but not the agent: it learns to write the customers' turns."""
    started = time.monotonic()
    job = PretrainJob(
        data_path=str(folder / "text.jsonl"),
        output_path=str(folder / "base"),
        result_path=str(folder / "pretrain" / "result.json"),
        steps=options.pretraining_steps,
        batch_size=1,  # rows are long: padding costs more than a batch gains
        vocab_size=4096,
        seed=options.seed,
        threads=1,
    )
    result = await run_job(job, folder / "pretrain", show_step)
    assert isinstance(result, PretrainResult)
    print(
        f"base: {result.num_parameters / 1e6:.2f} M parameters, {options.pretraining_steps} steps, "
        f"loss {result.final_loss:.3f}, {time.monotonic() - started:.0f} s"
    )


async def fine_tune(options: argparse.Namespace, folder: Path) -> tuple[EpisodeScore, ...]:
    started = time.monotonic()
    job = TrainJob(
        run_id="held-out-loss",
        model_id="held-out-loss@1",
        scenario="held-out-loss",
        learn_model="chat",
        base_model=str(folder / "base"),
        data_path=str(folder / "train.jsonl"),
        held_out_path=str(folder / "held_out.jsonl"),
        incumbent_path=None,
        output_path=str(folder / "adapter"),
        result_path=str(folder / "train" / "result.json"),
        settings=TrainSettings(
            lora_dropout=0.0,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            max_length=options.max_length,
            seed=options.seed,
            threads=1,
        ),
    )
    result = await run_job(job, folder / "train", show_step)
    assert isinstance(result, TrainResult)
    metrics = result.metrics
    print(
        f"adapter: {metrics.num_steps} steps on {metrics.num_tokens} assistant tokens an epoch, "
        f"{metrics.dropped_rows} trajectories dropped, loss {metrics.extra['first_loss']:.3f} -> "
        f"{metrics.final_loss:.3f}, {time.monotonic() - started:.0f} s"
    )
    return result.scores


def show_step(progress: Progress) -> None:
    if progress.step and progress.step % 20 == 0 and progress.loss is not None:
        print(f"  {progress.phase} {progress.step}/{progress.total_steps} loss {progress.loss:.3f}")


def show(name: str, scores: list[EpisodeScore]) -> None:
    """Loss per token over all tokens, and how many trajectories became likelier."""
    scored = [score for score in scores if score.num_tokens]
    if not scored:
        print(f"held-out {name}: none to score")
        return
    tokens = sum(score.num_tokens for score in scored)
    before = -sum(score.incumbent * score.num_tokens for score in scored) / tokens
    after = -sum(score.candidate * score.num_tokens for score in scored) / tokens
    better = sum(score.candidate > score.incumbent for score in scored)
    print(
        f"held-out {name}: {len(scored)} trajectories, {tokens} assistant tokens, "
        f"loss {before:.3f} -> {after:.3f} nats per token, likelier {better} of {len(scored)}"
    )


if __name__ == "__main__":
    main()
