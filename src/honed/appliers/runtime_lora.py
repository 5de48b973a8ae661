"""Puts adapters into service in a server that loads them while it runs: vLLM and SGLang.

Each version is loaded under its own name, `scenario@n`, proved, and only then pointed at: `endpoint.json` says which
name to ask for. No name is ever given to a second adapter. vLLM keys its prefix cache by the adapter's name, so a name
that moved would answer from the states of the adapter before it; and a request that runs while its name moves would
change adapters in the middle of an answer (docs/facts.md). The one that served before stays loaded, for requests that
were on their way and for `honed rollback`; older ones are unloaded.
"""

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from honed import log
from honed.appliers.adapter_folder import see_adapter
from honed.appliers.endpoint import Endpoint, EndpointFile
from honed.appliers.server import Answer, Server
from honed.domain.fingerprint import Fingerprint, FingerprintPrompt
from honed.domain.proof import compare
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError

_ENOUGH = 8
"""Log-probabilities below which a comparison says nothing."""


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


class ModelCard(Struct, frozen=True):
    """An entry of `GET /v1/models`."""

    id: str
    root: str | None = None
    """Of an adapter, the path that it was loaded from."""
    parent: str | None = None
    """Of an adapter, its base model."""


class _Models(Struct, frozen=True):
    data: list[ModelCard]


