"""A gateway in front of a server that has several versions under names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from honed.domain.serving import Switched, SwitchOrder
from honed.domain.trained_model import TrainedModel
from honed.gateway.gateway import Gateway
from honed.gateway.lane import Lane
from tests.own_servers import SCENARIO, published
from tests.served import CHAT, QUESTION, text_of, until


def order(model: TrainedModel | None) -> SwitchOrder:
    if model is None:
        return SwitchOrder(model_id=None)
    return SwitchOrder(model_id=model.id, adapter_path=model.adapter_path, digest=model.digest)


@dataclass
class OwnFront:
    """What all of them can be told and asked."""

    gateway: Gateway
    address: str
    folder: Path

    @property
    def lane(self) -> Lane:
        return self.gateway.lanes[SCENARIO]

    def client(self) -> httpx.AsyncClient:
        # without TLS: making its context takes longer than an answer
        return httpx.AsyncClient(base_url=self.address, timeout=30, verify=False, trust_env=False)

    def published(self, number: int) -> TrainedModel:
        return published(self.folder / "adapters", number)

    async def apply(self, model: TrainedModel | None) -> Switched:
        return await self.gateway.switch(SCENARIO, order(model))

    async def ask(self, **body: Any) -> httpx.Response:
        async with self.client() as client:
            headers = body.pop("headers", {})
            return await client.post(
                CHAT, json={"model": SCENARIO} | QUESTION | body, headers=headers
            )

    async def said(self, **body: Any) -> tuple[str, str]:
        """Version and text of an answer."""
        answer = await self.ask(**body)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-honed-model"], text_of(answer)

    async def serves(self) -> None:
        """Wait until something is in service."""

        async def holds() -> bool:
            return self.lane.backend is not None

        await until(holds)
