"""Puts adapters into service in a server that loads them while it runs: vLLM and SGLang.

Each version is loaded under its own name, `scenario@n`, proved, and only then pointed at: `endpoint.json` says which
name to ask for. The one that served before stays loaded, for requests that were on their way and for `honed rollback`;
older ones are unloaded.
"""

from datetime import timedelta
from pathlib import Path

from honed.appliers.adapter_folder import see_adapter
from honed.appliers.endpoint import Endpoint, EndpointFile
from honed.domain.fingerprint import Fingerprint
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError
from honed.own_servers import Dialect, RuntimeLora, Server


class RuntimeLoraApplier:
    """An Applier for one scenario, over the server's own API.

    Args:
        server: where it answers.
        dialect: how it speaks.
        scenario: whose adapters these are; others on the server are left alone.
        endpoint: where the name in service is written down.
        adapters_dir: where the adapters lie, and `adapters_at` where the server sees them.
        load_timeout: how long loading one may take.
    """

    def __init__(
        self,
        server: Server,
        dialect: Dialect,
        *,
        scenario: str,
        endpoint: EndpointFile,
        adapters_dir: Path,
        adapters_at: Path | None,
        load_timeout: timedelta,
    ) -> None:
        self._loras = RuntimeLora(server, dialect, scenario=scenario, load_timeout=load_timeout)
        self._scenario = scenario
        self._endpoint = endpoint
        self._adapters_dir = adapters_dir
        self._adapters_at = adapters_at

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Serve the model (None: the bare base) from now on; true afterwards.

        Raises:
            AdapterNotFoundError: its files are not there, were changed, or the server does not see them.
            ProbeFailedError: the server's answers are not the adapter's.
            ApplyError: the server did not answer, or refused; what served before still does.
        """
        listed = await self._loras.listed()
        before = await self._endpoint.read()
        before_id = before.model_id if before else None
        if model is None:
            name = listed.base
        else:
            fingerprint = await see_adapter(model)
            await self._loras.have(model.id, self._seen_path(model.id), listed)
            await self._see_that_it_answers(model, fingerprint, listed.base, before_id)
            name = self._loras.dialect.requested(listed.base, model.id)
        model_id = model.id if model else None
        former_id = before_id if before_id != model_id else before.former_id if before else None
        await self._endpoint.write(
            Endpoint(
                scenario=self._scenario,
                url=self._loras.server.url,
                model=name,
                model_id=model_id,
                former_id=former_id,
            )
        )
        # the switch has happened
        await self._loras.clear(listed, keep={each for each in (model_id, former_id) if each})

    async def current(self) -> str | None:
        """Id of the adapter in service; None for the bare base, and where the server has lost it by a restart.

        Raises:
            ApplyError: the server does not answer.
        """
        listed = await self._loras.listed()
        endpoint = await self._endpoint.read()
        if endpoint is None or endpoint.url != self._loras.server.url or endpoint.model_id is None:
            return None
        root = listed.adapters.get(endpoint.model_id)
        return endpoint.model_id if root == self._seen_path(endpoint.model_id) else None

    def _seen_path(self, model_id: str) -> str:
        """Where the server finds an adapter's folder."""
        return str((self._adapters_at or self._adapters_dir) / model_id)

    async def _see_that_it_answers(
        self, model: TrainedModel, fingerprint: Fingerprint, base: str, serving_id: str | None
    ) -> None:
        """Compare the server's answers with the fingerprint; a candidate that fails is unloaded again."""
        try:
            await self._loras.prove(model.id, fingerprint, base=base, salt=model.digest)
        except ApplyError:
            if model.id != serving_id:
                await self._loras.unload_if_possible(model.id)
            raise
