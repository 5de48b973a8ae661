"""What a server that loads adapters while it runs calls things; `vllm` and `sglang` say it."""

from typing import Protocol

from honed.domain.fingerprint import FingerprintPrompt
from honed.own_servers.server import Answer, Server


class Dialect(Protocol):
    """What a server that loads adapters calls things."""

    what: str
    """For messages."""
    load_path: str
    unload_path: str
    not_enabled: str
    """What the operator has to do where the server knows no such path."""

    def requested(self, base: str, name: str) -> str:
        """What a request puts into `model` to be answered by an adapter."""

    async def logprobs(
        self,
        server: Server,
        base: str,
        adapter: str | None,
        prompt: FingerprintPrompt,
        *,
        salt: str,
    ) -> dict[int, float] | None:
        """Log-probabilities of the next token by token id, of those that the server tells; None when it tells none.

        `salt` differs wherever the weights do: states that were kept under another one must not answer.

        Raises:
            ApplyError: it did not answer.
        """


async def tells_none(server: Server, answer: Answer, asked: str) -> bool:
    """Whether a server that was asked for log-probabilities has refused them; any other fault is raised."""
    if answer.is_good:
        return False
    if answer.status in (400, 422):
        return True
    raise server.refusal(answer, asked)
