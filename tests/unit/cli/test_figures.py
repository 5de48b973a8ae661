"""What several commands say alike."""

import pytest

from honed.cli.figures import naming, plain, said_by, worth
from honed.domain.outcome import Failure, Success, Timeout, Unknown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (6_123.4, "6,123"),
        (99.96, "100"),
        (12.34, "12.3"),
        (12.0, "12"),
        (1.0, "1"),
        (0.25, "0.25"),
        (0.004, "0.004"),
        (0.00001, "less than 0.001"),
        (0.0, "0"),
    ],
)
def test_numbers_have_no_exponent(number: float, shown: str) -> None:
    """However large or small."""
    assert plain(number) == shown


def test_an_unknown_outcome_has_no_score() -> None:
    """Nobody has said one; all others have theirs."""
    assert worth(Unknown()) == "unknown"
    assert [worth(o) for o in (Success(0.5), Failure("no"), Timeout(0.25), Timeout())] == [
        "success 0.50",
        "failure 0.00",
        "timeout 0.25",
        "timeout 0.00",
    ]


def test_a_verdict_without_a_name_is_unsigned() -> None:
    """Whether nobody was named or the learn model stands for the attempt itself."""
    assert said_by(None, learn_model="chat") == "unsigned"
    assert said_by("chat", "v1", learn_model="chat") == "unsigned"
    assert said_by("ann", "v1", learn_model="chat") == "ann v1"
    assert said_by("ann", learn_model="chat") == "ann"


def test_a_learn_model_is_named_as_a_shell_takes_it() -> None:
    """Its name may have brackets."""
    assert naming("chat") == " --learn-model chat"
    assert naming("dpo(chat)") == " --learn-model 'dpo(chat)'"
