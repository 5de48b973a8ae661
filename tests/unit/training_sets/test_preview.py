"""A preview is the training set itself, built and cleared away; on a real store."""

from pathlib import Path

import pytest

from honed.domain.dataset import Shape
from honed.domain.outcome import Failure, Success
from honed.errors import EmptyDataError
from honed.learn_models import create
from honed.ports import DROPPED, Remark, RemarkKind, Tally
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from honed.training_sets.harvest import HELD_OUT as HELD_OUT_REASON
from honed.training_sets.harvest import NO_SUCCESS
from tests.unit.training_sets.test_builder import HELD_OUT, KEPT, SECRET, add, told, with_store


def sets_of(store: SqlStore, *, min_rows: int = 1) -> EpisodeTrainingSets:
    return EpisodeTrainingSets(
        store, create("chat"), scenario="air", secret=SECRET, min_rows=min_rows
    )


async def say(store: SqlStore, episode_id: str, kind: RemarkKind, label: str | None = None) -> None:
    remark = Remark(episode_id=episode_id, kind=kind, said_by="ann", at_ms=1, label=label)
    await store.reviews.remark([remark])


def test_a_preview_shows_what_the_run_then_trains_on(tmp_path: Path) -> None:
    """Digest, rows, counts and reasons are those of the training set that is built next."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in (*KEPT[:5], *HELD_OUT[:2]):
            await add(store, told(name, Success(), tags={"skill": "refund"}))
        await add(store, told(KEPT[5], Failure("broke")))
        sets = sets_of(store)
        shown = await sets.preview(folder / "scratch", num_rows=3)
        made = await sets.build(folder)
        assert (shown.data_digest, shown.num_rows) == (made.data_digest, made.num_rows)
        assert shown.left_out == made.left_out == {HELD_OUT_REASON: 2, NO_SUCCESS: 1}
        assert [row.data for row in shown.rows] == made.data_path.read_text().splitlines()[:3]
        assert shown.by_skill == {
            "-": Tally(left_out=1),
            "refund": Tally(taught=5, held_out=2),
        }
        assert shown.by_source == {"client": Tally(taught=5, held_out=2, left_out=1)}
        assert (shown.num_episodes, shown.num_new, shown.problem) == (8, 8, None)

    with_store(test, tmp_path)


@pytest.mark.parametrize("shape", ["sft", "preference", "labelled"])
def test_a_preview_has_the_shape_that_the_runs_have(tmp_path: Path, shape: Shape) -> None:
    """Neither is told it again: what somebody looks at is the file that is trained on."""

    async def test(store: SqlStore, folder: Path) -> None:
        group = KEPT[0]
        for name, outcome in (("good", Success()), ("bad", Failure("no"))):
            events = told(name, outcome, answer=f"a {name} one", group_id=group)
            events[0]["messages"] = [{"role": "user", "content": "which?"}]
            await add(store, events)
        sets = EpisodeTrainingSets(
            store, create("chat"), scenario="air", secret=SECRET, min_rows=1, shape=shape
        )
        shown = await sets.preview(folder / "scratch", num_rows=3)
        made = await sets.build(folder)
        assert made.dataset is not None
        assert (shown.shape, made.dataset.rules.shape) == (shape, shape)
        assert shown.data_digest == made.data_digest
        columns = {"sft": "messages", "preference": "rejected", "labelled": "label"}
        assert all(f'"{columns[shape]}":' in row.data for row in shown.rows)

    with_store(test, tmp_path)


def test_a_preview_of_too_few_rows_counts_each_episode_once(tmp_path: Path) -> None:
    """The reasons add up to the episodes that were looked at, as the tallies do; unsigned verdicts are called so."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in (*KEPT[:3], *HELD_OUT[:2]):
            await add(store, told(name, Success()))
        await add(store, told(KEPT[5], Failure("broke")))
        shown = await sets_of(store, min_rows=20).preview(folder / "scratch", num_rows=3)
        assert shown.problem is not None
        assert shown.left_out == {
            HELD_OUT_REASON: 2,
            NO_SUCCESS: 1,
            "in rows too few to train on": 3,
        }
        assert sum(shown.left_out.values()) == shown.num_episodes == 6
        assert shown.by_verdict == {"unsigned": Tally(left_out=6)}

    with_store(test, tmp_path)


def test_a_preview_of_a_model_that_compares_counts_pairs(tmp_path: Path) -> None:
    """Not one episode by one, which never makes a pair."""

    async def test(store: SqlStore, folder: Path) -> None:
        await add(store, told(KEPT[0], Success()))
        sets = EpisodeTrainingSets(
            store, create("dpo(chat)"), scenario="air", secret=SECRET, min_rows=1
        )
        shown = await sets.preview(folder / "scratch")
        assert "one episode makes no pair" not in str(shown.problem)

    with_store(test, tmp_path)


