"""Which base model to begin with: what is on this machine, else well-known ones, by the memory there is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from honed.domain.job import TrainSettings
from honed.machine.gpus import Gpus
from honed.machine.memory import Memory
from honed.machine.model import LocalModel, Shape
from honed.machine.plan import ServingPlan, serving_bytes, training_bytes

_CPU_PARAMETERS_MAX: Final = 1_000_000_000
"""A run with more takes hours or days on a CPU."""
_ROWS_PER_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Proposal:
    """A base model that may be chosen."""

    name: str
    """What `base_model` would say."""
    licence: str
    shape: Shape | None
    is_here: bool = False
    remark: str = ""
    fits: bool = False
    """Whether a run fits beside serving, with the settings below."""
    batch_size: int = 4
    max_length: int = 2048

    @property
    def gradient_accumulation_steps(self) -> int:
        """So that a step always learns from as many rows."""
        return _ROWS_PER_STEP // self.batch_size


KNOWN: Final = (
    Proposal(
        "Qwen/Qwen3-0.6B", "apache-2.0", Shape(596_049_920, 1024, 28, 3072, 16, 8, 128, 151_936)
    ),
    Proposal(
        "Qwen/Qwen3-1.7B", "apache-2.0", Shape(1_720_574_976, 2048, 28, 6144, 16, 8, 128, 151_936)
    ),
    Proposal(
        "Qwen/Qwen3-4B", "apache-2.0", Shape(4_022_468_096, 2560, 36, 9728, 32, 8, 128, 151_936)
    ),
    Proposal(
        "Qwen/Qwen3-8B", "apache-2.0", Shape(8_190_735_360, 4096, 36, 12288, 32, 8, 128, 151_936)
    ),
    Proposal(
        "LiquidAI/LFM2.5-1.2B-Instruct",
        "lfm1.0",
        Shape(1_170_340_608, 2048, 16, 8192, 32, 8, 64, 65_536),
        remark="its licence limits commercial use by larger firms: read it first",
    ),
)
"""Sizes from their published `config.json`; those under Apache-2.0 are proposed, smallest first."""


def proposals(local: Iterable[LocalModel], memory: Memory, cards: Gpus) -> list[Proposal]:
    """Models on this machine first, then the known ones, each with settings that fit if any do."""
    here = [
        Proposal(each.name, each.licence or "not told by its card", each.shape, is_here=True)
        for each in local
    ]
    names = {each.name for each in here}
    others = [each for each in KNOWN if each.name not in names]
    return [fitted(each, memory, cards) for each in [*here, *others]]


def preferred(offered: Iterable[Proposal]) -> Proposal:
    """The largest that fits, of those here, else of the known ones without a remark; else the smallest."""
    choices = list(offered)
    for group in (
        [each for each in choices if each.is_here and each.fits],
        [each for each in choices if not each.is_here and each.fits and not each.remark],
    ):
        if group:
            return max(group, key=_size)
    return min((each for each in choices if not each.remark), key=_size)


def fitted(proposal: Proposal, memory: Memory, cards: Gpus) -> Proposal:
    """The proposal with the largest batch and length that fit."""
    if proposal.shape is None:
        return replace(proposal, batch_size=1)
    for batch_size, max_length in ((4, 2048), (2, 2048), (1, 2048), (1, 1024), (1, 512)):
        settings = TrainSettings(per_device_train_batch_size=batch_size, max_length=max_length)
        if _fits(proposal.shape, settings, memory, cards):
            return replace(proposal, fits=True, batch_size=batch_size, max_length=max_length)
    return replace(proposal, batch_size=1, max_length=512)


def _fits(shape: Shape, settings: TrainSettings, memory: Memory, cards: Gpus) -> bool:
    """Serving and training share what there is; with a GPU both are taken to be on it."""
    free = max((card.free for card in cards.cards), default=0)
    on_gpu = bool(cards.cards)
    if not on_gpu and shape.num_parameters > _CPU_PARAMETERS_MAX:
        return False
    plan = ServingPlan(ctx_size=4096, parallel=4)
    need = serving_bytes(shape, plan, servers=2, on_gpu=on_gpu)
    need += training_bytes(shape, settings, on_gpu=on_gpu)
    return need <= (free if on_gpu else memory.available)


def _size(proposal: Proposal) -> int:
    return proposal.shape.num_parameters if proposal.shape else 0
