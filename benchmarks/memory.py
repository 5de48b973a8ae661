"""Is the memory that a run takes what was foretold? Estimate against measured peak, on the CPU.

    python benchmarks/memory.py [--sizes floor,5M] [--methods sft,dpo,kto] [--threads 2] [--folder FOLDER]

Each run is a worker process of its own, a few steps on rows that all fill `max_length`, on random weights of Qwen3's
form. Measured is the process's peak of resident memory (`ru_maxrss`); a run on a model of next to nothing comes first:
that is the floor. The estimate is `machine.plan.training_bytes`, which preflight and doctor go by.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from honed.domain.job import JobFailed, TrainJob, TrainSettings, parse_result
from honed.machine import model
from honed.machine.plan import training_bytes

ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Size(NamedTuple):
    """A model, and the (batch, length) with which it is trained."""

    hidden_size: int
    num_layers: int
    vocab_size: int
    runs: tuple[tuple[int, int], ...]


SIZES: Final = {
    "floor": Size(64, 1, 512, ((1, 256),)),
    "5M": Size(256, 4, 4096, ((1, 512), (4, 512), (1, 2048), (4, 2048))),
    "50M": Size(512, 10, 32_768, ((1, 512), (4, 512), (1, 2048), (2, 2048))),
    "150M": Size(768, 14, 65_536, ((1, 512), (4, 512), (1, 2048))),
}
METHODS: Final = ("sft", "dpo", "kto")
MIB: Final = 1 << 20


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--sizes", default="floor,5M", help=f"of {', '.join(SIZES)}; the larger take minutes a run"
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapter")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare[0], Path(options.prepare[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        print("    model  method  batch x length   estimate   measured   ratio   (MiB)")
        for name in options.sizes.split(","):
            for method in options.methods.split(","):
                for batch, length in SIZES[name].runs:
                    one_run(name, method, batch, length, folder, options)


def one_run(
    name: str, method: str, batch: int, length: int, folder: Path, options: argparse.Namespace
) -> None:
    base = folder / name
    if not base.exists():
        # In another process: what this one has held counts as the peak of those that it starts.
        again = [sys.executable, __file__, "--prepare", name, str(base)]
        subprocess.run(again, check=True, env=os.environ | ENVIRONMENT)
    settings = TrainSettings(
        method=method,
        r=16,
        lora_dropout=options.dropout,
        max_steps=4,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        max_length=length,
        validation_fraction=0,
        threads=options.threads,
        device="cpu",
    )
    shape = model.shape(base, model.read_config(base))
    assert shape is not None
    foretold = training_bytes(shape, settings, on_gpu=False) / MIB
    found = peak_mib(base, settings, folder)
    print(
        f"  {shape.num_parameters / 1e6:5.1f} M  {method:6}  {batch:5} x {length:<6}   {foretold:8,.0f}   {found:8,.0f}"
        f"   {found / foretold:5.2f}",
        flush=True,
    )


def peak_mib(base: Path, settings: TrainSettings, folder: Path) -> float:
    """The most that a worker of its own ever held."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        write_rows(place / "rows.jsonl", settings)
        job = TrainJob(
            run_id="memory",
            model_id="memory@1",
            scenario="memory",
            learn_model="chat",
            base_model=str(base),
            data_path=str(place / "rows.jsonl"),
            held_out_path=None,
            incumbent_path=None,
            output_path=str(place / "adapter"),
            result_path=str(place / "result.json"),
            settings=settings,
        )
        (place / "job.json").write_bytes(msgspec.json.encode(job))
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "honed.worker", str(place / "job.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, "HF_HOME": str(place / "hf")},
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the worker failed:\n{(place / 'log').read_text()[-2000:]}")
        result = parse_result((place / "result.json").read_bytes())
        assert not isinstance(result, JobFailed), result
        return used.ru_maxrss / 1024


def write_rows(path: Path, settings: TrainSettings) -> None:
    """Rows that fill the length, a token a word: answers of a fifth of it, as those of agents."""
    answer = settings.max_length // 5
    asked = "a " * (settings.max_length - answer - 24)
    user = {"role": "user", "content": asked.strip()}

    def said(word: str) -> dict[str, str]:
        return {"role": "assistant", "content": (word * (answer - 1)).strip()}

    rows: list[dict[str, Any]] = []
    for number in range(8 * settings.per_device_train_batch_size):
        if settings.method == "dpo":
            rows.append({"prompt": [user], "chosen": [said("b ")], "rejected": [said("c ")]})
        elif settings.method == "kto":
            rows.append({"prompt": [user], "completion": [said("b ")], "label": bool(number % 2)})
        else:
            rows.append({"messages": [user, said("b ")]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(name: str, folder: Path) -> None:
    """Random weights and a tokenizer in which a letter behind a space is one token."""
    import torch
    from transformers.utils import logging

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    logging.disable_progress_bar()
    size = SIZES[name]
    text = [{"role": role, "content": "a b c a b c"} for role in ("user", "assistant")]
    tokenizer = make_tokenizer([Example(messages=text, tools=None)], vocab_size=512)
    torch.manual_seed(0)
    made = make_model(size.vocab_size, hidden_size=size.hidden_size, num_layers=size.num_layers)
    save_base(made, tokenizer, folder)


if __name__ == "__main__":
    main()