class _Listed(NamedTuple):
    base: str
    adapters: dict[str, str]
    """Name to path."""


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
        self._server = server
        self._dialect = dialect
        self._scenario = scenario
        self._endpoint = endpoint
        self._adapters_dir = adapters_dir
        self._adapters_at = adapters_at
        self._load_timeout = load_timeout

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Serve the model (None: the bare base) from now on; true afterwards.

        Raises:
            AdapterNotFoundError: its files are not there, were changed, or the server does not see them.
            ProbeFailedError: the server's answers are not the adapter's.
            ApplyError: the server did not answer, or refused; what served before still does.
        """
        listed = await self._listed()
        before = await self._endpoint.read()
        before_id = before.model_id if before else None
        if model is None:
            name = listed.base
        else:
            fingerprint = await see_adapter(model)
            await self._have(model, listed)
            await self._see_that_it_answers(model, fingerprint, listed.base, before_id)
            name = self._dialect.requested(listed.base, model.id)
        model_id = model.id if model else None
        former_id = before_id if before_id != model_id else before.former_id if before else None
        await self._endpoint.write(
            Endpoint(
                scenario=self._scenario,
                url=self._server.url,
                model=name,
                model_id=model_id,
                former_id=former_id,
            )
        )
        await self._clear(listed, keep={model_id, former_id})

    async def current(self) -> str | None:
        """Id of the adapter in service; None for the bare base, and where the server has lost it by a restart.

        Raises:
            ApplyError: the server does not answer.
        """
        listed = await self._listed()
        endpoint = await self._endpoint.read()
        if endpoint is None or endpoint.url != self._server.url or endpoint.model_id is None:
            return None
        root = listed.adapters.get(endpoint.model_id)
        return endpoint.model_id if root == self._seen_path(endpoint.model_id) else None

    def _seen_path(self, model_id: str) -> str:
        """Where the server finds an adapter's folder."""
        return str((self._adapters_at or self._adapters_dir) / model_id)

    async def _listed(self) -> _Listed:
        """What the server has loaded."""
        cards = (await self._server.must("GET", "/v1/models", type=_Models)).data
        base = next((card.id for card in cards if card.parent is None), None)
        if base is None:
            raise ApplyError(
                f"{self._server} lists no base model in /v1/models: found {[card.id for card in cards]}",
                advice=f"is it {self._server.what}? server.url and apply.kind must fit",
            )
        return _Listed(base, {card.id: card.root or "" for card in cards if card.parent})

    async def _have(self, model: TrainedModel, listed: _Listed) -> None:
        """See that the server has loaded the model, from where it should."""
        path = self._seen_path(model.id)
        if listed.adapters.get(model.id) == path:
            return
        if model.id in listed.adapters:  # of another data_dir, or a folder that has moved
            await self._unload(model.id)
        body = {"lora_name": model.id, "lora_path": path}
        answer = await self._server.ask(
            "POST", self._dialect.load_path, body, within=self._load_timeout
        )
        if not answer.is_good:
            raise self._not_loaded(model.id, path, answer)
        listed = await self._listed()
        if listed.adapters.get(model.id) != path:
            raise ApplyError(
                f"{self._server} loaded {model.id} and does not list it: expected it in /v1/models with {path}, "
                f"found {listed.adapters.get(model.id)}",
                advice="see its log; several servers behind one address are not supported",
            )

    def _not_loaded(self, model_id: str, path: str, answer: Answer) -> ApplyError:
        told = answer.told()
        if answer.status == 404 and told == "Not Found":
            return self._server.refusal(
                answer, f"loading {model_id}", advice=self._dialect.not_enabled
            )
        lost = "No adapter found" in told or "does not exist" in told or "No such file" in told
        if answer.status == 404 or lost:
            return AdapterNotFoundError(
                f"{self._server} does not find {model_id} at {path}: {told}",
                advice="the server must see that folder; server.adapters_at says where it sees data_dir/adapters",
            )
        return self._server.refusal(
            answer,
            f"loading {model_id}",
            advice="it must be started for adapters of this rank, these modules and so many at a time",
        )

    async def _see_that_it_answers(
        self, model: TrainedModel, fingerprint: Fingerprint, base: str, serving_id: str | None
    ) -> None:
        """Compare the server's answers with the fingerprint; a candidate that fails is unloaded again."""
        try:
            await self._prove(model, fingerprint, base)
        except ApplyError:
            if model.id != serving_id:
                await self._unload_if_possible(model.id)
            raise

    async def _prove(self, model: TrainedModel, fingerprint: Fingerprint, base: str) -> None:
        """Answers under the base and under the adapter, of one server: quantisation is in both, and cancels."""
        prompts, s_base, s_adapter = [], [], []
        for prompt in fingerprint.prompts:
            told = [
                await self._dialect.logprobs(self._server, base, name, prompt, salt=salt)
                for name, salt in ((None, base), (model.id, model.digest))
            ]
            if told[0] is None or told[1] is None:
                continue
            shared = [
                at for at, id in enumerate(prompt.token_ids) if id in told[0] and id in told[1]
            ]
            ids = tuple(prompt.token_ids[at] for at in shared)
            prompts.append(
                FingerprintPrompt(
                    prompt_ids=prompt.prompt_ids,
                    token_ids=ids,
                    base=tuple(prompt.base[at] for at in shared),
                    adapter=tuple(prompt.adapter[at] for at in shared),
                )
            )
            s_base += [told[0][id] for id in ids]
            s_adapter += [told[1][id] for id in ids]
        logger = log.get(scenario=self._scenario, model_id=model.id)
        if len(s_base) < _ENOUGH:
            logger.warning(log.PROBE_UNSURE, values=len(s_base), server=str(self._server))
            return
        asked = Fingerprint(vocab_size=fingerprint.vocab_size, prompts=tuple(prompts))
        proof = compare(asked, None, tuple(s_adapter), tuple(s_base))
        if not proof.is_accepted:
            raise ProbeFailedError(
                f"{self._server} has loaded {model.id} and does not answer as it does: "
                f"x = {proof.x:.3f}, expected about 1; cosine = {proof.cosine:.3f}",
                advice="is its base model the one that the adapter was trained on?",
            )
        logger.info(log.PROBE_PASSED, values=len(s_base), **proof.facts())

    async def _clear(self, listed: _Listed, *, keep: set[str | None]) -> None:
        """Unload this scenario's older adapters; the switch has happened, so a failure is only told."""
        ours = f"{self._scenario}@"
        for name in sorted(listed.adapters):
            if name.startswith(ours) and name not in keep:
                await self._unload_if_possible(name)

    async def _unload_if_possible(self, name: str) -> None:
        try:
            await self._unload(name)
        except ApplyError as error:  # it is tried again after the next switch
            log.get(scenario=self._scenario).warning(
                log.ADAPTER_NOT_UNLOADED, model_id=name, error=str(error)
            )

    async def _unload(self, name: str) -> None:
        answer = await self._server.ask(
            "POST", self._dialect.unload_path, {"lora_name": name}, within=self._load_timeout
        )
        if not answer.is_good and answer.status != 404:
            raise self._server.refusal(answer, f"unloading {name}")


async def tells_none(server: Server, answer: Answer, asked: str) -> bool:
    """Whether a server that was asked for log-probabilities has refused them; any other fault is raised."""
    if answer.is_good:
        return False
    if answer.status in (400, 422):
        return True
    raise server.refusal(answer, asked)