def test_a_preview_names_who_corrected_what(tmp_path: Path) -> None:
    """A better answer is told beside the remarks, with who gave it."""

    async def test(store: SqlStore, folder: Path) -> None:
        events = told(KEPT[0], Success())
        answer = {"type": "outcome", "task_id": KEPT[0], "demonstration": "so", "source": "ann"}
        events.insert(-1, answer | {"event_id": "better", "comment": "shorter"})
        episode_id = await add(store, events)
        shown = await sets_of(store).preview(folder / "scratch")
        [correction] = shown.corrections
        assert (correction.episode_id, correction.said_by) == (episode_id, "ann")
        assert correction.comment == "shorter"

    with_store(test, tmp_path)


def test_looking_settles_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """A preview may be looked at and thrown away: no side is settled, no file stays."""

    async def test(store: SqlStore, folder: Path) -> None:
        await add(store, told(KEPT[0], Success()))
        await sets_of(store).preview(folder / "scratch", num_rows=3)
        assert list((folder / "scratch").iterdir()) == []
        strict = EpisodeTrainingSets(
            store,
            sets_of(store)._rules.learn_model,
            scenario="air",
            secret=SECRET,
            held_out_fraction=1.0,
            min_rows=1,
        )
        with pytest.raises(EmptyDataError):  # every name would be held out: none is settled yet
            await strict.build(folder)

    with_store(test, tmp_path)


def test_a_dropped_episode_is_in_no_training_set_until_it_is_kept(tmp_path: Path) -> None:
    """Preview and run leave it out under that reason, whichever side of the split it is on."""

    async def test(store: SqlStore, folder: Path) -> None:
        ids = [await add(store, told(name, Success())) for name in (*KEPT[:3], HELD_OUT[0])]
        for dropped in (ids[0], ids[3]):
            await say(store, dropped, "drop")
        shown = await sets_of(store).preview(folder / "scratch")
        made = await sets_of(store).build(folder / "one")
        assert shown.left_out == made.left_out == {DROPPED: 2}
        assert made.episode_ids == tuple(sorted(ids[1:3]))
        assert made.held_out == ()
        assert [remark.episode_id for remark in shown.remarks] == [ids[0], ids[3]]
        await say(store, ids[0], "keep")
        again = await sets_of(store).build(folder / "two")
        assert again.episode_ids == tuple(sorted(ids[:3]))

    with_store(test, tmp_path)


def test_what_is_like_a_dropped_held_out_episode_is_not_learned_either(tmp_path: Path) -> None:
    """Dropping opens no way from the held-out side to the training side."""

    async def test(store: SqlStore, folder: Path) -> None:
        words = "the very same long answer " * 5
        held_out = await add(store, told(HELD_OUT[0], Success(), answer=words))
        events = told(KEPT[0], Success(), answer=words)
        events[0]["messages"][0]["content"] = f"do {HELD_OUT[0]}"
        await add(store, events)
        await add(store, told(KEPT[1], Success()))
        await say(store, held_out, "drop")
        shown = await sets_of(store).preview(folder / "scratch", num_rows=9)
        assert shown.num_rows == 1
        assert words not in shown.rows[0].data

    with_store(test, tmp_path)


def test_a_preview_of_nothing_says_why(tmp_path: Path) -> None:
    """Too few rows: the counts are there all the same, and the run's own words."""

    async def test(store: SqlStore, folder: Path) -> None:
        episode_id = await add(store, told(KEPT[0], Failure("broke")))
        await say(store, episode_id, "note", label="odd")
        shown = await sets_of(store, min_rows=2).preview(folder / "scratch", num_rows=9)
        assert shown.problem is not None
        assert shown.problem.startswith("no training rows in 1 episodes, expected at least 2")
        assert shown.left_out == {NO_SUCCESS: 1}
        assert shown.by_label == {"odd": Tally(left_out=1)}
        assert shown.data_digest is None

    with_store(test, tmp_path)


def test_a_run_that_waits_is_shown_without_what_came_later(tmp_path: Path) -> None:
    """The episodes chosen when it began to wait are read, and no others."""

    async def test(store: SqlStore, folder: Path) -> None:
        first = await add(store, told(KEPT[0], Success()))
        sets = sets_of(store)
        material = await sets.material()
        await add(store, told(KEPT[1], Success()))
        made = await sets.build(folder, material=material)
        assert made.episode_ids == (first,)
        assert made.episode_count == 1

    with_store(test, tmp_path)
