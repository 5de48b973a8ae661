"""Which episodes teach, which are held out, which are left out and why; on a real store."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from honed.domain.episode import Episode
from honed.domain.events import parse_event
from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.records import record_from_event
from honed.errors import EmptyDataError, LearnError, TrainingError
from honed.learn_models import ChatLearnModel, create
from honed.learn_models.chat import NOTHING_TO_IMITATE
from honed.ports import IncomingEvent, TrainingSet
from honed.stores import SqlStore, open_store
from honed.training_sets import EpisodeTrainingSets, HeldOutSplit
from honed.training_sets.rows import format_row

SECRET = bytes(range(32))
SPLIT = HeldOutSplit(SECRET, 0.2)
KEPT = [name for name in (f"task-{i}" for i in range(200)) if not SPLIT.is_held_out(name)]
HELD_OUT = [name for name in (f"task-{i}" for i in range(200)) if SPLIT.is_held_out(name)]


def told(
    name: str, outcome: Outcome, *, answer: str = "yes", **fields: Any
) -> list[dict[str, Any]]:
    """The events of one attempt."""
    call = {
        "type": "llm_call",
        "messages": [{"role": "user", "content": f"do {name}"}],
        "response_message": {"role": "assistant", "content": answer},
    }
    verdict = {"type": "outcome", "outcome": msgspec.to_builtins(outcome)}
    names = {"task_id": name, "scenario": "air"} | fields
    return [event | names | {"event_id": f"{name}-{event['type']}"} for event in (call, verdict)]


async def add(store: SqlStore, events: Sequence[dict[str, Any]], model: str = "chat") -> str:
    """Store one attempt as an episode; its id."""
    lines = [msgspec.json.encode(event) for event in events]
    records = [record_from_event(parse_event(line), received_ms=1) for line in lines]
    (episode,) = create(model).build_episodes(records, now_ms=1_000, final=True)
    incoming = [
        IncomingEvent(
            event_id=record.event_id,
            digest=hashlib.blake2b(line, digest_size=16).digest(),
            type=str(record.__struct_config__.tag),
            task_id=record.task_id,
            group_id=record.group_id,
            session_id=None,
            receipt_id=None,
            worker_id=None,
            received_ms=1,
            body=line,
            groups=(),
        )
        for line, record in zip(lines, records, strict=True)
    ]
    assert await store.add_episode(episode, incoming)
    return episode.id


def with_store(test: Callable[[SqlStore, Path], Awaitable[None]], folder: Path) -> None:
    """Run a test on a store in a file."""

    async def main() -> None:
        async with open_store(f"sqlite:///{folder / 'honed.db'}") as store:
            await test(store, folder / "run")

    anyio.run(main)


async def build(
    store: SqlStore, folder: Path, selection: Any = "successes", **settings: Any
) -> TrainingSet:
    settings = {"scenario": "air", "secret": SECRET, "min_rows": 1} | settings
    model = settings.pop("model", "chat")
    model = create(model) if isinstance(model, str) else model
    return await EpisodeTrainingSets(store, model, **settings).build(folder, selection=selection)


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path: Path) -> bytes:
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def prompts(path: Path) -> list[str]:
    return [row["messages"][0]["content"] for row in rows(path)]


def test_successes_teach_and_the_held_out_are_scored(tmp_path: Path) -> None:
    """Each episode is in one file or left out for one reason, and the reasons add up."""

    async def test(store: SqlStore, folder: Path) -> None:
        ids = {
            "good": await add(store, told(KEPT[0], Success(0.9))),
            "weak": await add(store, told(KEPT[1], Success(0.1))),
            "bad": await add(store, told(KEPT[2], Failure("no"))),
            "late": await add(store, told(KEPT[3], Timeout(0.9))),
            "open": await add(store, told(KEPT[4], Unknown())),
            "no": await add(store, told(KEPT[5], Success(), train=False)),
            "eval": await add(store, told(KEPT[6], Success(), purpose="evaluation")),
            "mute": await add(store, told(KEPT[7], Success(), answer="")),
            "held good": await add(store, told(HELD_OUT[0], Success(0.1))),
            "held bad": await add(store, told(HELD_OUT[1], Failure("no"))),
            "held open": await add(store, told(HELD_OUT[2], Unknown())),
            "held no": await add(store, told(HELD_OUT[3], Success(), train=False)),
            "held mute": await add(store, told(HELD_OUT[4], Success(), answer="")),
            "good too": await add(store, told(KEPT[8], Success())),
        }
        await add(store, told(KEPT[9], Success(), scenario="sea"))
        with capture_logs() as logs:
            found = await build(store, folder, min_score=0.5)
        assert found.episode_ids == (ids["good"], ids["good too"])
        assert found.num_rows == 2
        assert found.left_out == {
            "score too low": 1,
            "not a success": 2,
            "without an outcome": 2,
            "may not be learned from": 3,
            f"not convertible: {NOTHING_TO_IMITATE}": 2,
            "held out": 2,
        }
        assert found.num_rows + sum(found.left_out.values()) == len(ids)
        assert found.episode_count == len(ids)
        assert [(h.episode_id, h.group, h.is_success) for h in found.held_out] == [
            (ids["held good"], HELD_OUT[0], True),
            (ids["held bad"], HELD_OUT[1], False),
        ]
        assert prompts(found.held_out_path) == [f"do {name}" for name in HELD_OUT[:2]]
        assert sorted(prompts(found.data_path)) == sorted(f"do {KEPT[i]}" for i in (0, 8))
        assert [(log["event"], log["count"]) for log in logs] == [("episode.refused", 2)]

    with_store(test, tmp_path)


@pytest.mark.feature("SE-056")
def test_the_files(tmp_path: Path) -> None:
    """Rows hold TRL's columns alone, line n of the metadata is of row n, the digest the file's."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in KEPT[:5]:
            await add(store, told(name, Success(0.5), adapter_id="air@1", model="tiny"))
        found = await build(store, folder)
        data = read(found.data_path)
        assert found.data_digest == hashlib.sha256(data).hexdigest()
        assert (found.data_path.name, found.held_out_path.name) == ("chat.jsonl", "held_out.jsonl")
        assert read(found.held_out_path) == b""
        metadata = rows(folder / "chat.meta.jsonl")
        assert sorted(row["episode_id"] for row in metadata) == sorted(found.episode_ids)
        for row, meta in zip(rows(found.data_path), metadata, strict=True):
            assert row.keys() == {"messages"}
            assert row["messages"][0]["content"] == f"do {meta['group']}"
            assert meta["outcome"] == {"type": "success", "score": 0.5}
            assert (meta["outcome_score"], meta["adapter_id"], meta["model"]) == (
                0.5,
                "air@1",
                "tiny",
            )
        assert names(folder) == [
            "chat.jsonl",
            "chat.meta.jsonl",
            "dataset.json",
            "held_out.jsonl",
            "held_out.meta.jsonl",
        ]

    with_store(test, tmp_path)


