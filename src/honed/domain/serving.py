"""What appliers and the gateway say to each other over `serve.sock`: HTTP with these JSON bodies.

    GET  /v1/serving                        -> Serving
    PUT  /v1/scenarios/{scenario}           Registration -> LaneStatus; repeating it changes nothing
    GET  /v1/scenarios/{scenario}/server    -> ServerVitals
    POST /v1/scenarios/{scenario}/training  TrainingNotice -> Switched
    POST /v1/scenarios/{scenario}/drain     DrainOrder -> Drained: what was captured is with the daemon
    POST /v1/scenarios/{scenario}/switch    SwitchOrder -> Switched; what is served already is
    answered at once
    POST /v1/scenarios/{scenario}/canary    CanaryOrder -> CandidateStatus; repeating it changes the
    share and starts nothing
    POST /v1/scenarios/{scenario}/promote   CandidateOrder -> Switched; what is live already is
    answered at once
    POST /v1/scenarios/{scenario}/withdraw  CandidateOrder -> Switched to the live version; what is
    no candidate any more is answered at once

An error is a Refusal; its `code` names the error class in `CODES`.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from honed.errors import (
    AdapterNotFoundError,
    ApplyError,
    BaseMismatchError,
    ForeignAdapterError,
    HealthTimeoutError,
    HonedError,
    ProbeFailedError,
    ServerStartError,
)

PROTOCOL: Final = 1
"""Version of this API; answered with every Serving."""

LaneState = Literal["down", "starting", "active", "releasing"]
"""Starting: a server comes up (the former one, if any, still answers). Releasing: the new one
answers, the old drains.
"""

CandidateState = Literal["starting", "active", "down", "withdrawn"]
"""Starting: its server comes up. Active: it has its share. Down: its server is started again, its
tasks go to the live version. Withdrawn: its server failed too often and is not started again.
"""

Share = Annotated[float, Meta(gt=0, le=1)]
"""Part of the tasks."""


class AdapterRef(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter and where its folder is."""

    model_id: str
    """`scenario@n`."""
    path: str
    """Absolute path of the folder with adapter.gguf and fingerprint.json."""
    digest: str | None = None
    """SHA-256 over its files (`adapter_files.adapter_digest`) when it was published; other files are
    not served. None: not known, not compared.
    """


