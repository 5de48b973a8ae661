"""What a run does with the episodes (its mode), and what came of it."""

import difflib
from enum import StrEnum
from typing import Final

from msgspec import Struct

from honed.domain.run import Run
from honed.errors import ConfigError

OFFLINE_IS_MISSING: Final = "offline analysis is not part of this version of honed"
"""Why the offline half of a run is skipped."""


class ProcessorMode(StrEnum):
    """What a run does: analyse statistics offline, train a LoRA, or both in this order."""

    OFFLINE = "offline"
    LORA = "lora"
    FULL = "full"

    @property
    def trains(self) -> bool:
        """Whether it trains an adapter, and so needs a base model."""
        return self is not ProcessorMode.OFFLINE


_SPELLINGS: Final = {
    "offline": ProcessorMode.OFFLINE,
    "offline_only": ProcessorMode.OFFLINE,
    "lora": ProcessorMode.LORA,
    "lora_only": ProcessorMode.LORA,
    "full": ProcessorMode.FULL,
    "both": ProcessorMode.FULL,
}


def parse_mode(text: object) -> ProcessorMode:
    """A mode from one of its six spellings, in any case; raises ConfigError."""
    if isinstance(text, str):
        if (found := _SPELLINGS.get(text.lower())) is not None:
            return found
        near = difflib.get_close_matches(text.lower(), _SPELLINGS, 1, 0.0)
        raise ConfigError(
            f"{text!r} is no processor mode: expected one of {', '.join(_SPELLINGS)}",
            advice=f"the nearest is {near[0]}",
        )
    raise ConfigError(f"{text!r} is no processor mode: expected one of {', '.join(_SPELLINGS)}")


class ProcessResult(Struct, frozen=True, kw_only=True):
    """What a run made, and what it did not and why."""

    mode: ProcessorMode
    run_id: str
    offline_model: str | None = None
    """Id of what the offline analysis has saved."""
    trained_model: str | None = None
    """Id of the adapter; its entry in the register tells the rest."""
    skipped: str | None = None
    """What of the mode was not done, and why; the other half may have been."""
    errors: tuple[str, ...] = ()
    """What failed. In `full` one half may fail and the other be done."""


def result_of(run: Run, mode: ProcessorMode) -> ProcessResult:
    """The result of a run that has ended."""
    skipped = []
    if mode is ProcessorMode.FULL:
        skipped.append(OFFLINE_IS_MISSING)
    if run.state in ("skipped", "cancelled", "interrupted"):
        skipped.append(run.message or run.state)
    return ProcessResult(
        mode=mode,
        run_id=run.id,
        trained_model=run.model_id,
        skipped="; ".join(skipped) or None,
        errors=(run.message or "failed",) if run.state == "failed" else (),
    )
