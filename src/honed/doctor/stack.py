"""The training stack: packages of the right versions, and a device they can compute on."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from honed.doctor.finding import Found, fail, gib, ok, together, warn
from honed.doctor.patient import Patient
from honed.machine.gpus import Gpus

_SHOWN: Final = ("torch", "transformers", "trl", "peft")
_LARGE: Final = 1_000_000_000
"""Parameters from which a run on the CPU is not worth waiting for."""
_INSTALL: Final = "pip install 'honed[train]'"
_REQUIREMENT: Final = re.compile(r"([\w.-]+)\s*(>=|==)\s*([\d.]+)\s*;.*extra == [\"']train[\"']")


def packages(patient: Patient) -> Found:
    """Versions from the packages' metadata; nothing is imported."""
    wanted = [m.groups() for line in requires("honed") or () if (m := _REQUIREMENT.match(line))]
    found, faults = {}, []
    for name, relation, least in wanted:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            faults.append(f"{name} is not installed")
            continue
        has, needs = _numbers(found[name]), _numbers(least)
        if has < needs or (relation == "==" and has[: len(needs)] != needs):
            faults.append(f"{name} is {found[name]}, needed {relation}{least}")
    config = patient.maybe_config
    if not found:
        if config is None or config.base_model is None:
            return ok(f"not installed; needed once a base model is set ({_INSTALL})")
        return fail("not installed, so nothing can be trained or converted", _INSTALL)
    if faults:
        return fail("; ".join(faults), f"{_INSTALL} --upgrade")
    return ok(", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found))


def _numbers(text: str) -> tuple[int, ...]:
    """`2.13.0+cu130` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def accelerator(patient: Patient) -> Found:
    """What torch and the driver see, in agreement with `train.device`."""
    cards = patient.gpus()
    config = patient.maybe_config
    device = config.train.device if config else "auto"
    parts = [*_driver(cards)]
    if device == "cpu":
        return together([*parts, _on_cpu(patient)])
    examined = patient.examined()
    if examined is None:
        return together([*parts, ok("torch is not installed and was not asked")])
    for each in examined.devices:
        if each.problem:
            parts.append(
                fail(
                    f"torch cannot compute on {each.name}: {each.problem}",
                    f"torch {examined.torch} ({examined.build}) does not fit this card or driver; "
                    "install the build that does, or set train.device to cpu",
                )
            )
        else:
            parts.append(ok(f"torch uses {each.name}, {gib(each.free_bytes)} free"))
    if not examined.devices:
        parts += _without_device(patient, cards, device, examined.build)
    return together(parts)


def _driver(cards: Gpus) -> Iterator[Found]:
    if cards.fault:
        yield warn(
            f"nvidia-smi fails: {cards.fault}",
            "the driver does not work; restart after an upgrade of it, or reinstall it",
        )
    for card in cards.cards:
        free = f"{gib(card.free)} of {gib(card.total)} free"
        yield ok(f"{card.name}, {free}, driver {card.driver}")
    if cards.tenants:
        names = ", ".join(
            f"{tenant.name} (pid {tenant.pid}, {gib(tenant.used)})" for tenant in cards.tenants[:4]
        )
        yield ok(f"also on it: {names}")


def _without_device(patient: Patient, cards: Gpus, device: str, build: str) -> Iterator[Found]:
    if device == "cuda":
        yield fail(
            f"train.device is cuda, but torch ({build}) sees none",
            "install a CUDA build of torch and check nvidia-smi, or set train.device to auto",
        )
    elif cards.cards and device == "auto":
        yield warn(
            f"there is a GPU, but torch ({build}) does not use it",
            "install the CUDA build of torch that the driver supports",
        )
    yield _on_cpu(patient)


def _on_cpu(patient: Patient) -> Found:
    cores = len(os.sched_getaffinity(0))
    shape = patient.shape()
    if shape is not None and shape.num_parameters >= _LARGE:
        return warn(
            f"a model of {shape.num_parameters / 1e9:.1f} billion parameters is trained on {cores} cores",
            "a run takes hours or days: choose a smaller base model, or a machine with a GPU",
        )
    return ok(f"training on {cores} CPU cores, without a GPU")
