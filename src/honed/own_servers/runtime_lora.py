"""The adapters of a server that loads them while it runs, under names: listed, loaded, proved, unloaded.

No name should be given to a second adapter while anybody may still ask for it. vLLM keys its prefix cache by the
adapter's name, so a name that moved would answer from the states of the adapter before it; and a request that runs
while its name moves would change adapters in the middle of an answer (docs/facts.md).
"""

from datetime import timedelta
from typing import NamedTuple

from msgspec import Struct

from honed import log
from honed.domain.fingerprint import Fingerprint, FingerprintPrompt
from honed.domain.proof import compare
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError
from honed.own_servers.dialect import Dialect
from honed.own_servers.server import Answer, Server

_ENOUGH = 8
"""Log-probabilities below which a comparison says nothing."""


class ModelCard(Struct, frozen=True):
    """An entry of `GET /v1/models`."""

    id: str
    root: str | None = None
    """Of an adapter, the path that it was loaded from."""
    parent: str | None = None
    """Of an adapter, its base model."""


class _Models(Struct, frozen=True):
    data: list[ModelCard]


class Listed(NamedTuple):
    """What a server has loaded."""

    base: str
    adapters: dict[str, str]
    """Name to path."""


class RuntimeLora:
    """What is done with the adapters of one scenario; others on the server are left alone.

    Args:
        server: where it answers.
        dialect: how it speaks.
        scenario: whose adapters these are; their names begin with `scenario@`.
        load_timeout: how long loading one may take.
    """

    def __init__(
        self, server: Server, dialect: Dialect, *, scenario: str, load_timeout: timedelta
    ) -> None:
        self.server = server
        self.dialect = dialect
        self._scenario = scenario
        self._load_timeout = load_timeout

    async def listed(self) -> Listed:
        """What the server has loaded.

        Raises:
            ApplyError: it does not say so.
        """
        cards = (await self.server.must("GET", "/v1/models", type=_Models)).data
        base = next((card.id for card in cards if card.parent is None), None)
        if base is None:
            raise ApplyError(
                f"{self.server} lists no base model in /v1/models: found {[card.id for card in cards]}",
                advice=f"is it {self.dialect.what}? its address and its kind must fit",
            )
        return Listed(base, {card.id: card.root or "" for card in cards if card.parent})

    async def have(self, name: str, path: str, listed: Listed) -> bool:
        """See that the server has loaded an adapter from where it should; returns whether it was there before.

        Raises:
            AdapterNotFoundError: the server does not see the files.
            ApplyError: it did not load it.
        """
        if listed.adapters.get(name) == path:
            return True
        if name in listed.adapters:  # of another data_dir, or a folder that has moved
            await self.unload(name)
        await self.load(name, path)
        return False

    async def load(self, name: str, path: str) -> None:
        """Have it load an adapter, and see that it lists it; raises as `have`."""
        body = {"lora_name": name, "lora_path": path}
        answer = await self.server.ask(
            "POST", self.dialect.load_path, body, within=self._load_timeout
        )
        if not answer.is_good:
            raise self._not_loaded(name, path, answer)
        found = (await self.listed()).adapters.get(name)
        if found != path:
            raise ApplyError(
                f"{self.server} loaded {name} and does not list it: expected it in /v1/models with {path}, "
                f"found {found}",
                advice="see its log; several servers behind one address are not supported",
            )

    def _not_loaded(self, name: str, path: str, answer: Answer) -> ApplyError:
        told = answer.told()
        if answer.status == 404 and told == "Not Found":
            return self.server.refusal(answer, f"loading {name}", advice=self.dialect.not_enabled)
        lost = "No adapter found" in told or "does not exist" in told or "No such file" in told
        if answer.status == 404 or lost:
            return AdapterNotFoundError(
                f"{self.server} does not find {name} at {path}: {told}",
                advice="the server must see that folder; adapters_at says where it sees data_dir/adapters",
            )
        return self.server.refusal(
            answer,
            f"loading {name}",
            advice="it must be started for adapters of this rank, these modules and so many at a time",
        )

    async def prove(self, name: str, fingerprint: Fingerprint, *, base: str, salt: str) -> None:
        """See from its answers that an adapter is the one that the fingerprint was taken of.

        Those under the base and under the adapter are of one server: quantisation is in both, and cancels.

        Args:
            name: of the adapter.
            fingerprint: what is asked, and what was measured.
            base: the server's name of the base model.
            salt: another one for other weights.

        Raises:
            ProbeFailedError: it is not.
            ApplyError: the server did not answer.
        """
        prompts, s_base, s_adapter = [], [], []
        for prompt in fingerprint.prompts:
            told = [
                await self.dialect.logprobs(self.server, base, asked, prompt, salt=under)
                for asked, under in ((None, base), (name, salt))
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
        logger = log.get(scenario=self._scenario, model_id=name)
        if len(s_base) < _ENOUGH:
            logger.warning(log.PROBE_UNSURE, values=len(s_base), server=str(self.server))
            return
        asked_of = Fingerprint(vocab_size=fingerprint.vocab_size, prompts=tuple(prompts))
        proof = compare(asked_of, None, tuple(s_adapter), tuple(s_base))
        if not proof.is_accepted:
            raise ProbeFailedError(
                f"{self.server} has loaded {name} and does not answer as it does: "
                f"x = {proof.x:.3f}, expected about 1; cosine = {proof.cosine:.3f}",
                advice="is its base model the one that the adapter was trained on?",
            )
        logger.info(log.PROBE_PASSED, values=len(s_base), **proof.facts())

    async def clear(self, listed: Listed, *, keep: set[str]) -> None:
        """Unload this scenario's adapters but those to keep; a failure is only told."""
        ours = f"{self._scenario}@"
        for name in sorted(listed.adapters):
            if name.startswith(ours) and name not in keep:
                await self.unload_if_possible(name)

    async def unload_if_possible(self, name: str) -> None:
        """Unload one; a failure is only told."""
        try:
            await self.unload(name)
        except ApplyError as error:  # it is tried again after the next switch
            log.get(scenario=self._scenario).warning(
                log.ADAPTER_NOT_UNLOADED, model_id=name, error=str(error)
            )

    async def unload(self, name: str) -> None:
        """Unload one; one that is not there is no failure.

        Raises:
            ApplyError: the server did not do it.
        """
        answer = await self.server.ask(
            "POST", self.dialect.unload_path, {"lora_name": name}, within=self._load_timeout
        )
        is_there = answer.status != 404 and "does not exist" not in answer.told()
        if not answer.is_good and is_there:
            raise self.server.refusal(answer, f"unloading {name}")
