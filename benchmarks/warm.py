"""How long until the first step, in a new process and in a fork of one that stays loaded?

    python benchmarks/warm.py [--pairs 5] [--folder FOLDER] [--base FOLDER]

Cold and warm runs take turns. The base model is tiny unless one is named; a larger one takes longer to load, cold. What
they train must be the same to the last bit.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import anyio
from sft import train_job
from sft_data import SPREADS, conversations

from honed import log
from honed.domain.job import Progress, TrainSettings
from honed.processors.warm_worker import WarmWorker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--base", type=Path, help="a base model instead of the tiny one")
    options = parser.parse_args()
    log.configure(level="WARNING")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        prepare(folder, options.base)
        anyio.run(compare, folder, options.pairs)


def prepare(folder: Path, base: Path | None) -> None:
    import torch

    from honed.worker.examples import read_examples
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    folder.mkdir(parents=True, exist_ok=True)
    lines = conversations(SPREADS["demo"], 64, 1)
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if base is not None:
        (folder / "base").symlink_to(base.absolute())
        return
    tokenizer = make_tokenizer(read_examples(folder / "train.jsonl"), vocab_size=1024)
    torch.manual_seed(0)
    save_base(make_model(len(tokenizer), hidden_size=128, num_layers=2), tokenizer, folder / "base")


async def compare(folder: Path, pairs: int) -> None:
    warm, cold = WarmWorker(timedelta(minutes=10)), WarmWorker(timedelta(0))
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    digests = set()
    try:
        await one_run(warm, folder / "first")
        for number in range(pairs):
            for name, worker in (("cold", cold), ("warm", warm)):
                seconds, digest = await one_run(worker, folder / f"{name}-{number}")
                found[name].append(seconds)
                digests.add(digest)
    finally:
        await warm.give_back()
    for name, times in found.items():
        print(
            f"{name}: first step after {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}"
        )
    ratios = [w / c for c, w in zip(found["cold"], found["warm"], strict=True)]
    print(
        f"warm / cold: {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}; load "
        f"{os.getloadavg()[0]:.1f}; {len(digests)} different adapter(s)"
    )


async def one_run(worker: WarmWorker, folder: Path) -> tuple[float, str]:
    """Seconds until the first step begins, and the digest of the adapter."""
    settings = TrainSettings(
        r=16, max_steps=3, gradient_accumulation_steps=1, threads=1, validation_fraction=0
    )
    job = train_job(folder.parent, folder, settings)
    started = time.monotonic()
    began: list[float] = []

    def look(progress: Progress) -> None:
        if progress.phase == "training" and not began:
            began.append(time.monotonic() - started)

    await worker.run(job, folder, look)
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return began[0], hashlib.sha256(weights).hexdigest()


if __name__ == "__main__":
    main()
