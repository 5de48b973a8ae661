"""A llama-server that the operator runs: looked at and relayed to, never started, stopped or killed."""

from typing import Final

import anyio

from honed import log
from honed.config import read_server_key
from honed.errors import ApplyError, ConfigError, HealthTimeoutError, ServerStartError
from honed.gateway import runtime
from honed.gateway.llama_server import LlamaServer, ServerPlan
from honed.gateway.upstream import Address, UnreachableError, UpstreamError, fetch

_CONNECT_EVERY_S: Final = 0.05
_LOOK_EVERY_S: Final = 1.0


class ExternalServer(LlamaServer):
    """Stands for a process that is not ours; what would end it ends our looking at it."""

    def __init__(self, plan: ServerPlan, address: Address) -> None:
        self.plan = plan
        self.address = address
        self.is_stopping = False
        self.answers_with = plan.adapter_gguf
        self.is_exchanging = False
        self.verdict: str | None = None
        self._left = anyio.Event()

    @property
    def is_external(self) -> bool:
        """It is."""
        return True

    @property
    def pid(self) -> int:
        """Not known: 0, which is no process."""
        return 0

    @property
    def has_ended(self) -> bool:
        """Whether it was found to answer no more."""
        return self._left.is_set()

    async def wait(self) -> int:
        """Wait until it is left alone."""
        await self._left.wait()
        return 0

    async def stop(self, *, grace_s: float = 0) -> None:
        """Leave it alone from now on."""
        self.is_stopping = True
        self._left.set()

    def kill(self, verdict: str) -> None:
        """Take it for gone: it is asked again as one that died is started again."""
        self.verdict = verdict
        self._left.set()

    async def look(self) -> None:
        """Look every second whether it still answers with the adapter that it was put to, until it is gone: one that
        was restarted has forgotten it, or asks for another key, and clients must not be told that theirs is wrong.
        """
        assert self.address is not None
        while not self.has_ended:
            await anyio.sleep(_LOOK_EVERY_S)
            if self.is_exchanging:
                continue
            put_to = self.answers_with
            try:
                applied = await runtime.applied(self.address)
            except (UpstreamError, ApplyError) as error:
                if isinstance(error, UnreachableError | runtime.KeyRefusedError):
                    self.kill(str(error))
                continue  # it may be busy; its pulse is felt
            if self.is_exchanging or self.answers_with != put_to:
                continue  # it was asked before, and answered after
            expected = [str(put_to)] if put_to else []
            if applied != expected and not self.has_ended:
                self.kill(f"it answers with the adapters {applied}, and was put to {expected}")

    def faults(self) -> str:
        """Where its log is, only the operator knows."""
        return f"see the log of the llama-server at {self.address}"


async def connect(plan: ServerPlan) -> ExternalServer:
    """Find the llama-server that the config names; raises as `find`."""
    address = await find(plan, "llama-server")
    log.get(server=plan.name).info(log.SERVER_STARTED, pid=None, address=str(address))
    return ExternalServer(plan, address)


async def find(plan: ServerPlan, what: str) -> Address:
    """Where the server is that the config names, once it is healthy; `what` it is called in messages.

    Raises:
        ServerStartError: nobody answers there, or not as such a server does.
        HealthTimeoutError: it still loads its model after `startup_timeout`.
    """
    url = plan.section.external_url
    assert url is not None
    address = address_of(url)
    timeout_s = plan.section.startup_timeout.total_seconds()
    try:
        with anyio.fail_after(timeout_s):
            status = await _health(address, what)
            while status == 503:  # it loads its model
                await anyio.sleep(_CONNECT_EVERY_S)
                status = await _health(address, what)
    except TimeoutError:
        raise HealthTimeoutError(
            f"{what} at {address} still loads after {timeout_s:.0f} s",
            advice="raise serve.startup_timeout for a large model",
        ) from None
    if status != 200:
        raise ServerStartError(
            f"what answers at {address} is not {what}: GET /health answered with {status}",
            advice=f"set serve.external_url to the address of {what} itself",
        )
    return address


def address_of(url: str) -> Address:
    """Where the operator's server is, and the key that it is shown.

    Raises:
        ServerStartError: the key cannot be read.
    """
    try:
        return Address.parse(url)._replace(key=read_server_key())
    except ConfigError as error:
        raise ServerStartError(str(error), advice=error.advice) from error


async def _health(address: Address, what: str) -> int:
    try:
        status, _ = await fetch(address, "GET", "/health")
    except UpstreamError as error:
        raise ServerStartError(
            f"{what} of serve.external_url does not answer: {error}",
            advice="start it; honed does not, and asks again by itself",
        ) from error
    return status
