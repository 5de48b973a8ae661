"""The section of the gateway: where it listens, and how its llama-servers are run."""

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from honed.config.sections import Section
from honed.config.server import LoraServer
from honed.config.values import Duration, Size

Strategy = Literal["auto", "blue_green", "hold", "in_place"]
"""How adapters are exchanged."""
_URL: Final = r"^http://(\[[0-9A-Fa-f:]+\]|[^\s/:\[\]]+):[0-9]+/?$"


class ServeSection(Section):
    """The gateway and the llama-server processes behind it."""

    host: str = "127.0.0.1"
    """Where agents talk to the gateway. Another address than loopback is open to its network, unless there are keys
    (`api_keys`)."""
    port: int = Field(8080, ge=0, le=65535)
    """Port of the gateway; 0 takes a free one."""
    http_socket: Path | None = Field(None, examples=["/run/honed-serve/gateway.sock"])
    """Unix socket where agents reach the gateway as well."""
    http_socket_mode: str = Field("0600", pattern="^0[0-7]{3}$")
    """Who may connect to it: 0600 this user alone, 0660 its group too, 0666 every user of this machine who can enter
    its folder."""
    api_keys: Path | None = Field(None, examples=["/etc/honed/api-keys"])
    """File with the keys of which clients must show one, each on a line; also from the environment variable
    HONED_API_KEYS or the systemd credential api-keys. Default: nobody is asked."""
    socket: Path | None = Field(None, examples=["/run/honed/serve.sock"])
    """`serve.sock`; default in the user's runtime folder (else data folder) / honed; for a file in /etc/honed
    /run/honed-serve/serve.sock."""
    llama_server: Path | None = Field(None, examples=["/usr/local/bin/llama-server"])
    """Executable of llama.cpp's server; default: the one bundled with the extra `serve`."""
    external_url: str | None = Field(None, pattern=_URL, examples=["http://127.0.0.1:8081"])
    """A server that you run yourself: the gateway never starts or stops it. Into a llama-server adapters are put only
    as far as it can exchange them while it runs. Its key, if it asks for one, is in the environment variable
    HONED_SERVER_KEY or the systemd credential server-key.
    """
    external_kind: Literal["llama_server", "llama_router"] | LoraServer = "llama_server"
    """What answers at `external_url`. vllm, sglang, llama_router: each version is loaded under a name of its own, and
    the gateway puts that name into the requests (docs/servers.md). llama_router is a llama-server that was started
    without a model."""
    external_presets: Path | None = Field(None, examples=["/srv/models/presets.ini"])
    """llama_router: the file that it was started with (`--models-preset`). Each version in service is a section of it;
    those of others stay as they are."""
    external_adapters_at: Path | None = Field(None, examples=["/mnt/adapters"])
    """vllm, sglang: where the server sees the folder with the adapters, for one in a container; default: at the same
    path."""
    base_model_path: Path | None = Field(None, examples=["/srv/models/base-f16.gguf"])
    """The base model as GGUF; default: converted once from `base_model` into `data_dir/llama`."""
    ctx_size: int = Field(4096, ge=64)
    """Tokens of context per slot."""
    parallel: int = Field(4, ge=1)
    """Slots: requests that one server answers at a time."""
    threads: int = Field(0, ge=0)
    """CPU threads of each llama-server; 0 means all cores but one."""
    n_gpu_layers: int = Field(99, ge=0)
    """Layers on the GPU, where llama-server has one, and fewer where not so many fit; 0 keeps it free for training."""
    strategy: Strategy = "auto"
    """How adapters are exchanged. blue_green: a second server comes up first, nobody waits; hold: requests wait in
    the gateway while the one server restarts, for want of memory; auto: what fits, seen at each switch; in_place: for
    a llama-server that loads adapters while it runs, which it is asked.
    """
    while_training: Literal["share", "cpu", "one_slot"] = "share"
    """What the server does while a run trains on the same machine. share: goes on as it is; cpu: moves off the GPU;
    one_slot: keeps the context of one slot only. It is exchanged for another one as for a new adapter, and back.
    """
    max_adapters: int = Field(1, ge=1, le=64)
    """Adapters in one llama-server. 1: each scenario has a server of its own; more: the scenarios of one base model
    share a server, which saves the memory of the others, and each request is answered with the adapter of its scenario.
    With more scenarios than this the one that was asked longest ago gives way, and comes back with its next request.
    """
    alone: tuple[str, ...] = Field((), examples=[["airline"]])
    """Scenarios that have a server of their own all the same: one that is to feel nothing of its neighbours' load, or
    whose agents speak Anthropic's protocol, for which llama-server takes no adapter.
    """
    startup_timeout: Duration = timedelta(seconds=120)
    """How long a llama-server may take to load and answer."""
    drain_timeout: Duration = timedelta(seconds=30)
    """How long requests in flight may take to end when their server is replaced; 0 cuts them at once."""
    hold_timeout: Duration = timedelta(seconds=30)
    """How long a request that finds no server may wait for one to come up, before it is told to come
    back; 0 tells it at once.
    """
    max_body: Size = 16 << 20
    """Bytes of one request's body at most."""
    spool_max: Size = 256 << 20
    """Bytes of captured calls, for each scenario, that may wait on disk (`data_dir/llama/spool`) while its daemon is
    away; 0 keeps them in memory alone."""
    max_requests_per_scenario: int = Field(1024, ge=1)
    """Requests of one scenario that a server has at a time, and that may wait for one; more are told to come back
    (429)."""
    max_requests: int = Field(4096, ge=1)
    """Requests of all scenarios that are open at a time; more are told to come back (429)."""
    request_timeout: Duration = timedelta(hours=1)
    """How long a request may take, from when it has come to the end of its answer (504); 0 as long as its client
    waits."""
    first_byte_timeout: Duration = timedelta(0)
    """How long a server may take until its answer begins (504); an answer that is not streamed begins when it is
    done. 0 as long as the whole may take."""

    @model_validator(mode="after")
    def _says_where_it_is(self) -> Self:
        if self.external_kind != "llama_server" and self.external_url is None:
            raise ValueError(
                f'external_kind is "{self.external_kind}": expected external_url, the address of a server that you run'
            )
        if self.external_kind == "llama_router" and self.external_presets is None:
            raise ValueError(
                'external_kind is "llama_router": expected external_presets, the file of its --models-preset'
            )
        return self

    @property
    def lora_server(self) -> LoraServer | None:
        """Which kind of server takes adapters under names while it runs; None for a llama-server."""
        if self.external_kind == "llama_server":
            return None
        return None if self.external_kind == "llama_router" else self.external_kind

    @property
    def has_versions_beside(self) -> bool:
        """Whether the operator's server has several versions at a time, under names."""
        return self.external_kind != "llama_server"

    @property
    def brings_base(self) -> bool:
        """Whether the server has its base model already; any other gets ours."""
        return self.external_url is not None and self.external_kind != "llama_router"

    @model_validator(mode="after")
    def _see_that_servers_can_be_shared(self) -> Self:
        if self.max_adapters > 1 and (self.external_url or self.strategy == "in_place"):
            other = "external_url" if self.external_url else "strategy = 'in_place'"
            raise ValueError(
                f"max_adapters = {self.max_adapters} takes a server that is started with the adapters of all "
                f"scenarios, and {other} rules that out: leave out one of the two"
            )
        return self
