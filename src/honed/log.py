"""Structured logging: every event name that honed logs, and how a process turns logging on.

An event is `noun.verb_past`; everything else is a key. Ids, counts, durations and digests are logged; the text of
a conversation, a prompt or a secret never is.
"""

import contextlib
import logging
import sys
from typing import TextIO, cast

from honed.lean import without_colour

with without_colour():
    import structlog

DAEMON_STARTED = "daemon.started"
DAEMON_STOPPED = "daemon.stopped"
CONFIG_RELOADED = "config.reloaded"
CONFIG_REFUSED = "config.refused"
SOURCE_OPENED = "source.opened"
SOURCE_CLOSED = "source.closed"
SOURCE_FAILED = "source.failed"
SOURCE_BUSY = "source.busy"
SOURCE_FORBIDDEN = "source.forbidden"
SOURCE_REOPENED = "source.reopened"
BATCH_FAILED = "batch.failed"
STORE_LOST = "store.lost"
LINE_REJECTED = "line.rejected"
FILE_LOST = "file.lost"
FILE_AWAITED = "file.awaited"
EPISODE_CREATED = "episode.created"
EPISODE_REFUSED = "episode.refused"
VERIFIER_LOST = "verifier.lost"
VERIFIER_FAILED = "verifier.failed"
VERIFIER_REPEATED = "verifier.repeated"
COMPOSITION_CHANGED = "composition.changed"
REWARD_SUSPECTED = "reward.suspected"
TRIGGER_FIRED = "trigger.fired"
TRIGGER_FAILED = "trigger.failed"
TRAINING_STARTED = "training.started"
TRAINING_PROGRESS = "training.progress"
TRAINING_DONE = "training.done"
TRAINING_SKIPPED = "training.skipped"
TRAINING_FAILED = "training.failed"
TRAINING_CANCELLED = "training.cancelled"
TRAINING_INTERRUPTED = "training.interrupted"
TRAINING_PAUSED = "training.paused"
TRAINING_RESUMED = "training.resumed"
TRAINING_UNCLEARED = "training.uncleared"
REVIEW_PENDING = "review.pending"
REVIEW_APPROVED = "review.approved"
REVIEW_REJECTED = "review.rejected"
REVIEW_REOPENED = "review.reopened"
REVIEW_REMARKED = "review.remarked"
GATE_DECIDED = "gate.decided"
GATE_FAILED = "gate.failed"
MODEL_READY = "model.ready"
MODEL_APPLIED = "model.applied"
MODEL_REFUSED = "model.refused"
MODEL_ROLLED_BACK = "model.rolled_back"
WORKER_STARTED = "worker.started"
WORKER_ENDED = "worker.ended"
WORKER_WROTE = "worker.wrote"
REQUEST_FAILED = "request.failed"
GATEWAY_STARTED = "gateway.started"
GATEWAY_OPEN = "gateway.open"
GATEWAY_FEW_FILES = "gateway.few_files"
GATEWAY_AWAITED = "gateway.awaited"
GATEWAY_STOPPED = "gateway.stopped"
GPU_LAYERS_CUT = "gpu.layers_cut"
GPU_NOT_SHARED = "gpu.not_shared"
GPU_OVER_LIMIT = "gpu.over_limit"
GPU_RECOVERED = "gpu.recovered"
SERVER_STARTED = "server.started"
SERVER_STOPPED = "server.stopped"
SERVER_DIED = "server.died"
SWITCH_STARTED = "switch.started"
SWITCH_DONE = "switch.done"
SWITCH_FAILED = "switch.failed"
CANARY_STARTED = "canary.started"
CANARY_PROMOTED = "canary.promoted"
CANARY_WITHDRAWN = "canary.withdrawn"
CANARY_FAILED = "canary.failed"
CANARY_DELAYED = "canary.delayed"
CANARY_HELD = "canary.held"
CANARY_ROLLED_BACK = "canary.rolled_back"
PROBE_PASSED = "probe.passed"
CAPTURE_DROPPED = "capture.dropped"
CAPTURE_SPOOLED = "capture.spooled"
CAPTURE_UNSPOOLED = "capture.unspooled"
SPOOL_DAMAGED = "spool.damaged"
SPOOL_FAILED = "spool.failed"
FEED_LOST = "feed.lost"
PROBE_UNSURE = "probe.unsure"
ADAPTER_NOT_UNLOADED = "adapter.not_unloaded"
BASE_CHANGED = "base.changed"
BASE_FAILED = "base.failed"
BASE_UNCOMPARED = "base.uncompared"
CAPTURE_REFUSED = "capture.refused"
CAPTURE_SKIPPED = "capture.skipped"
STATE_UNWRITTEN = "state.unwritten"
SUPERVISOR_LOST = "supervisor.lost"
WATCHDOG_UNFED = "watchdog.unfed"
DATA_FORGOTTEN = "data.forgotten"
DATA_CLEANED = "data.cleaned"
STORE_TOO_LARGE = "store.too_large"
CLEANUP_PROGRESSED = "cleanup.progressed"
CLEANUP_FAILED = "cleanup.failed"


def configure(*, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send log lines to `stream` (default stderr): JSON, or plain text on a terminal."""
    out = stream or sys.stderr
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if out.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Lossy(out))),
        cache_logger_on_first_use=False,
    )


class _Lossy:
    """A stream that loses what it cannot write: a full disk must not end a process through its log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def get(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """A logger with `bound` on every line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return logger