def test_the_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    """The same store and seed give the same bytes; another seed another order of the same rows."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in KEPT[:40]:
            await add(store, told(name, Success()))
        one, again, other = [
            await build(store, folder / str(i), seed=seed) for i, seed in enumerate([1, 1, 2])
        ]
        assert one.data_digest == again.data_digest != other.data_digest
        assert one.episode_ids == other.episode_ids
        assert prompts(one.data_path) != [f"do {name}" for name in KEPT[:40]]

    with_store(test, tmp_path)


def test_a_blind_selection_is_as_large_and_looks_at_no_outcome(tmp_path: Path) -> None:
    """The control learns from as many episodes, drawn from all with a known outcome."""

    async def test(store: SqlStore, folder: Path) -> None:
        successes = set()
        for i, name in enumerate(KEPT[:80]):
            outcome = Success() if i % 4 == 0 else Failure() if i % 4 < 3 else Unknown()
            episode_id = await add(store, told(name, outcome))
            successes |= {episode_id} if i % 4 == 0 else set()
        for name in HELD_OUT[:10]:
            await add(store, told(name, Success()))
        told_ones = await build(store, folder / "successes")
        blind = await build(store, folder / "blind", "blind")
        again = await build(store, folder / "again", "blind")
        assert told_ones.num_rows == blind.num_rows == 20
        assert set(told_ones.episode_ids) == successes
        assert 1 <= len(successes & set(blind.episode_ids)) <= 15
        assert (blind.data_digest, blind.held_out) == (again.data_digest, told_ones.held_out)
        assert blind.left_out == {"without an outcome": 20, "held out": 10, "not drawn": 40}

    with_store(test, tmp_path)


def test_attempts_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    """The group decides the side, whatever the tasks are called."""

    async def test(store: SqlStore, folder: Path) -> None:
        for i, name in enumerate((*KEPT[:10], *HELD_OUT[:10])):
            await add(store, told(name, Success(), group_id=(KEPT, HELD_OUT)[i % 2][25]))
        found = await build(store, folder)
        assert found.num_rows == 10
        assert {held_out.group for held_out in found.held_out} == {HELD_OUT[25]}

    with_store(test, tmp_path)


def test_only_the_newest_episodes_are_looked_at(tmp_path: Path) -> None:
    """Beyond `max_episodes` the past is forgotten."""

    async def test(store: SqlStore, folder: Path) -> None:
        ids = [await add(store, told(name, Success())) for name in KEPT[:70]]
        found = await build(store, folder, max_episodes=40)
        assert found.episode_ids == tuple(ids[-40:])
        assert found.episode_count == 70

    with_store(test, tmp_path)


def test_episodes_without_outcome_may_count_as_successes(tmp_path: Path) -> None:
    """With `unlabelled = "train"` they teach, but no verdict rests on them."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in (*KEPT[:3], *HELD_OUT[:3]):
            await add(store, told(name, Unknown()))
        found = await build(store, folder, unlabelled="train")
        assert (found.num_rows, found.held_out) == (3, ())
        with pytest.raises(EmptyDataError):
            await build(store, folder)

    with_store(test, tmp_path)


