"""Pairs of attempts: which are made, in which order, and their rows."""

import tracemalloc
from collections.abc import Sequence
from itertools import product

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.episode import Episode
from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown, is_known, score
from honed.errors import ConfigError, LearnError
from honed.learn_models import (
    DependencyGraphLearnModel,
    DpoConfig,
    DpoLearnModel,
    LearnModelMixin,
    WorkerTaskLearnModel,
    create,
)
from tests.feed_parts import call, failure, line, open_intake, success
from tests.unit.learn_models.actions import act, episode, outcomes, seen


def said(id: str, outcome: Outcome, prompt: str, answer: str, group: str | None = "g") -> Episode:
    """An attempt whose action is what it was asked and its target what it answered."""
    return episode(id, outcome, act(prompt, target=answer), group=group)


def extract(found: Episode) -> tuple[str, str] | None:
    asked = found.actions[0]
    return None if asked.action == "nothing" else (asked.action, asked.target or "")


def model(**config: object) -> DpoLearnModel:
    return DpoLearnModel(extract, config=DpoConfig(**config))  # type: ignore[arg-type]


def named(pairs: Sequence[object]) -> list[tuple[str, str]]:
    return [(pair.chosen.id, pair.rejected.id) for pair in pairs]  # type: ignore[attr-defined]


