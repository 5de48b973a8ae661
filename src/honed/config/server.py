"""The section `server`: a server that the operator runs, and what honed may do with it."""

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from honed.config.sections import Section
from honed.config.values import Duration, check_host, url_parts

UNIX: Final = "unix:"
"""What the url of a unix socket begins with."""

LoraServer = Literal["vllm", "sglang"]
"""Kinds of servers that load adapters while they run, under names."""
OwnServer = LoraServer | Literal["ollama"]
"""Kinds of servers that are spoken to over HTTP."""
OwnKind = OwnServer | Literal["folder"]
"""Values of `apply.kind` with which the operator runs the server."""

_USUAL_URL: Final[dict[OwnServer, str]] = {
    "vllm": "http://127.0.0.1:8000",
    "sglang": "http://127.0.0.1:30000",
    "ollama": "http://127.0.0.1:11434",
}


class ServerSection(Section):
    """A server that you run yourself."""

    url: str | None = Field(None, examples=["http://127.0.0.1:8000", "unix:/run/vllm.sock"])
    """Where it answers, without `/v1`. Default: port 8000 (vllm), 30000 (sglang) or 11434 (ollama) of this machine."""
    allow_remote: bool = False
    """It may be another machine, over https only. Adapters are sent to Ollama; vLLM and SGLang must find them at the
    path that they are told (`adapters_at`)."""
    adapters_at: Path | None = Field(None, examples=["/mnt/adapters"])
    """Where the server sees `data_dir/adapters`, for one in a container or on a shared disk; default: at the same
    path."""
    endpoint: Path | None = Field(None, examples=["/run/agents/airline.json"])
    """The file that tells agents where to ask and for what; anybody may read it who may enter its folder. Default:
    `data_dir/endpoint.json`."""
    from_model: str | None = Field(None, examples=["qwen3:0.6b"])
    """Ollama: its name of the base model that the adapters are trained on."""
    folder: Path | None = Field(None, examples=["/srv/adapters"])
    """folder: where the adapter in service is put, as the link SCENARIO to the folder SCENARIO@NUMBER."""
    hook: tuple[str, ...] = Field((), examples=[["systemctl", "reload", "my-server"]])
    """folder: a command and its arguments, run when the link has moved; what is told to it is in its environment
    (docs/servers.md). Where it fails, the link goes back."""
    hook_timeout: Duration = Field(timedelta(seconds=60), gt=timedelta(0))
    """How long the hook may take; then it is ended with all that it has started."""
    timeout: Duration = Field(timedelta(seconds=10), gt=timedelta(0))
    """How long one answer of the server may take."""
    load_timeout: Duration = Field(timedelta(seconds=120), gt=timedelta(0))
    """How long it may take to load an adapter, or to be sent one."""

    @model_validator(mode="after")
    def _is_here_or_may_be_elsewhere(self) -> Self:
        if self.url is not None:
            _check_url(self.url, allow_remote=self.allow_remote)
        return self

    def url_of(self, kind: OwnServer) -> str:
        """Where a server of this kind answers."""
        return self.url or _USUAL_URL[kind]


def _check_url(url: str, *, allow_remote: bool) -> None:
    if url.startswith(UNIX):
        if not url.removeprefix(UNIX).startswith("/"):
            raise ValueError("url: expected unix:/PATH/OF/THE/SOCKET")
        return
    parts = url_parts(url, expected="http://HOST:PORT, https://HOST or unix:/PATH")
    if parts.path.strip("/"):
        raise ValueError(f"url: expected no path, found {parts.path}")
    check_host(
        parts,
        allow_remote=allow_remote,
        risk="whoever is there can change what is served here",
    )