def test_episodes_that_are_to_be_judged_wait_for_the_judge(tmp_path: Path) -> None:
    """With `unlabelled = "judge"` nothing is taken unjudged; what the judge says counts when it is there."""

    async def test(store: SqlStore, folder: Path) -> None:
        ids = [await add(store, told(name, Unknown())) for name in KEPT[:2]]
        with pytest.raises(EmptyDataError, match="2 without an outcome"):
            await build(store, folder, unlabelled="judge")
        await store.set_outcome(ids[0], Success(0.9), source="judge:tiny")
        found = await build(store, folder, unlabelled="judge")
        assert found.episode_ids == (ids[0],)
        assert found.left_out == {"without an outcome": 1}

    with_store(test, tmp_path)


@pytest.mark.feature("SE-053")
def test_a_verdict_that_came_later_counts(tmp_path: Path) -> None:
    """The newest outcome of the store decides, not the one that the episode was built with."""

    async def test(store: SqlStore, folder: Path) -> None:
        bad = await add(store, told(KEPT[0], Success()))
        good = await add(store, told(KEPT[1], Unknown()))
        await store.set_outcome(bad, Failure("reverted"))
        await store.set_outcome(good, Success(1.0))
        assert (await build(store, folder)).episode_ids == (good,)

    with_store(test, tmp_path)


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    """No episodes, no rows and too few rows are three messages; the last two count the reasons."""

    async def test(store: SqlStore, folder: Path) -> None:
        with pytest.raises(EmptyDataError, match=r"^no episodes: scenario air"):
            await build(store, folder)
        for name in KEPT[:3]:
            await add(store, told(name, Failure("no")))
        await add(store, told(HELD_OUT[0], Success()))
        with pytest.raises(EmptyDataError) as none:
            await build(store, folder)
        assert str(none.value).startswith("no training rows in 4 episodes")
        assert "3 not a success, 1 held out" in str(none.value)
        assert none.value.advice == "wait for more successes, or lower train.min_rows"
        await add(store, told(KEPT[3], Success()))
        await add(store, told(KEPT[4], Unknown()))
        with pytest.raises(
            EmptyDataError, match=r"^1 training rows in 6 episodes, expected .* 2:"
        ) as few:
            await build(store, folder, min_rows=2)
        assert "wait for outcomes" in (few.value.advice or "")
        assert names(folder) == []

    with_store(test, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The run fails with the folder's name, not with an OS error."""
    (tmp_path / "run").write_text("a file")

    async def test(store: SqlStore, folder: Path) -> None:
        with pytest.raises(TrainingError, match="cannot be written"):
            await build(store, folder)

    with_store(test, tmp_path)


def test_sequences_list_the_actions_of_the_scenario(tmp_path: Path) -> None:
    """The prompt offers what anybody did in the scenario, not only what this worker did."""

    def acted(name: str, *actions: str) -> list[dict[str, Any]]:
        common = {"task_id": name, "scenario": "air", "tick": 1, "worker_id": 1}
        return [
            common | {"action": action, "result": {"success": True}, "event_id": f"{name}-{i}"}
            for i, action in enumerate(actions)
        ]

    async def test(store: SqlStore, folder: Path) -> None:
        model = "worker_decision_sequence"
        await add(store, acted(KEPT[0], "look", "fix", "test", "done"), model)
        await add(store, acted(KEPT[1], "look", "pray", "test", "done"), model)
        found = await build(store, folder, model=model)
        assert found.data_path.name == "worker_decision_sequence.jsonl"
        for row in rows(found.data_path):
            assert row["messages"][1]["content"].endswith(
                "Available actions: fix, look, pray, test"
            )

    with_store(test, tmp_path)


def test_a_corrected_attempt_teaches_whatever_its_outcome(tmp_path: Path) -> None:
    """Failed or not judged, the better answer is a row; held out, it is a success."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name, outcome in [
            (KEPT[0], Failure("wrong")),
            (KEPT[1], Failure("wrong")),
            (HELD_OUT[0], Failure("wrong")),
        ]:
            events = told(name, outcome, answer="no")
            if name != KEPT[1]:
                events[1]["demonstration"] = "better"
            await add(store, events)
        unjudged = told(KEPT[2], Unknown(), answer="no")
        unjudged[1] |= {"demonstration": "better", "source": "ann"}
        del unjudged[1]["outcome"]
        await add(store, unjudged)
        built = await build(store, folder)
        answers = [row["messages"][-1]["content"] for row in rows(built.data_path)]
        assert answers == ["better", "better"]
        said = [row.get("demonstrated_by") for row in rows(folder / "chat.meta.jsonl")]
        assert sorted(said) == ["ann", "somebody"]
        assert [one.is_success for one in built.held_out] == [True]
        assert built.left_out == {"held out": 1, "not a success": 1}

    with_store(test, tmp_path)


def test_what_is_said_after_a_training_is_learned_in_the_next(tmp_path: Path) -> None:
    """Each training keeps the outcome that it saw."""

    async def test(store: SqlStore, folder: Path) -> None:
        one, two = [await add(store, told(name, Success(), answer="no")) for name in KEPT[:2]]
        await build(store, folder / "first")
        await store.set_outcome(one, Failure("reopened"), source="ann")
        await build(store, folder / "second")

        def seen(run: str) -> dict[str, str]:
            metadata = rows(folder / run / "chat.meta.jsonl")
            return {row["episode_id"]: row["outcome"]["type"] for row in metadata}

        assert seen("first") == {one: "success", two: "success"}
        assert seen("second") == {two: "success"}

    with_store(test, tmp_path)


class Faulty(ChatLearnModel):
    """Somebody's learn model, whose code is not right yet."""

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> Any:
        if "mute" in (episode.task_id or "") or episode.outcome == Success(0.5):
            raise KeyError("messages")
        if episode.outcome == Success(0.25):
            raise LearnError("too hard")
        return super().convert(episode)


@pytest.mark.feature("SE-092")
def test_the_file_holds_what_convert_gives(tmp_path: Path) -> None:
    """Each line is the row of one episode, and nothing else is written; a fault costs its own row only."""

    async def test(store: SqlStore, folder: Path) -> None:
        scores = {name: 0.5 if i % 3 == 0 else 1.0 for i, name in enumerate(KEPT[:12])}
        ids = {await add(store, told(name, Success(score))) for name, score in scores.items()}
        model = Faulty()
        found = await build(store, folder, model=model)
        episodes = [await store.get_episode(episode_id) for episode_id in ids]
        good = [episode for episode in episodes if episode.outcome == Success(1.0)]
        written = read(found.data_path).splitlines()
        assert sorted(written) == sorted(format_row(model.convert(episode)) for episode in good)
        assert found.left_out == {"not convertible: the learn model failed with KeyError": 4}

    with_store(test, tmp_path)


@pytest.mark.feature("SE-092")
def test_a_model_that_converts_nothing_skips_the_training(tmp_path: Path) -> None:
    """The reasons are counted, and the first is told in the learn model's own words."""

    async def test(store: SqlStore, folder: Path) -> None:
        for name in KEPT[:3]:
            await add(store, told(name, Success(0.5)))
        first = await add(store, told(KEPT[3], Success(0.25)))
        with pytest.raises(EmptyDataError) as caught:
            await build(store, folder, model=Faulty())
        assert str(caught.value) == (
            "no training rows in 4 episodes, expected at least 1: 3 not convertible: the learn model "
            "failed with KeyError, 1 not convertible"
        )
        assert f"episode {first}: too hard" in (caught.value.advice or "")

    with_store(test, tmp_path)


def test_forks_are_counted_by_their_reason(tmp_path: Path) -> None:
    """What an attempt said beside its longest conversation is told, for attempts that are learned from."""
    again = {"type": "llm_call", "response_message": {"role": "assistant", "content": "perhaps"}}

    async def test(store: SqlStore, folder: Path) -> None:
        for name, outcome in [(KEPT[0], Success()), (KEPT[1], Failure("no"))]:
            call, verdict = told(name, outcome)
            second = call | again | {"event_id": f"{name}-again"}
            other = call | again | {"event_id": f"{name}-other"}
            other["messages"] = [{"role": "user", "content": "and now?"}]
            await add(store, [call, second, other, verdict])
        found = await build(store, folder)
        assert found.forks == {
            "the same prompt was asked again": 1,
            "another conversation began": 1,
        }

    with_store(test, tmp_path)