attempts = st.lists(
    st.builds(
        lambda outcome, prompt, answer, group: (outcome, prompt, answer, group),
        outcomes,
        st.sampled_from(["p", "q", "nothing"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["g", "h", None]),
    ),
    max_size=8,
).map(lambda found: [said(f"e{i}", *one) for i, one in enumerate(found)])


def obvious(
    episodes: Sequence[Episode], min_gap: float, max_pairs: int | None, reuse: bool
) -> list[tuple[str, str]]:
    """The rules as the page says them, one after the other."""
    made = []
    for a, b in product(episodes, episodes):
        if a.group_id is None or a.group_id != b.group_id:
            continue
        if not is_known(a.outcome) or not is_known(b.outcome):
            continue
        one, two = extract(a), extract(b)
        if one is None or two is None or one[0] != two[0] or one[1] == two[1]:
            continue
        gap = score(a.outcome) - score(b.outcome)
        if gap > 0 and gap >= min_gap - 1e-9:
            made.append((-gap, a.id, b.id))
    made.sort()
    names = [(chosen, rejected) for _, chosen, rejected in made]
    if not reuse:
        used: set[str] = set()
        once = []
        for pair in names:
            if not used.intersection(pair):
                used.update(pair)
                once.append(pair)
        names = once
    return names if max_pairs is None else names[:max_pairs]


def test_scores_that_differ_by_less_than_a_float_can_tell_are_ordered_by_id() -> None:
    """Two gaps that round to the same number are equal ones, whatever the scores behind them."""
    worst, bad = 1e-18, 0.0
    assert 1.0 - worst == 1.0 - bad
    told = [
        said("a", Success(1.0), "p", "x"),
        said("b", Success(worst), "p", "y"),
        said("c", Success(bad), "p", "z"),
        said("d", Success(1.0), "p", "w"),
    ]
    expected = [("a", "b"), ("a", "c"), ("d", "b"), ("d", "c")]
    assert named(model(min_quality_gap=0.1).build_pairs(told)) == expected
    assert named(model().build_pairs(told[::-1])) == obvious(told, 0.1, None, reuse=True)


def test_the_best_pairs_of_a_large_group_take_little_memory() -> None:
    """Of 360,000 pairs of 1,200 attempts no more than one for each attempt is there at a time."""
    many = [
        said(f"e{n:04}", Success(1.0) if n % 2 else Failure("no"), "p", f"answer {n}")
        for n in range(1_200)
    ]
    tracemalloc.start()
    try:
        found = model(max_pairs=5).build_pairs(many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert named(found) == [("e0001", f"e{n:04}") for n in range(0, 10, 2)]
    assert peak < 5 << 20


@pytest.mark.feature("SE-089", "SE-090")
@given(
    attempts,
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    st.sampled_from([None, 1, 2, 5]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_pairs_are_those_of_the_obvious_reading(
    episodes: list[Episode], gap: float, most: int | None, reuse: bool, random: object
) -> None:
    """Same group and prompt, other answers, a gap in the score; in an order that no arrival changes."""
    found = model(min_quality_gap=gap, max_pairs=most, allow_reuse=reuse)
    expected = obvious(episodes, gap, most, reuse)
    assert named(found.build_pairs(episodes)) == expected
    shuffled = list(episodes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert named(found.build_pairs(shuffled)) == expected


@pytest.mark.feature("SE-089")
@pytest.mark.parametrize(
    ("other", "count"),
    [
        (said("b", Failure("no"), "p", "y"), 1),
        (said("b", Timeout(0.5), "p", "y"), 1),
        (said("b", Timeout(None), "p", "y"), 1),
        (said("b", Unknown(), "p", "y"), 0),
        (said("b", Success(1.0), "p", "y"), 0),
        (said("b", Success(0.9), "p", "y"), 1),
        (said("b", Success(0.91), "p", "y"), 0),
        (said("b", Failure("no"), "p", "x"), 0),
        (said("b", Failure("no"), "q", "y"), 0),
        (said("b", Failure("no"), "p", "y", group="h"), 0),
        (said("b", Failure("no"), "nothing", "y"), 0),
    ],
)
def test_who_is_paired_with_a_success(other: Episode, count: int) -> None:
    """Group and prompt are the same, answers differ, the outcome is known, and the gap is wide enough."""
    pairs = model().build_pairs([other, said("a", Success(1.0), "p", "x")])
    assert named(pairs) == [("a", "b")] * count


@pytest.mark.feature("SE-089")
def test_no_group_never_pairs() -> None:
    """Attempts that name no group are not comparable, though they were asked the same."""
    none = [said("a", Success(), "p", "x", group=None), said("b", Failure(), "p", "y", group=None)]
    assert model().build_pairs(none) == []


def test_what_may_not_be_learned_from_is_in_no_pair() -> None:
    """`train: false` keeps an attempt out of either side."""
    private = episode("b", Failure(), act("p", target="y", train=False))
    assert model().build_pairs([said("a", Success(), "p", "x"), private]) == []


@pytest.mark.feature("SE-091")
@given(outcomes, outcomes)
def test_the_quality_gap_is_the_difference_of_the_scores(one: Outcome, two: Outcome) -> None:
    """Chosen minus rejected, never below the least gap."""
    pairs = model(min_quality_gap=0.0).build_pairs(
        [said("a", one, "p", "x"), said("b", two, "p", "y")]
    )
    for pair in pairs:
        assert pair.quality_gap == score(pair.chosen.outcome) - score(pair.rejected.outcome) > 0
    assert len(pairs) == (is_known(one) and is_known(two) and score(one) != score(two))


@pytest.mark.feature("SE-090")
def test_defaults_and_limits_of_the_config() -> None:
    """A gap of 0.1, all pairs, an episode in several of them; what makes no sense is refused."""
    assert DpoConfig() == DpoConfig(min_quality_gap=0.1, max_pairs=None, allow_reuse=True)
    four = [
        said(name, Success(value), "p", name)
        for name, value in zip("abcd", (1.0, 0.8, 0.5, 0.0), strict=True)
    ]
    assert named(model().build_pairs(four)) == [
        ("a", "d"), ("b", "d"), ("a", "c"), ("c", "d"), ("b", "c"), ("a", "b"),
    ]  # fmt: skip
    assert named(model(max_pairs=2).build_pairs(four)) == [("a", "d"), ("b", "d")]
    assert named(model(allow_reuse=False).build_pairs(four)) == [("a", "d"), ("b", "c")]
    assert named(model(allow_reuse=False, max_pairs=1).build_pairs(four)) == [("a", "d")]
    for wrong in ({"min_quality_gap": 1.5}, {"min_quality_gap": -0.1}, {"max_pairs": 0}):
        with pytest.raises(ValueError, match="expected"):
            DpoConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.feature("SE-089")
def test_rows_of_pairs() -> None:
    """Prompt, chosen and rejected as texts, with a system turn when one is set."""
    pairs = model().build_pairs([said("a", Success(), "p", "x"), said("b", Failure(), "p", "y")])
    (row,) = model().convert_pairs(pairs)
    assert [(turn.role, turn.text) for turn in row.prompt] == [("user", "p")]
    assert [(turn.role, turn.text) for turn in row.chosen] == [("assistant", "x")]
    assert [(turn.role, turn.text) for turn in row.rejected] == [("assistant", "y")]
    assert (row.metadata.episode_id, row.metadata.rejected_episode_id) == ("a", "b")
    assert (row.metadata.outcome_score, row.metadata.group) == (1.0, "g")
    with_system = DpoLearnModel(extract, "Choose well.").convert_pair(pairs[0])
    assert [(turn.role, turn.text) for turn in with_system.prompt] == [
        ("system", "Choose well."),
        ("user", "p"),
    ]
    with pytest.raises(LearnError, match=r"episode a .*one episode makes no pair"):
        model().convert(pairs[0].chosen)


@pytest.mark.feature("SE-089")
def test_over_actions_the_answer_lists_all_that_were_taken() -> None:
    """Failed actions too: what went wrong is what the rejected answer shows."""
    dpo = create("dpo(worker_task)")
    assert isinstance(dpo, DpoLearnModel)
    assert (dpo.name, dpo.method) == ("dpo(worker_task)", "dpo")
    good = episode("a", Success(), act("look", **seen("slow")), act("fix", tick=2), act("done"))
    bad = episode("b", Failure(), act("look", **seen("slow")), act("break", tick=2, ok=False))
    (pair,) = dpo.build_pairs([bad, good], available_actions=("fix", "look", "break", "done"))
    row = dpo.convert_pair(pair)
    assert [turn.text for turn in row.prompt] == [
        "You are a worker in a swarm. Choose the actions that complete the task, in order.",
        "Task: slow\nAvailable actions: break, fix, look",
    ]
    assert (row.chosen[0].text, row.rejected[0].text) == ("look -> fix", "look -> break")


@pytest.mark.feature("SE-088", "SE-089")
def test_inferences_of_dependencies_are_compared_from_call_to_pair() -> None:
    """Recorded, judged at the end of its run, stored as an episode, paired by group: the path of every adapter."""
    graphs = DependencyGraphLearnModel
    dpo = DpoLearnModel(
        graphs.extractor(), graphs.default_system_prompt(), over=DependencyGraphLearnModel()
    )

    def inference(task_id: str, response: str) -> dict[str, object]:
        return {
            "type": "dependency_graph_inference", "timestamp_ms": 1, "event_id": f"i-{task_id}", "task_id": task_id,
            "group_id": "g", "prompt": "Which first?", "response": response, "model": "tiny",
            "available_actions": ["fix", "look"], "discover_order": ["look"], "latency_ms": 5,
            "not_discover_order": ["fix"], "endpoint": "http://localhost", "success": True,
        }  # fmt: skip

    events = [
        inference("t1", "look, then fix"), inference("t2", "fix, then look"),
        success(0.8, task_id="t1"), failure("broken", task_id="t2"),
    ]  # fmt: skip

    async def main() -> list[Episode]:
        async with open_intake(None, learn_models=[dpo]) as intake:
            await intake.sink.ingest([line(event) for event in events])
            with anyio.fail_after(60):
                return [await intake.episodes.receive() for _ in range(2)]

    made = anyio.run(main)
    assert {found.learn_model for found in made} == {"dpo(dependency_graph)"}
    (row,) = dpo.convert_pairs(dpo.build_pairs(made))
    assert [turn.text for turn in row.prompt] == [graphs.default_system_prompt(), "Which first?"]
    assert (row.chosen[0].text, row.rejected[0].text) == ("look, then fix", "fix, then look")


def test_conversations_are_compared_from_the_first_turn_that_differs() -> None:
    """In chats the prompt is what stood before the first answer; tools are part of what was asked."""
    dpo = create("dpo(chat)")
    assert isinstance(dpo, DpoLearnModel)
    events = [
        call(task_id="t1", group_id="g"),
        success(task_id="t1"),
        call(
            task_id="t2", group_id="g", response_message={"role": "assistant", "content": "sleep"}
        ),
        failure(task_id="t2"),
    ]

    async def main() -> list[Episode]:
        async with open_intake(None, learn_models=[dpo]) as intake:
            await intake.sink.ingest([line(event) for event in events])
            with anyio.fail_after(60):
                return [await intake.episodes.receive() for _ in range(2)]

    (pair,) = dpo.build_pairs(anyio.run(main))
    row = dpo.convert_pair(pair)
    assert [turn.text for turn in row.prompt] == ["what now?"]
    assert (row.chosen[0].text, row.rejected[0].text) == ("look", "sleep")


def test_the_wrapped_model_groups_builds_and_judges() -> None:
    """Only the name on the episodes is another, so that each model has its own."""
    task, dpo = WorkerTaskLearnModel(), create("dpo(worker_task)")
    records = [act("look"), act("fix", ok=False), act("done")]
    (own,), (wrapped,) = (one.build_episodes(records, now_ms=1) for one in (task, dpo))
    assert (own.learn_model, wrapped.learn_model) == ("worker_task", "dpo(worker_task)")
    assert own.outcome == wrapped.outcome == Success(0.5)
    for arrival in records:
        assert dpo.group_key(arrival) == task.group_key(arrival)
        assert dpo.is_closing(arrival) == task.is_closing(arrival)
    assert dpo.is_complete(records)
    assert dpo.evaluate(records) == task.evaluate(records)
    assert len(dpo.left_out(own)) == 1


def test_a_model_without_an_extractor_cannot_be_wrapped() -> None:
    """It is said what is missing, and how it looks."""

    class Mute(LearnModelMixin):
        name = "mute"

    with pytest.raises(ConfigError, match=r"mute has no method `extractor`") as caught:
        DpoLearnModel.wrapping(Mute())  # type: ignore[arg-type]
    assert "available_actions" in (caught.value.advice or "")
