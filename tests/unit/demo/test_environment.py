"""The demo's world: fair rules, hidden answers, reproducible from its seed."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.demo.environment import (
    ACTIONS,
    ALERTS,
    CAUSES,
    CHANGES,
    INSPECTIONS,
    MAX_ACTIONS,
    MAX_CHANGES,
    SYSTEM,
    Reply,
    World,
    parse_reply,
)
from honed.demo.statistics import wilson


def _solved(world: World, number: int, changes: list[str]) -> bool:
    """Whether an agent that inspects and then does `changes` resolves the incident."""
    incident = world.incident("test", number)
    incident.act("logs")
    for change in changes:
        if not incident.is_over:
            incident.act(change)
    return incident.is_solved


def test_two_blind_changes_resolve_a_quarter() -> None:
    """Chance is 2 in 8 for two different changes."""
    world, rng = World(3), random.Random(3)
    hits = sum(_solved(world, i, rng.sample(CHANGES, 2)) for i in range(4_000))
    share = wilson(hits, 4_000)
    assert share.low < 0.25 < share.high


def test_who_knows_the_right_changes_resolves_everything() -> None:
    """Every incident can be resolved with one change."""
    world = World(3)
    for i in range(200):
        cause = world.incident("test", i).cause
        assert _solved(world, i, [world.right[cause]])


@pytest.mark.parametrize("seed", range(20))
def test_each_change_is_right_for_one_cause(seed: int) -> None:
    """The right changes are a permutation, so no single change is better than another."""
    right = World(seed).right
    assert set(right) == set(CAUSES)
    assert sorted(right.values()) == sorted(CHANGES)


def test_the_right_changes_come_from_the_seed_alone() -> None:
    """One seed always gives one world, and seeds differ."""
    assert World(5) == World(5)
    assert len({tuple(World(seed).right.values()) for seed in range(50)}) > 45


def test_a_change_before_an_inspection_is_refused() -> None:
    """It costs an action, does nothing, and counts as no change."""
    world = World(1)
    incident = world.incident("test", 0)
    assert incident.act(world.right[incident.cause]) == "refused: inspect first"
    assert (incident.num_actions, incident.num_changes, incident.is_solved) == (1, 0, False)
    incident.act("metrics")
    assert incident.act(world.right[incident.cause]).endswith("resolved")
    assert incident.is_solved


def test_a_word_that_is_no_action_is_refused() -> None:
    """It costs an action; a reply that could not be read costs the same."""
    incident = World(1).incident("test", 0)
    assert incident.act("reboot") == incident.act(None) == "refused: not an action"
    assert incident.num_actions == 2


@given(st.integers(), st.lists(st.sampled_from([*ACTIONS, None]), min_size=MAX_ACTIONS))
def test_an_incident_ends(seed: int, actions: list[str | None]) -> None:
    """After 4 actions, 2 changes, or the right one; then nothing more can be done."""
    incident = World(seed).incident("test", 0)
    taken = 0
    while not incident.is_over:
        incident.act(actions[taken])
        taken += 1
    assert incident.is_solved or taken == MAX_ACTIONS or incident.num_changes == MAX_CHANGES
    with pytest.raises(ValueError, match="over"):
        incident.act("logs")


@pytest.mark.parametrize("inspection", INSPECTIONS)
def test_every_inspection_shows_the_cause(inspection: str) -> None:
    """What it shows is one of the wordings of the hidden cause, and of no other."""
    for i in range(100):
        incident = World(2).incident("test", i)
        shown = incident.act(inspection).removeprefix(f"{inspection}: ")
        causes = {
            cause
            for cause, wordings in CAUSES.items()
            if any(_pattern(wording).fullmatch(shown) for wording in wordings)
        }
        assert causes == {incident.cause}


def _pattern(wording: str) -> re.Pattern[str]:
    return re.compile(
        re.escape(wording).replace(r"\{service\}", "[a-z]+").replace(r"\{n\}", r"\d+")
    )


def test_no_text_names_a_change() -> None:
    """Neither wordings nor alerts nor the instruction contain a change's word: nothing to copy."""
    texts = [wording for wordings in CAUSES.values() for wording in wordings]
    words = {word for text in [*texts, *ALERTS, SYSTEM] for word in re.findall("[a-z]+", text)}
    assert not words & set(CHANGES)


def test_the_alert_says_nothing_of_the_cause() -> None:
    """Alerts are alike for all causes: an agent that does not inspect cannot know."""
    counts = dict.fromkeys(CAUSES, 0)
    first_alert = ALERTS[0].partition("{service}")[2].partition("{n}")[0]
    for i in range(8_000):
        incident = World(4).incident("test", i)
        counts[incident.cause] += first_alert in incident.alert
    shares = [wilson(count, sum(counts.values())) for count in counts.values()]
    assert all(share.low < 1 / 8 + 0.02 and share.high > 1 / 8 - 0.02 for share in shares)


def test_streams_share_no_incidents() -> None:
    """The incidents after are not those before; the same stream gives the same again."""
    world = World(9)

    def seen(stream: str) -> list[tuple[str, str]]:
        incidents = [world.incident(stream, i) for i in range(50)]
        return [(incident.alert, incident.act("traces")) for incident in incidents]

    assert seen("before") == seen("before")
    assert seen("before") != seen("after")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("memory: restart", Reply("memory", "restart")),
        ("unknown: logs", Reply("unknown", "logs")),
        ("memory: reboot", None),
        ("memory restart", None),
        ("memory: restart now", None),
        ("memory: restart\n", None),
        ("", None),
    ],
)
def test_a_reply_is_a_subject_and_an_action(text: str, reply: Reply | None) -> None:
    """Anything else names no action."""
    assert parse_reply(text) == reply
    assert reply is None or str(reply) == text
