"""How the verdicts of several sources become one outcome."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.composition import (
    PLAIN,
    WEIGHED,
    Composition,
    Weight,
    is_judged,
    parse_weight,
)
from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.verdict import Told, standing
from honed.errors import ValidationError

YES, NO = Success(), Failure("no")
PEOPLE, JUDGES = Weight("user:*", 2), Weight("judge:*", 0.5)

outcomes = st.one_of(
    st.floats(0, 1).map(Success),
    st.just(NO),
    st.floats(0, 1).map(Timeout),
    st.just(Unknown()),
)
sources = st.sampled_from(["user:ann", "user:bob", "judge:a", "tests", None])
tolds = st.builds(Told, outcomes, sources, st.sampled_from([None, "1", "2"]))
weights = st.lists(
    st.builds(Weight, st.sampled_from(["user:*", "judge:*", "tests", "*"]), st.floats(0, 9)),
    max_size=4,
).map(tuple)
rules = st.sampled_from(["newest", "first", "weighted"])
compositions = st.builds(Composition, rule=rules, weights=weights)


@given(st.lists(tolds, max_size=8))
def test_without_a_config_the_newest_verdict_counts(said: list[Told]) -> None:
    """The plain composition is what `standing` says, where no model has spoken."""
    said = [told for told in said if not is_judged(told.source)]
    assert PLAIN.stands(said) == standing(said)


def test_a_model_s_opinion_never_undoes_what_somebody_has_seen() -> None:
    """By the rule `newest`, it counts while nobody else has spoken; against the attempt's own word it does."""
    judge, desk = Told(NO, "judge:a", "1"), Told(YES, "desk")
    assert PLAIN.stands([judge]) == judge
    assert PLAIN.stands([desk, judge]) == PLAIN.stands([judge, desk]) == desk
    assert PLAIN.stands([Told(YES, "chat", own=True), judge]) == judge
    taken_back = Told(Unknown(), "desk")
    assert PLAIN.stands([desk, taken_back, judge]) == judge
    assert PLAIN.stands([desk, judge, taken_back]) == taken_back


@given(compositions, st.lists(tolds, max_size=8), st.randoms(use_true_random=False))
def test_weights_know_no_order_of_arrival(
    composition: Composition, said: list[Told], chance: random.Random
) -> None:
    """By weight, only the order of one source's own words tells; those of others may come in any order."""
    composition = Composition(rule="weighted", weights=composition.weights)
    by_source: dict[str | None, list[Told]] = {}
    for told in said:
        by_source.setdefault(told.source, []).append(told)
    queues = {source: list(words) for source, words in by_source.items()}
    mixed: list[Told] = []
    while queues:
        source = chance.choice(sorted(queues, key=str))
        mixed.append(queues[source].pop(0))
        if not queues[source]:
            del queues[source]
    was, now = composition.stands(said), composition.stands(mixed)
    assert _outcome(was) == _outcome(now)


@given(compositions, st.lists(tolds, max_size=8), tolds)
def test_a_source_without_weight_changes_nothing(
    composition: Composition, said: list[Told], more: Told
) -> None:
    """What is left out may say what it likes, at any time."""
    if composition.weight_of(more.source) == 0:
        assert composition.stands([*said, more]) == composition.stands(said)
        assert composition.stands([more, *said]) == composition.stands(said)


@given(compositions, st.lists(tolds, max_size=8))
def test_the_same_verdicts_make_the_same_outcome(
    composition: Composition, said: list[Told]
) -> None:
    """Saying the last word again changes nothing; what counted is among what was said and has a weight."""
    once = composition.stands(said)
    assert composition.stands(said) == once
    if composition.rule != "newest" and said:
        again = [told for told in said if told.source == said[-1].source][-1]
        assert _outcome(composition.stands([*said, again])) == _outcome(once)
    for told in composition.counted(said):
        assert told in said
        assert composition.weight_of(told.source) > 0


