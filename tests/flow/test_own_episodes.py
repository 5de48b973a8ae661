"""A learn model with an episode class of its own, from the events to the adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.domain.episode import Episode, EpisodeLike, EpisodeMetadata
from honed.domain.ids import EpisodeIds
from honed.domain.job import TrainSettings
from honed.domain.outcome import Outcome, Success
from honed.domain.records import Record
from honed.domain.training_data import ChatExample
from honed.learn_models import ChatLearnModel
from honed.ports import EpisodeFilter, TrainRequest
from honed.processors import LocalProcessor
from honed.training_sets import EpisodeTrainingSets
from tests.feed_parts import SECRET, call, line, open_intake, success
from tests.tiny_models import conversations

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
IDS = EpisodeIds()


@dataclass(frozen=True)
class Ticket:
    """What a support desk calls an episode; it knows nothing of honed's own."""

    id: str
    task_id: str | None
    events: Sequence[Record]
    outcome: Outcome
    closed_at_ms: int
    group_id: str | None = None
    learn_model: str = "tickets"

    @property
    def records(self) -> Sequence[Record]:
        return self.events

    @property
    def metadata(self) -> EpisodeMetadata:
        return EpisodeMetadata(created_at_ms=self.closed_at_ms, tags={"desk": "2"})


class Tickets(ChatLearnModel):
    """Chats, as tickets."""

    name = "tickets"

    def build_episodes(  # type: ignore[override]
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[EpisodeLike]:
        task_id = records[0].task_id
        return [Ticket(IDS.next(now_ms), task_id, list(records), self.evaluate(records), now_ms)]

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> ChatExample:
        assert episode.metadata.tags == {"desk": "2"}
        return super().convert(episode, available_actions=available_actions)


@pytest.mark.feature("SE-052")
async def test_an_episode_class_of_ones_own_is_stored_and_trained(
    tiny_base: Path, tmp_path: Path
) -> None:
    """It has an episode's parts and nothing of its type; the adapter names the ids that it gave."""
    made = [row["messages"] for row in conversations(16)]
    async with open_intake(tmp_path / "honed.db", learn_models=[Tickets()]) as intake:
        for n, turns in enumerate(made):
            told: list[dict[str, Any]] = [
                call(task_id=f"t{n}", messages=turns[:-1], response_message=turns[-1]),
                success(task_id=f"t{n}"),
            ]
            await intake.sink.ingest([line(event) for event in told])
        with anyio.fail_after(20):
            ids = {(await intake.episodes.receive()).id for _ in made}
        stored = [
            e async for e in intake.store.query_episodes(EpisodeFilter(learn_model="tickets"))
        ]
        assert {episode.id for episode in stored} == ids
        assert {episode.outcome for episode in stored} == {Success(1.0)}
        by_hand = Ticket(IDS.next(), "by hand", (), Success(0.5), 1_000)
        assert await intake.store.add_episode(by_hand, [])
        assert (await intake.store.get_episode(by_hand.id)).outcome == Success(0.5)
        sets = EpisodeTrainingSets(
            intake.store, Tickets(), scenario="airline", secret=SECRET, min_rows=1
        )
        training_set = await sets.build(tmp_path / "set")
    settings = TrainSettings(r=4, max_steps=2, threads=1, device="cpu")
    request = TrainRequest(
        run_id="tickets-tiny-1",
        model_id="airline@1",
        scenario="airline",
        learn_model="tickets",
        base_model=str(tiny_base),
        settings=settings,
        training_set=training_set,
        incumbent=None,
        parent_id=None,
    )
    local = LocalProcessor(runs_dir=tmp_path / "runs", adapters_dir=tmp_path / "adapters")
    trained = await local.train(request, on_progress=lambda progress: None)
    assert trained.model.learn_model == "tickets"
    assert trained.model.sample_count == training_set.num_rows > 0
    assert set(trained.model.episode_ids) < ids
