"""Puts adapters into service in Ollama: a model for each version, and the scenario's own name as a copy of one.

`scenario:n` is base, adapter, template and stop tokens; `scenario` (that is `scenario:latest`) is what agents ask for.
A copy shares the layers and takes no time; a request that has begun ends as it began, the next one loads what the name
says then. Ollama keeps one of a base model's variants loaded at a time, so loading the candidate to see that it works
makes requests wait, as the switch itself does.

Source: Ollama's documentation (docs/api.md): `POST /api/create` {model, from, adapters, template, parameters}, `HEAD`
and `POST /api/blobs/:digest`, `POST /api/copy`, `POST /api/show`, `GET /api/tags`, `DELETE /api/delete`, and `POST
/api/generate` without a prompt, which loads a model. Tried against that documentation only.
"""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread
from msgspec import Struct

from honed import log
from honed.adapter_files import ADAPTER_GGUF, file_digest
from honed.appliers.adapter_folder import see_adapter
from honed.appliers.endpoint import Endpoint, EndpointFile
from honed.appliers.ollama_templates import stop_tokens
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError, ProbeFailedError
from honed.own_servers import Server

_PIECE: Final = 1 << 20
_LATEST: Final = ":latest"


class _Tag(Struct, frozen=True):
    name: str
    digest: str


class _Tags(Struct, frozen=True):
    models: list[_Tag]


class _Shown(Struct, frozen=True):
    modelfile: str = ""
    template: str = ""
    parameters: str = ""
    model_info: dict[str, object] = {}


class _Done(Struct, frozen=True):
    status: str = ""
    error: str = ""