class Registration(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A scenario introduces itself; a field left out keeps what the gateway knows."""

    feed_socket: str | None = None
    """Where captured calls go."""
    base_gguf: str | None = None
    """The base model as GGUF; None takes the gateway's own."""
    base_facts: str | None = None
    """File with the base model's facts (`domain.base_facts`), which servers are compared with.
    None: not known, not compared.
    """
    adapter: AdapterRef | None = None
    """What to begin with when nothing is served yet; ignored otherwise."""


class SwitchOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serve this adapter instead of what is served now."""

    model_id: str | None
    """None is the bare base model."""
    adapter_path: str | None = None
    """Folder of the adapter; required unless `model_id` is None."""
    digest: str | None = None
    """As in AdapterRef."""
    previous_path: str | None = None
    """Folder of the adapter that the caller believes to be in service; for the log, the gateway
    knows its own.
    """


class Switched(Struct, frozen=True, kw_only=True):
    """A finished switch."""

    model_id: str | None
    seconds: dict[str, float]
    """Phase to duration: `start`, `probe`, `drain`, `stop`; empty when there was nothing to do."""
    strategy: str | None = None
    """`blue_green`, `hold` or `in_place`; None when there was nothing to do."""
    reason: str | None = None
    """Why it was chosen."""


class CanaryOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serve this adapter beside the live version, to a share of the tasks.

    Refused (`CONFLICT`) while another candidate is there, and when it is live already.
    """

    model_id: str
    adapter_path: str
    """Folder of the adapter."""
    digest: str | None = None
    """As in AdapterRef."""
    share: Share
    """A task's place is decided by a hash of scenario, model id and task id: one version answers it
    as long as the share stays, and a larger share keeps the tasks that it has.
    """
    is_shadow: bool = False
    """It answers copies, and nobody sees what it says; the live version answers everything."""


class CandidateOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Promote or withdraw this candidate; refused (`CONFLICT`) when another one is there."""

    model_id: str


class CandidateStatus(Struct, frozen=True, kw_only=True):
    """How the version beside the live one does."""

    model_id: str
    share: float
    is_shadow: bool
    state: CandidateState
    in_flight: int
    requests: int
    """Those that it was given, or copies of; without the copies they are in the lane's `requests`
    too.
    """
    failed: int
    """Of these, those that got no complete answer, or an error of the server; as above in the lane's `failed` too."""
    dropped: int = 0
    """Copies that were not asked, because it was busy with others."""
    error: str | None = None
    """Why it is down or withdrawn; a withdrawn one is told of until the next order."""


class TrainingNotice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run of the scenario goes on; answered when the server has made room (`serve.while_training`)."""

    lasts_s: float
    """Seconds for which this holds, unless it is said again; 0: the run has ended."""


class DrainOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Have the daemon take in what was captured until now; a gateway from before does not know this."""

    limit_s: Annotated[float, Meta(ge=0, le=600)]
    """How long this may take; 0 only looks."""


class Drained(Struct, frozen=True, kw_only=True):
    """Where captured calls are."""

    waited: int
    """Those that the daemon did not have when the order came."""
    left: int
    """Of these, those that it still does not have."""


class LaneStatus(Struct, frozen=True, kw_only=True):
    """What one scenario is served by."""

    state: LaneState
    model_id: str | None
    """The adapter that answers; None is the bare base, or nothing while `state` is down or first
    starting.
    """
    is_serving: bool
    """Whether requests are answered now; those of a parked lane are, once a server with its adapter is up."""
    address: str | None
    """The llama-server behind the gateway, for looking at; requests belong to the gateway's own
    address.
    """
    in_flight: int
    requests: int
    failed: int
    """Requests that got no complete answer although their client stayed, or an error of the server."""
    refused: int = 0
    """Requests that were told to come back before a server had them; not counted in `requests`."""
    held: int = 0
    """Requests that wait for a server to come up."""
    captured: dict[str, int]
    """Captured calls: `queued`, `spooled` (on disk), `sent`, `dropped`, `refused`, `skipped`, `damaged`; of what is on
    disk its `spooled_bytes`, since when it waits (`spooled_since_ms`, 0 where nothing does), and whether the disk takes
    no more (`spool_failing`, 0 or 1).
    """
    error: str | None = None
    """Why nothing is served, or why the last start failed."""
    is_compared: bool = False
    """Whether the server that answers was compared with its base model's facts, and agreed."""
    base_problem: str | None = None
    """Why what is served, or should be, is not the base model that is trained on; None when nothing
    speaks against it.
    """
    candidate: CandidateStatus | None = None
    """The version beside the live one."""
    is_parked: bool = False
    """Whether its adapter gave way to others' in a server that several scenarios share; the next request brings it
    back.
    """
    at_hand: list[str] = []
    """Adapters in the server that several scenarios share, its own among them; empty where it has its own server."""


def captured_problems(captured: Mapping[str, int]) -> list[str]:
    """What of a scenario's calls is lost, or about to be; a gateway of a former version tells less."""
    found = []
    if captured.get("spool_failing"):
        found.append(
            "captured calls find no room on disk (`spool.failed` in the gateway's log says why; serve.spool_max)"
        )
    if dropped := captured.get("dropped"):
        found.append(
            f"{dropped} captured calls were dropped since the gateway started, for want of room or because they were"
            " too long (`capture.dropped` in its log)"
        )
    if refused := captured.get("refused"):
        found.append(
            f"{refused} captured calls were refused by the daemon (`capture.refused` in the gateway's log)"
        )
    if damaged := captured.get("damaged"):
        found.append(
            f"{damaged} pieces of captured calls were damaged on disk and set aside (`*.broken`)"
        )
    return found


class ServerVitals(Struct, frozen=True, kw_only=True):
    """How the llama-server that answers is doing; what it does not tell is None."""

    model_id: str | None
    address: str
    pid: int | None
    """None: the operator runs it."""
    is_healthy: bool
    """Whether it answered a health check now."""
    slots: int | None
    """Requests that it answers at a time."""
    busy_slots: int | None
    ctx_size: int | None
    """Tokens of context of each slot."""
    deferred: int | None
    """Requests that wait for a slot."""
    prompt_tokens: int | None
    """Read since it started; `cached_tokens` came from its cache."""
    cached_tokens: int | None
    generated_tokens: int | None
    generated_per_s: float | None
    """Tokens a second, on the average since it was asked last."""
    private_bytes: int | None
    """Memory that it shares with nobody; the weights are mapped and shared."""
    log: str | None


class Serving(Struct, frozen=True, kw_only=True):
    """Everything that the gateway serves."""

    protocol: int
    address: str | None
    """The stable address, `http://host:port`."""
    scenarios: dict[str, LaneStatus]
    folder: str | None = None
    """Where it keeps its state, which no other gateway shares; None: a former version."""


def folder_id(folder: Path) -> str:
    """What a gateway tells of its folder to whoever reaches its address: the same folder, the same id."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a request to the gateway's control API was not carried out."""

    code: str
    message: str
    advice: str | None = None


CODES: Final[dict[str, type[HonedError]]] = {
    "ADAPTER_NOT_FOUND": AdapterNotFoundError,
    "SERVER_START": ServerStartError,
    "HEALTH_TIMEOUT": HealthTimeoutError,
    "PROBE_FAILED": ProbeFailedError,
    "BASE_MISMATCH": BaseMismatchError,
    "FOREIGN_ADAPTER": ForeignAdapterError,
    "CONFLICT": ApplyError,
}
"""Code to error, most particular first; the same table is read in both directions."""


def code_of(error: HonedError) -> str:
    """The code that stands for `error` in a Refusal."""
    return next((code for code, cls in CODES.items() if isinstance(error, cls)), "INTERNAL_ERROR")
