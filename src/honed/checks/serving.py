"""A llama-server for a measurement: started on a free port, asked, and gone when the measurement ends."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from honed.adapter_files import ADAPTER_GGUF
from honed.checks.run_plan import RunPlan
from honed.config import ServeSection
from honed.domain.job import ExportBaseJob
from honed.errors import ApplyError, ValidationError
from honed.gateway import llama_server
from honed.gateway.llama_server import LlamaServer, ServerPlan
from honed.gateway.upstream import Address, UpstreamError, fetch
from honed.processors import run_job

_LIMIT_S: Final = 600.0
"""How long one answer may take; a large model reads its prompt slowly on a CPU."""


@contextlib.asynccontextmanager
async def serving(
    name: str, gguf: Path, adapter: Path | None, section: ServeSection, folder: Path
) -> AsyncIterator[LlamaServer]:
    """A server with that model, healthy; stopped when the body is left.

    Raises:
        ValidationError: there is no such file.
        ApplyError: it did not start.
    """
    plan = ServerPlan(
        name=name,
        alias=name,
        base_gguf=_whole_path(gguf),
        adapter_gguf=adapter,
        section=section,
        folder=folder,
    )
    server = await llama_server.start(plan)
    try:
        yield server
    finally:
        await server.stop()


def _whole_path(gguf: Path) -> Path:
    if not gguf.is_file():
        raise ValidationError(f"{gguf} does not exist", advice="name a GGUF file")
    return gguf.absolute()


def address_of(server: LlamaServer) -> Address:
    """Where a healthy server listens."""
    assert server.address is not None
    return server.address


async def post(address: Address, path: str, order: object, kind: type[Any]) -> Any:
    """One request and its answer, as that kind of value.

    Raises:
        ApplyError: the server does not answer, or with something else.
    """
    try:
        body = msgspec.json.encode(order)
        status, answer = await fetch(address, "POST", path, body, timeout_s=_LIMIT_S)
        if status != 200:
            raise ApplyError(f"{address}{path} answered with status {status}: {answer[:200]!r}")
        return msgspec.json.decode(answer, type=kind)
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ApplyError(f"{address}{path} did not answer as expected: {error}") from error


def adapter_of(plan: RunPlan) -> Path | None:
    """The adapter's GGUF file; None where there is no adapter.

    Raises:
        ValidationError: there is an adapter without one.
    """
    if not plan.adapter_path.is_dir():
        return None
    path = plan.adapter_path / ADAPTER_GGUF
    if not path.is_file():
        raise ValidationError(
            f"the adapter {plan.adapter_path} has no {ADAPTER_GGUF}: llama-server cannot load it",
            advice="set save.gguf_path for the run, name another folder by --adapter, or say --merged of a model that "
            "has it in it",
        )
    return path.absolute()


async def converted(plan: RunPlan, folder: Path, outtype: Literal["f32", "q8_0"]) -> Path:
    """The base model as GGUF in that folder.

    Raises:
        ValidationError: no base model is named.
        TrainingError: it could not be converted.
    """
    path = folder / f"base-{outtype}.gguf"
    job = ExportBaseJob(
        base_model=base_model_of(plan),
        output_path=str(path),
        result_path=str(folder / f"{outtype}.json"),
        outtype=outtype,
    )
    await run_job(job, folder)
    return path


def base_model_of(plan: RunPlan) -> str:
    """The base model; raises ValidationError where none is named."""
    if plan.base_model is None:
        raise ValidationError(
            "no base model is named", advice="name it by --base-model, or model.name in the config"
        )
    return plan.base_model
