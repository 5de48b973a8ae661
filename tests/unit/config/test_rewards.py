"""What the sections `rewards` and `judge` take, and what they refuse."""

from typing import Any

import pytest

from honed.config import Config
from honed.config.rewards import split_name
from honed.domain.composition import Composition, Weight


def test_without_a_word_the_newest_verdict_counts() -> None:
    """Nobody is asked for one, and nothing is left out."""
    config = Config(scenario="s")
    assert config.rewards.composition() == Composition()
    assert not config.rewards.verifiers
    assert config.judge.url is None


def test_sources_have_weights() -> None:
    """In their order, which `first` goes by."""
    rewards: Any = {"compose": "first", "sources": ["user:*", "judge:*=0.5", "-=0"]}
    found = Config(scenario="s", rewards=rewards).rewards.composition()
    assert found.rule == "first"
    assert found.weights == (Weight("user:*"), Weight("judge:*", 0.5), Weight("-", 0))


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ({"sources": ["judge:*=-1"]}, "PATTERN=NUMBER"),
        ({"verifiers": {"Tests": "true"}}, "is no name"),
        ({"verifiers": {"a": "  "}}, "verifiers.a is empty"),
        ({"verifiers": {"a": "echo 'x"}}, "No closing quotation"),
        ({"verifiers": {"a@1": "true", "a@2": "true"}}, "there twice"),
        ({"verifier_timeout": "0s"}, "greater than"),
    ],
)
def test_what_cannot_be_done_is_refused(rewards: Any, words: str) -> None:
    """When the file is read, not when the first episode comes."""
    with pytest.raises(ValueError, match=words):
        Config(scenario="s", rewards=rewards)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/v1",
        "http://localhost:1/v1",
        "https://[::1]/v1",
        "http://127.9.9.9/v1",
    ],
)
def test_a_judge_on_this_machine_needs_no_leave(url: str) -> None:
    """Attempts stay where they are."""
    judge: Any = {"url": url}
    assert Config(scenario="s", judge=judge).judge.url == url


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"url": "https://api.example/v1"}, "another machine.*allow_remote"),
        ({"url": "http://api.example/v1", "allow_remote": True}, "expected https"),
        ({"url": "https://me:secret@api.example/v1", "allow_remote": True}, "without user"),
        ({"url": "https://:secret@api.example/v1", "allow_remote": True}, "without user"),
        ({"url": "ftp://127.0.0.1/v1"}, "expected http"),
        ({"url": "http://127.0.0.1:x/v1"}, "url"),
        ({"url": "http://127.0.0.1.example/v1"}, "another machine"),
        ({"group_size": 1}, "cannot be ranked"),
        ({"votes": 0}, "greater than"),
    ],
)
def test_a_judge_that_must_not_be_asked_is_refused(judge: Any, words: str) -> None:
    """Attempts leave this machine only over https, and only when the operator says so."""
    with pytest.raises(ValueError, match=words):
        Config(scenario="s", judge=judge)


def test_a_remote_judge_over_https_may_be_allowed() -> None:
    """By one key of its own."""
    judge: Any = {"url": "https://api.example/v1", "allow_remote": True}
    assert Config(scenario="s", judge=judge).judge.allow_remote


def test_a_verifier_may_have_a_version() -> None:
    """Its newer verdicts undo its older ones."""
    assert split_name("tests@2.1") == ("tests", "2.1")
    assert split_name("tests") == ("tests", None)
