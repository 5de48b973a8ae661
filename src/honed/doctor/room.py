"""Is there room: on the disk for what is written, in memory for what is loaded?"""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from honed.config import Config
from honed.doctor.finding import Found, fail, gib, ok, together, warn
from honed.doctor.patient import Patient
from honed.domain.job import TrainSettings
from honed.gateway.strategy import Headroom, choose
from honed.learn_models import method_of
from honed.machine.model import Shape
from honed.machine.plan import (
    GGUF_BYTES,
    ServingPlan,
    adapter_bytes,
    serving_bytes,
    training_bytes,
)
from honed.stores.files import parse_url

_SPARE: Final = 1 << 30
"""Bytes that should stay free: the database grows, logs are written."""
_DAY_MS: Final = 86_400_000
_SOON_DAYS: Final = 30


def disk(patient: Patient) -> Found:
    """Free space against base GGUF, adapters and the growth of the database."""
    config = patient.config
    place = next(p for p in (config.data_dir, *config.data_dir.parents) if p.exists())
    free = shutil.disk_usage(place).free
    need, words = 0, []
    shape = patient.shape()
    if shape is not None:
        if patient.base_gguf is None:
            need += shape.num_parameters * GGUF_BYTES
            words.append(f"{gib(need)} for the base model as GGUF")
        adapters = config.apply.max_history * adapter_bytes(shape, config.train.settings())
        need += adapters
        words.append(f"{gib(adapters)} for {config.apply.max_history} adapters")
    told = f"{gib(free)} free" + (f", {' and '.join(words)} needed" if words else "")
    advice = "free space, or choose a data_dir on a larger disk"
    if free < need:
        return fail(told, advice)
    found = [warn(f"{told}, little to spare", advice) if free < need + _SPARE else ok(told)]
    return together([*found, *_growth(config, free - need)])


def _growth(config: Config, spare: int) -> Iterator[Found]:
    """How long the disk lasts at the pace of the database so far, after a day at least."""
    path = parse_url(config.database).path
    if path is None or not path.exists():
        return
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        try:
            (first,) = db.execute("SELECT min(received_ms) FROM records").fetchone()
        except sqlite3.Error:
            return  # told by the check of the store
    age_days = (time.time() * 1000 - first) / _DAY_MS if first else 0
    if age_days < 1:
        return
    per_day = path.stat().st_size / age_days
    lasts = spare / per_day
    told = f"the database grows by {gib(per_day)} a day"
    if lasts < _SOON_DAYS:
        yield warn(f"{told}: full in {lasts:.0f} days", "move data_dir to a larger disk in time")
    else:
        yield ok(told)


def memory(patient: Patient) -> Found:
    """Servers (two during a swap) and a training run, against what is free: an estimate."""
    config, shape = patient.config, patient.shape()
    if config.base_model is None:
        return ok("without a base model little is needed")
    if shape is None:
        return ok("not estimated: the sizes of the base model are not known")
    on_gpu = _serves_on_gpu(patient), _trains_on_gpu(patient)
    serving = _serving(patient, shape, on_gpu=on_gpu[0])
    training = max(
        training_bytes(shape, settings, on_gpu=on_gpu[1]) for settings in _settings(config)
    )
    parts = []
    for is_gpu, name in ((False, "memory"), (True, "GPU memory")):
        wants = [
            (size, what)
            for size, what, there in (
                (serving, "serving", on_gpu[0]),
                (training, "training", on_gpu[1]),
            )
            if there is is_gpu and (what == "training" or _starts_servers(config))
        ]
        if wants:
            parts.append(_compare(patient, wants, is_gpu=is_gpu, name=name))
    if _starts_servers(config):
        parts.append(_swap(patient, shape, on_gpu=on_gpu[0]))
    return together(parts)


def _starts_servers(config: Config) -> bool:
    """Whether the server is one of ours, not the operator's."""
    return config.own_server is None and config.serve.external_url is None


def _swap(patient: Patient, shape: Shape, *, on_gpu: bool) -> Found:
    """How adapters would be exchanged, by what is free: an estimate of what the gateway measures at each switch."""
    one, two = (_servers(patient, shape, servers=n, on_gpu=on_gpu) for n in (1, 2))
    free = _free(patient, is_gpu=on_gpu)[0] - (0 if patient.gateway() else one)
    headroom = Headroom("GPU memory" if on_gpu else "memory", two - one, max(0, free))
    choice = choose(patient.config.serve.strategy, [headroom])
    return ok(f"a swap would be {choice.strategy}: {choice.reason}")


def _settings(config: Config) -> Iterator[TrainSettings]:
    """Of the runs of each learn model, with the method that its rows are for unless one is named."""
    settings = config.train.settings()
    for learn_model in config.learn.models():
        method = method_of(learn_model) if settings.method == "auto" else settings.method
        yield replace(settings, method=method)


def _compare(patient: Patient, wants: list[tuple[int, str]], *, is_gpu: bool, name: str) -> Found:
    free, total = _free(patient, is_gpu=is_gpu)
    need = sum(size for size, _ in wants)
    words = " and ".join(f"about {gib(size)} for {what}" for size, what in wants)
    told = f"{words}, {gib(free)} of {gib(total)} {name} free"
    advice = (
        "halve train.per_device_train_batch_size and double train.gradient_accumulation_steps, lower "
        "train.max_length, serve.ctx_size or serve.parallel, or choose a smaller base model"
    )
    if need > total:
        return fail(f"{told}: more than there is", advice)
    if need > free:
        return warn(f"{told}: a run beside a swap may not fit", advice)
    return ok(told)


def _free(patient: Patient, *, is_gpu: bool) -> tuple[int, int]:
    """Bytes that are free, and that there are."""
    if is_gpu:
        card = max(patient.gpus().cards, key=lambda card: card.free)
        return card.free, card.total
    found = patient.memory()
    return found.available, found.total


def _serving(patient: Patient, shape: Shape, *, on_gpu: bool) -> int:
    # one of the two counts as used already when the gateway runs
    return _servers(patient, shape, servers=1 if patient.gateway() else 2, on_gpu=on_gpu)


def _servers(patient: Patient, shape: Shape, *, servers: int, on_gpu: bool) -> int:
    section = patient.config.serve
    gguf: Path | None = patient.base_gguf
    plan = ServingPlan(
        ctx_size=section.ctx_size,
        parallel=section.parallel,
        gguf_bytes=gguf.stat().st_size if gguf else None,
    )
    return serving_bytes(shape, plan, servers=servers, on_gpu=on_gpu)


def _serves_on_gpu(patient: Patient) -> bool:
    """A named executable may be a GPU build; the bundled one is for the CPU."""
    section = patient.config.serve
    has_gpu = bool(patient.gpus().cards)
    return has_gpu and section.llama_server is not None and section.n_gpu_layers > 0


def _trains_on_gpu(patient: Patient) -> bool:
    if patient.config.train.device == "cpu" or not patient.gpus().cards:
        return False
    found = patient.examined()
    return found is not None and bool(found.devices)
