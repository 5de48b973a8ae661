"""Episodes whose outcome is a model's opinion alone can be kept out of training."""

from pathlib import Path

from honed.domain.outcome import Failure, Success
from honed.learn_models import ChatLearnModel
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from honed.training_sets.harvest import HELD_OUT as IS_HELD_OUT
from honed.training_sets.harvest import JUDGED, NO_SUCCESS
from tests.unit.training_sets.test_builder import HELD_OUT, KEPT, SECRET, add, told, with_store

SETS = {"scenario": "air", "secret": SECRET, "min_rows": 1}


async def _stored(store: SqlStore) -> None:
    for names in (KEPT, HELD_OUT):
        await add(store, told(names[0], Success(), source="judge:m"))
        await add(store, told(names[1], Success(), source="desk"))
        late = await add(store, told(names[2], Success(), source="judge:m"))
        await store.set_outcome(late, Success(0.9), source="verifier:tests")
        undone = await add(store, told(names[3], Failure("red"), source="desk"))
        await store.set_outcome(undone, Success(), source="judge:m")


def test_opinions_teach_unless_told_otherwise(tmp_path: Path) -> None:
    """They are outcomes like any other, marked by their source; but they undo nothing that somebody else has said."""

    async def test(store: SqlStore, folder: Path) -> None:
        await _stored(store)
        made = await EpisodeTrainingSets(store, ChatLearnModel(), **SETS).build(folder)  # type: ignore[arg-type]
        assert made.num_rows == 3
        assert made.left_out == {IS_HELD_OUT: 4, NO_SUCCESS: 1}

    with_store(test, tmp_path)


def test_opinions_can_be_left_out(tmp_path: Path) -> None:
    """Neither learned from nor evidence for an adapter, unless somebody else has spoken."""

    async def test(store: SqlStore, folder: Path) -> None:
        await _stored(store)
        sets = EpisodeTrainingSets(store, ChatLearnModel(), judged="exclude", **SETS)  # type: ignore[arg-type]
        made = await sets.build(folder)
        assert made.num_rows == 2
        assert made.left_out == {IS_HELD_OUT: 3, JUDGED: 2, NO_SUCCESS: 1}
        assert len(made.held_out) == 3

    with_store(test, tmp_path)
