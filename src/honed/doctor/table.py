"""The checks, in the order of the report, and how they are run."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from honed.config import Config
from honed.doctor import (
    base,
    clock,
    folders,
    judge,
    own_server,
    processes,
    room,
    server,
    settings,
    stack,
    store,
)
from honed.doctor.finding import Finding, Found, fail
from honed.doctor.patient import WORKER_LIMIT, Patient
from honed.errors import HonedError

_WORKER_S: Final = WORKER_LIMIT.total_seconds() + 20


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    look: Callable[[Patient], Found]
    limit_s: float = 15.0
    needs_config: bool = True


CHECKS: Final = (
    Check("data folder", folders.data_folder),
    Check("sockets", folders.sockets),
    Check("redaction", settings.redaction),
    Check("learn models", settings.learn_models),
    Check("store", store.store, limit_s=45),
    Check("disk", room.disk),
    Check("training stack", stack.packages, needs_config=False),
    Check("accelerator", stack.accelerator, limit_s=_WORKER_S, needs_config=False),
    Check("llama-server", server.llama_server, limit_s=60, needs_config=False),
    Check("own server", own_server.own_server, limit_s=60),
    Check("base model", base.base_model, limit_s=_WORKER_S),
    Check("memory", room.memory, limit_s=_WORKER_S),
    Check("judge", judge.judge, limit_s=judge.LIMIT.total_seconds() + 15),
    Check("daemon", processes.daemon),
    Check("gateway", processes.gateway),
    Check("clock", clock.clock, needs_config=False),
)


def diagnose(path: Path | None = None) -> Iterator[Finding]:
    """Look at everything; findings in the order of the table, each as soon as it is there.

    Without a usable config its faults come first, and then what can be said of the machine alone.
    """
    found, config = settings.config(path)
    yield from (_finding("config", each) for each in found)
    yield from examine(config, CHECKS)


def examine(config: Config | None, checks: tuple[Check, ...]) -> Iterator[Finding]:
    """Run checks side by side; those that need a config are left out without one."""
    patient = Patient(config)
    chosen = [check for check in checks if config is not None or not check.needs_config]
    looking = [_Looking(check, patient) for check in chosen]
    for each in looking:
        yield _finding(each.check.name, each.found())


def _finding(name: str, found: Found) -> Finding:
    return Finding(check=name, status=found.status, found=found.text, advice=found.advice)


class _Looking:
    """A check in a thread of its own, which is left behind if it hangs (a dead network drive)."""

    def __init__(self, check: Check, patient: Patient) -> None:
        self.check = check
        self._found: Found | None = None
        self._thread = threading.Thread(target=self._look, args=(patient,), daemon=True)
        self._thread.start()

    def _look(self, patient: Patient) -> None:
        try:
            self._found = self.check.look(patient)
        except HonedError as error:
            self._found = fail(str(error), error.advice or "see the message")
        except PermissionError as error:
            self._found = fail(
                f"user {os.geteuid()} may not look at {error.filename}",
                "run honed and its commands as the user that owns data_dir",
            )
        except Exception as error:  # a check that breaks must not hide the others
            self._found = fail(
                f"the check itself failed: {type(error).__name__}: {error}",
                "check this one by hand, and report it with this message",
            )

    def found(self) -> Found:
        """Wait for the answer, as long as the check may take."""
        self._thread.join(self.check.limit_s)
        return self._found or fail(
            f"no answer within {self.check.limit_s:g} s",
            "something that it looks at hangs: a network drive, a driver, or a busy machine",
        )