def test_the_first_source_that_spoke_is_believed() -> None:
    """A person before the tests before a judge, whoever came last; the next one when one takes its word back."""
    first = Composition(rule="first", weights=(PEOPLE, Weight("tests"), JUDGES))
    said = [Told(YES, "user:ann"), Told(NO, "tests"), Told(NO, "judge:a")]
    assert first.stands(said) == said[0]
    assert first.stands([*said, Told(NO, "user:bob")]) == Told(NO, "user:bob")
    assert first.stands([*said, Told(Unknown(), "user:ann")]) == Told(NO, "tests")
    assert first.stands([Told(YES, "somebody"), said[2]]) == said[2]


def test_votes_have_the_weight_of_their_source() -> None:
    """Two against a half is a success, its score the weighted mean; a tie is none."""
    weighted = Composition(rule="weighted", weights=(PEOPLE, JUDGES))
    said = [Told(Success(0.9), "user:ann"), Told(NO, "judge:a")]
    assert weighted.stands(said) == Told(Success(0.72), WEIGHED)
    assert weighted.counted(said) == [said[1], said[0]]
    tied = weighted.stands([*said, Told(NO, "user:bob")])
    assert tied is not None
    assert isinstance(tied.outcome, Failure)
    even = Composition(rule="weighted").stands([Told(YES, "a"), Told(NO, "b")])
    assert even is not None
    assert isinstance(even.outcome, Failure)
    slow = [Told(Timeout(0.5), "a"), Told(Timeout(0.5), "b"), Told(NO, "c")]
    assert _outcome(Composition(rule="weighted").stands(slow)) == Timeout(1 / 3)


def test_one_vote_stands_as_it_was_said() -> None:
    """Its reason and its name stay; who took it back has none."""
    weighted = Composition(rule="weighted")
    assert weighted.stands([Told(NO, "tests")]) == Told(NO, "tests")
    taken_back = [Told(NO, "tests"), Told(YES, "b"), Told(Unknown(), "tests")]
    assert weighted.stands(taken_back) == Told(YES, "b")


def test_what_an_attempt_says_of_itself_counts_until_somebody_speaks() -> None:
    """An agent's own `done` is no second opinion."""
    own = Told(YES, "chat", own=True)
    for rule in ("first", "weighted"):
        composition = Composition(rule=rule)
        assert composition.stands([own]) == own
        assert composition.stands([own, Told(NO, "tests")]) == Told(NO, "tests")


def test_an_old_version_of_a_source_has_no_vote() -> None:
    """The old judge that catches up does not undo the new one, by any rule."""
    said = [Told(YES, "judge:a", "v10"), Told(NO, "judge:a", "v9")]
    for rule in ("newest", "first", "weighted"):
        assert Composition(rule=rule).stands(said) == said[0]


def test_a_model_s_opinion_is_told_by_its_name() -> None:
    """What honed asks a judge is marked; what others call themselves is theirs."""
    assert is_judged("judge:model")
    assert not is_judged("verifier:tests")
    assert not is_judged(None)


@given(st.sampled_from(["user:*", "tests", "*", "-"]), st.integers(0, 900))
def test_a_weight_reads_back_from_its_text(pattern: str, hundredths: int) -> None:
    """What is shown can be written into the config."""
    weight = Weight(pattern, hundredths / 100)
    assert parse_weight(str(weight)) == weight


def test_who_gives_no_name_is_a_dash() -> None:
    """Anonymous verdicts can be weighed too."""
    composition = Composition(weights=(parse_weight("-=0"),))
    assert composition.stands([Told(YES)]) is None
    assert parse_weight("tests") == Weight("tests", 1.0)


@pytest.mark.parametrize("text", ["", "=1", "a=", "a=-1", "a=x", "a b=1", "a=nan"])
def test_a_weight_that_is_none_is_refused(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(ValidationError, match="PATTERN=NUMBER"):
        parse_weight(text)


def _outcome(told: Told | None) -> Outcome | None:
    return told.outcome if told else None
