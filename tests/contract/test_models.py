"""The register of trained models, on every database."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.adapter_files import ADAPTER_CONFIG
from honed.domain.trained_model import TrainedModel, TrainingMetrics
from honed.errors import NotFoundError, StoreError, ValidationError
from honed.ports import ModelFilter
from honed.stores import SqlStore
from tests.contract.test_store import episode

pytestmark = pytest.mark.anyio


def model(number: int, **fields: Any) -> TrainedModel:
    """The n-th adapter, trained at n milliseconds."""
    told: dict[str, Any] = {
        "id": f"airline@{number}",
        "scenario": "airline",
        "run_id": f"r{number}",
        "base_model": "tiny",
        "learn_model": "chat",
        "method": "sft",
        "adapter_path": f"/nowhere/airline@{number}",
        "gguf_path": None,
        "digest": "d",
        "data_digest": "e",
        "episode_ids": ("a", "b"),
        "sample_count": 2,
        "created_at_ms": number,
    }
    return TrainedModel(**told | fields)


@pytest.mark.feature("SE-077", "SE-078", "SE-076")
async def test_a_model_is_registered_once_and_found_by_its_id(store: SqlStore) -> None:
    """As it was; again under the same id is refused, and so is asking for another."""
    await store.add_model(one := model(1, parent_id="airline@0", episode_ids=("e1",)))
    assert await store.get_model("airline@1") == one
    with pytest.raises(StoreError):
        await store.add_model(model(1))
    assert await store.get_model("airline@1") == one
    with pytest.raises(NotFoundError, match="airline@2"):
        await store.get_model("airline@2")


@pytest.mark.feature("SE-079")
async def test_the_newest_model_of_a_learn_model(store: SqlStore) -> None:
    """Whatever was trained with others in between; None before the first."""
    assert await store.latest_model("chat") is None
    for number, learn_model in enumerate(("chat", "chat", "other"), start=1):
        await store.add_model(model(number, learn_model=learn_model))
    await store.add_model(model(9, id="rail@1", scenario="rail"))
    newest = await store.latest_model("chat", "airline")
    assert newest is not None
    assert newest.id == "airline@2"
    anywhere = await store.latest_model("chat")
    assert anywhere is not None
    assert anywhere.id == "rail@1"


@pytest.mark.feature("SE-080", "SE-081")
async def test_filters_of_models_hold_together(store: SqlStore) -> None:
    """Each field alone and all at once, oldest first unless asked otherwise; the list is newest first."""
    await store.add_model(model(1))
    await store.add_model(model(2, learn_model="dpo", method="dpo"))
    await store.add_model(model(3, base_model="large"))
    await store.add_model(model(4, id="rail@1", scenario="rail"))

    async def ids(**fields: Any) -> list[str]:
        return [found.id for found in await store.query_models(ModelFilter(**fields))]

    every = ["airline@1", "airline@2", "airline@3", "rail@1"]
    assert await ids() == every
    assert await ids(newest_first=True, limit=2, offset=1) == ["airline@3", "airline@2"]
    assert await ids(offset=3) == every[3:]
    assert await ids(scenario="rail") == ["rail@1"]
    assert await ids(learn_model="dpo") == ["airline@2"]
    assert await ids(method="dpo") == ["airline@2"]
    assert await ids(base_model="tiny") == ["airline@1", "airline@2", "rail@1"]
    assert await ids(since_ms=2, until_ms=3) == ["airline@2", "airline@3"]
    together: dict[str, Any] = {
        "scenario": "airline",
        "learn_model": "chat",
        "base_model": "large",
        "method": "sft",
        "since_ms": 3,
        "until_ms": 3,
    }
    assert await ids(**together) == ["airline@3"]
    assert await ids(**together | {"until_ms": 2}) == []
    assert await ids(base_model="tiny", limit=1, offset=1) == ["airline@2"]
    listed = [found.id for found in await store.list_models("airline", limit=2)]
    assert listed == ["airline@3", "airline@2"]


@pytest.mark.feature("SE-082", "SE-077")
async def test_deleting_a_model_keeps_its_files_unless_asked(
    store: SqlStore, tmp_path: Path
) -> None:
    """A folder that holds no adapter stays even then; numbers go on rising."""
    paths = {}
    for number in (1, 2, 3):
        assert await store.next_model_number("airline") == number
        paths[number] = tmp_path / f"airline@{number}"
        paths[number].mkdir()
        (paths[number] / (ADAPTER_CONFIG if number < 3 else "thesis.txt")).write_text("{}")
        await store.add_model(model(number, adapter_path=str(paths[number])))
    assert await store.delete_model("airline@1")
    assert await store.delete_model("airline@2", files=True)
    assert await store.delete_model("airline@3", files=True)
    assert not await store.delete_model("airline@3", files=True)
    assert [number for number in paths if paths[number].exists()] == [1, 3]
    assert await store.list_models("airline") == []
    assert await store.next_model_number("airline") == 4


@pytest.mark.feature("SE-082")
async def test_a_model_that_may_serve_again_is_not_deleted(store: SqlStore, tmp_path: Path) -> None:
    """Neither register nor files change."""
    (tmp_path / ADAPTER_CONFIG).write_text("{}")
    await store.add_model(model(1, adapter_path=str(tmp_path)))
    await store.push_applied("airline", "airline@1", expected=None, max_history=2, now_ms=1)
    await store.push_applied("airline", "airline@2", expected="airline@1", max_history=2, now_ms=2)
    with pytest.raises(ValidationError, match="airline@1 serves"):
        await store.delete_model("airline@1", files=True)
    assert (tmp_path / ADAPTER_CONFIG).exists()
    assert [found.id for found in await store.list_models("airline")] == ["airline@1"]


@pytest.mark.feature("SE-083")
async def test_what_was_not_measured_is_null(store: SqlStore) -> None:
    """Not 0, in the register as in JSON; 0 stays 0."""
    await store.add_model(model(1))
    await store.add_model(model(2, metrics=TrainingMetrics(final_loss=0.0)))
    assert (await store.get_model("airline@1")).metrics is None
    metrics = (await store.get_model("airline@2")).metrics
    assert metrics is not None
    assert (metrics.final_loss, metrics.gpu_memory_mb) == (0.0, None)
    written = msgspec.json.decode(msgspec.json.encode(await store.get_model("airline@1")))
    assert (written["metrics"], written["gguf_path"]) == (None, None)


@pytest.mark.feature("SE-056")
async def test_a_model_leads_back_to_its_episodes(store: SqlStore) -> None:
    """The ids that it names are those of the store."""
    taught = [episode(task_id=f"t{n}") for n in range(3)]
    for one in taught:
        await store.add_episode(one, [])
    await store.add_model(model(1, episode_ids=tuple(one.id for one in taught)))
    found = await store.get_model("airline@1")
    assert [await store.get_episode(id) for id in found.episode_ids] == taught