class OllamaApplier:
    """An Applier for one scenario, over Ollama's API.

    Args:
        server: where it answers.
        scenario: whose adapters these are; models of other names are left alone.
        from_model: Ollama's name of the base model that the adapters were trained on.
        endpoint: where the adapter in service is written down.
        load_timeout: how long sending an adapter, making a model and loading it may take, each.
    """

    def __init__(
        self,
        server: Server,
        *,
        scenario: str,
        from_model: str,
        endpoint: EndpointFile,
        load_timeout: timedelta,
    ) -> None:
        self._server = server
        self._scenario = scenario
        self._from_model = from_model
        self._endpoint = endpoint
        self._load_timeout = load_timeout

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Serve the model (None: the bare base) under the scenario's name; true afterwards.

        Raises:
            AdapterNotFoundError: its files are not there, or were changed.
            ProbeFailedError: what Ollama has made does not hold the adapter.
            ApplyError: it did not answer, or refused; what served before still does.
        """
        before = await self._endpoint.read()
        before_id = before.model_id if before else None
        model_id = model.id if model else None
        is_there, source_before = await self._source()
        if is_there and source_before is None and before is None:
            raise ApplyError(
                f"{self._server} has a model {self._scenario} that honed has not made: expected none of that name",
                advice=f"`ollama rm {self._scenario}` if it is not needed, or choose another name for the scenario",
            )
        source = self._from_model if model is None else await self._made(model)
        await self._point(source, before=source_before)
        former_id = before_id if before_id != model_id else before.former_id if before else None
        await self._endpoint.write(
            Endpoint(
                scenario=self._scenario,
                url=self._server.url,
                model=self._scenario,
                model_id=model_id,
                former_id=former_id,
            )
        )
        await self._clear(keep={model_id, former_id})

    async def current(self) -> str | None:
        """Id of the adapter behind the scenario's name; None for the bare base, or anything that is not ours.

        Raises:
            ApplyError: Ollama does not answer.
        """
        _, source = await self._source()
        return None if source is None or source == _tagged(self._from_model) else _id(source)

    async def _made(self, model: TrainedModel) -> str:
        """The name of Ollama's model for this version, seen to hold the adapter and to load."""
        await see_adapter(model)
        gguf = Path(model.adapter_path) / ADAPTER_GGUF
        digest = await to_thread.run_sync(file_digest, gguf)
        name = _name(model.id)
        if not await self._holds(name, digest):
            await self._send(gguf, digest)
            await self._create(name, digest)
            if not await self._holds(name, digest):
                await self._delete(name)
                raise ProbeFailedError(
                    f"{self._server} has made {name} and does not show its adapter: expected ADAPTER with the blob "
                    f"sha256-{digest}",
                    advice="see its log; is it a version that takes `adapters` in /api/create (0.5.5 and newer)?",
                )
        await self._load(name)
        return name

    async def _holds(self, name: str, digest: str) -> bool:
        """Whether there is a model of this name with this adapter."""
        answer = await self._server.ask("POST", "/api/show", {"model": name})
        if answer.status == 404:
            return False
        if not answer.is_good:
            raise self._server.refusal(answer, f"showing {name}")
        shown = self._server.decoded(answer, _Shown, f"showing {name}")
        return any(
            line.startswith("ADAPTER ") and digest in line for line in shown.modelfile.splitlines()
        )

    async def _send(self, gguf: Path, digest: str) -> None:
        path = f"/api/blobs/sha256:{digest}"
        if (await self._server.ask("HEAD", path)).is_good:
            return
        answer = await self._server.ask(
            "POST", path, content=_pieces(gguf), within=self._load_timeout
        )
        if not answer.is_good:
            raise self._server.refusal(answer, f"the adapter's file {gguf}")

    async def _create(self, name: str, digest: str) -> None:
        shown = await self._server.must(
            "POST", "/api/show", {"model": self._from_model}, type=_Shown
        )
        body: dict[str, object] = {
            "model": name,
            "from": self._from_model,
            "adapters": {ADAPTER_GGUF: f"sha256:{digest}"},
            "stream": False,
        }
        if not _stops(shown.parameters):
            architecture = shown.model_info.get("general.architecture")
            if stop := stop_tokens(str(architecture), shown.template):
                body["parameters"] = {"stop": list(stop)}
        answer = await self._server.ask("POST", "/api/create", body, within=self._load_timeout)
        done = self._server.decoded(answer, _Done, f"making {name}") if answer.is_good else None
        if done is None or done.error or done.status != "success":
            raise self._server.refusal(
                answer,
                f"making {name} from {self._from_model}",
                advice="server.from_model must be the base model that the adapter was trained on",
            )

    async def _load(self, name: str) -> None:
        """Have it loaded: an adapter that does not fit its base is found out now, not by a request."""
        answer = await self._server.ask(
            "POST", "/api/generate", {"model": name, "stream": False}, within=self._load_timeout
        )
        if not answer.is_good:
            raise self._server.refusal(
                answer,
                f"loading {name}",
                advice="server.from_model must be the base model that the adapter was trained on",
            )

    async def _point(self, source: str, *, before: str | None) -> None:
        """Let the scenario's name be a copy of `source`, and see that it is; else one of `before`, as it was."""
        try:
            await self._copied(source, self._scenario)
            tags = await self._tags()
            found, expected = (tags.get(_tagged(name)) for name in (self._scenario, source))
            if found is None or found != expected:
                raise ProbeFailedError(
                    f"{self._server}: {self._scenario} should be {source} now: expected the digest {expected}, "
                    f"found {found}",
                    advice="does somebody else change models of that name?",
                )
        except ApplyError:
            with contextlib.suppress(
                ApplyError
            ):  # it is gone: the daemon's next look goes by the history
                if before is None:
                    await self._delete(self._scenario)
                else:
                    await self._copied(before, self._scenario)
            raise

    async def _source(self) -> tuple[bool, str | None]:
        """Whether there is a model of the scenario's name, and which of ours it is a copy of; None: of none."""
        tags = await self._tags()
        digest = tags.get(_tagged(self._scenario))
        names = [*self._versions(tags), _tagged(self._from_model)]
        ours = (name for name in names if digest is not None and tags.get(name) == digest)
        return digest is not None, next(ours, None)

    async def _copied(self, source: str, destination: str) -> None:
        answer = await self._server.ask(
            "POST", "/api/copy", {"source": source, "destination": destination}
        )
        if answer.status == 404:
            raise ApplyError(
                f"{self._server} has no model {source}: expected one to copy to {destination}",
                advice=f"`ollama pull {source}`, or correct server.from_model",
            )
        if not answer.is_good:
            raise self._server.refusal(answer, f"copying {source} to {destination}")

    async def _tags(self) -> dict[str, str]:
        """Name with tag to digest, of all models."""
        tags = await self._server.must("GET", "/api/tags", type=_Tags)
        return {tag.name: tag.digest for tag in tags.models}

    def _versions(self, tags: dict[str, str]) -> list[str]:
        """This scenario's versions among them."""
        ours = f"{self._scenario}:"
        return [
            name for name in tags if name.startswith(ours) and name.removeprefix(ours).isdecimal()
        ]

    async def _clear(self, *, keep: set[str | None]) -> None:
        """Delete this scenario's older versions; the switch has happened, so a failure is only told."""
        try:
            for name in self._versions(await self._tags()):
                if _id(name) not in keep:
                    await self._delete(name)
        except ApplyError as error:  # it is tried again after the next switch
            log.get(scenario=self._scenario).warning(
                log.ADAPTER_NOT_UNLOADED, server=str(self._server), error=str(error)
            )

    async def _delete(self, name: str) -> None:
        answer = await self._server.ask("DELETE", "/api/delete", {"model": name})
        if not answer.is_good and answer.status != 404:
            raise self._server.refusal(answer, f"deleting {name}")


def _name(model_id: str) -> str:
    """Ollama's name of a version: `@` would begin a digest there."""
    return model_id.replace("@", ":")


def _id(name: str) -> str:
    return name.replace(":", "@")


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}{_LATEST}"


def _stops(parameters: str) -> bool:
    """Whether the parameters of a model, one `NAME VALUE` a line, say where it stops."""
    return any(line.split(maxsplit=1)[:1] == ["stop"] for line in parameters.splitlines())


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(_PIECE):
            yield piece
