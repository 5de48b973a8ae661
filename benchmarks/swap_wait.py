"""How long a first token is waited for across a swap, beside the same load without one.

A gateway in a process of its own, real llama-servers, clients that stream one answer after another. Seconds with a
swap in their middle alternate with seconds without one; both strategies; a tiny model, and one of about 350 MB in F16
(`--mid`, a minute more to make).

    python benchmarks/swap_wait.py [--mid] [--rounds 5] [--seconds 6]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.tiny_models import conversations, make_tiny_adapter, make_tiny_base, offline

from honed.appliers import LlamaServerApplier
from honed.domain.job import ExportBaseJob
from honed.domain.serving import Switched, SwitchOrder
from honed.errors import ApplyError

CLIENTS = 4
STRATEGIES = ("blue_green", "hold")


@dataclass(frozen=True)
class Model:
    """A base as GGUF and two adapters of it."""

    name: str
    gguf: Path
    adapters: tuple[Path, Path]
    max_tokens: int


def tiny(folder: Path) -> Model:
    base = make_tiny_base(folder / "base")
    return _model("tiny", folder, base, "f32", max_tokens=48)


def mid(folder: Path) -> Model:
    """Random weights, 1024 wide, 16 layers."""
    offline()
    import torch
    from transformers import set_seed

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    set_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = make_tokenizer(
        [Example(row["messages"]) for row in conversations()], vocab_size=512
    )
    model = make_model(len(tokenizer), hidden_size=1024, num_layers=16)
    base = folder / "base"
    save_base(model, tokenizer, base)
    return _model("mid", folder, base, "f16", max_tokens=16)


def _model(name: str, folder: Path, base: Path, outtype: str, *, max_tokens: int) -> Model:
    from honed.worker.gguf_base import export_base

    gguf = folder / "base.gguf"
    job = {"base_model": str(base), "output_path": str(gguf), "result_path": ""}
    export_base(ExportBaseJob(**job, outtype=outtype))  # type: ignore[arg-type]
    adapters = tuple(
        make_tiny_adapter(base, folder / f"{name}@{n}", seed=n, strength=0.05, r=16) for n in (1, 2)
    )
    assert len(adapters) == 2
    return Model(name, gguf, adapters, max_tokens)


@contextmanager
def gateway(folder: Path, model: Model, strategy: str) -> Iterator[LlamaServerApplier]:
    """`honed serve` as a process, and its applier."""
    settings = {
        "SCENARIO": "bench",
        "DATA_DIR": str(folder),
        "SERVE__PORT": "0",
        "SERVE__SOCKET": str(folder / "serve.sock"),
        "SERVE__BASE_MODEL_PATH": str(model.gguf),
        "SERVE__CTX_SIZE": "512",
        "SERVE__PARALLEL": str(CLIENTS),
        "SERVE__STRATEGY": strategy,
    }
    environment = os.environ | {f"HONED__{name}": value for name, value in settings.items()}
    with (folder / "serve.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "honed", "serve"], env=environment, stderr=output, cwd=folder
        )
    applier = LlamaServerApplier(
        folder / "serve.sock", scenario="bench", feed_socket=folder / "feed.sock"
    )
    try:
        yield applier
    finally:
        process.terminate()
        process.wait(60)


async def answering(applier: LlamaServerApplier) -> str:
    """The gateway's address, once its lane serves."""
    async with asyncio.timeout(120):
        while True:
            try:
                await applier.current()
                break
            except ApplyError:
                await asyncio.sleep(0.1)
    address = (await applier.serving()).address
    assert address is not None
    return address


@dataclass
class Load:
    """Clients that stream without a pause, each with a prompt of its own."""

    address: str
    max_tokens: int
    waits: list[tuple[float, float]] = field(default_factory=list)
    """When a request was sent, and the seconds until its first token."""
    failed: int = 0

    async def client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.address, timeout=120) as client:
            while True:
                body = {
                    "messages": [{"role": "user", "content": f"agent {number}: what is wrong?"}],
                    "max_tokens": self.max_tokens,
                    "ignore_eos": True,
                    "stream": True,
                }
                sent = time.perf_counter()
                try:
                    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        answer.raise_for_status()
                        lines = answer.aiter_lines()
                        async for line in lines:
                            if '"content":"' in line or '"content": "' in line:
                                self.waits.append((sent, time.perf_counter() - sent))
                                break
                        ends = [line async for line in lines if line.startswith("data: [DONE]")]
                        self.failed += len(ends) != 1
                except httpx.HTTPError:
                    self.failed += 1

    def since(self, began: float) -> list[float]:
        """Waits of the requests that were sent after `began`."""
        return [wait for sent, wait in self.waits if sent >= began]


async def switch(applier: LlamaServerApplier, adapter: Path) -> Switched:
    """Serve the adapter, and say how long each phase took."""
    order = SwitchOrder(model_id=adapter.name, adapter_path=str(adapter))
    path = "/v1/scenarios/bench/switch"
    return await applier._ask("POST", path, Switched, order, timeout_s=300)


async def measure(model: Model, strategy: str, rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with gateway(folder, model, strategy) as applier:
            address = await answering(applier)
            await switch(applier, model.adapters[0])
            load = Load(address, model.max_tokens)
            calm: list[float] = []
            across: list[float] = []
            phases: list[dict[str, float]] = []
            async with asyncio.TaskGroup() as tasks:
                clients = [tasks.create_task(load.client(number)) for number in range(CLIENTS)]
                await asyncio.sleep(seconds / 2)
                for number in range(rounds):
                    began = time.perf_counter()
                    await asyncio.sleep(seconds)
                    calm += load.since(began)
                    began = time.perf_counter()
                    await asyncio.sleep(seconds / 2)
                    adapter = model.adapters[(number + 1) % 2]
                    phases.append((await switch(applier, adapter)).seconds)
                    await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
                    across += load.since(began)
                for client in clients:
                    client.cancel()
    print(f"\n{model.name}, {strategy}: {rounds} swaps, {load.failed} requests failed")
    for title, waits in (("without a swap", calm), ("across a swap", across)):
        waits.sort()
        p50, p99 = statistics.median(waits), waits[int(len(waits) * 0.99)]
        told = f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {waits[-1] * 1e3:.0f} ms"
        print(f"  {title:15} {len(waits):6} requests: {told}")
    each = {phase: [seconds[phase] for seconds in phases] for phase in phases[0]}
    told = ", ".join(
        f"{phase} {statistics.median(values):.2f} ({max(values):.2f})"
        for phase, values in each.items()
    )
    print(f"  seconds of the swap, median (longest): {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mid", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    arguments = parser.parse_args()
    for make in (tiny, mid) if arguments.mid else (tiny,):
        with tempfile.TemporaryDirectory() as name:
            model = make(Path(name))
            for strategy in STRATEGIES:
                asyncio.run(measure(model, strategy, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
