"""A verdict may speak of one episode by its id: of attempts that have no name, or of one worker's part of a task."""

from typing import Any

import msgspec
import pytest

from honed.domain.ids import EpisodeIds
from honed.domain.outcome import Success, Unknown
from honed.ports import EpisodeFilter
from honed.redaction import Redactor
from honed.stores import SqlStore, open_store
from tests.feed_parts import call, close_all, incoming, success

pytestmark = pytest.mark.anyio


async def _two_calls(store: SqlStore) -> list[str]:
    """The episodes of two calls that name nothing."""
    await store.append([incoming(call()), incoming(call())])
    await close_all(store)
    return [row.id for row in await store.list_episodes(EpisodeFilter())]


async def test_a_verdict_by_the_id_of_an_episode_is_of_that_one_alone() -> None:
    """It becomes a record of the episode, sent twice it is stored once, and the others stay as they are."""
    async with open_store("sqlite://") as store:
        one, other = await _two_calls(store)
        event = incoming(success(0.5, episode_id=one, source="judge:m", version="1"))
        assert await store.append([event, event]) == ["stored", "duplicate"]
        found = await store.get_episode(one)
        assert found.outcome == Success(0.5)
        assert len(found.records) == 2
        assert (await store.get_episode(other)).outcome == Unknown()


@pytest.mark.parametrize(
    "names", [{}, {"episode_id": "0000000000000-00000000"}, {"episode_id": ""}, {"group_id": ""}]
)
async def test_a_verdict_on_nothing_is_a_verdict_on_nothing(names: dict[str, Any]) -> None:
    """An id that no episode has, or none at all, touches no episode; least of all those without a group."""
    async with open_store("sqlite://") as store:
        await _two_calls(store)
        assert await store.append([incoming(success(**names))]) == ["stored"]
        rows = await store.list_episodes(EpisodeFilter())
        assert {row.outcome for row in rows} == {Unknown()}


def test_the_id_of_an_episode_passes_redaction() -> None:
    """It has as many digits as a card or a telephone number; redacted it would name nothing."""
    redactor, ids = Redactor(secret=b"k" * 32), EpisodeIds()
    for number in range(2_000):
        id = ids.next(1_700_000_000_000 + 86_400_123 * number)
        line = msgspec.json.encode({"type": "outcome", "episode_id": id})
        assert redactor.redact(line) is None, id
