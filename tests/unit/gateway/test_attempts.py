"""When a server is started again."""

import pytest

from honed.errors import BaseMismatchError, ServerStartError
from honed.gateway import attempts
from honed.gateway.attempts import Attempts

FAULT = ServerStartError("it did not start")
OTHER = BaseMismatchError("another base model")


def test_waits_grow_to_a_limit_and_begin_anew() -> None:
    """From a moment to half a minute; what is started for another reason is tried at once."""
    tried = Attempts()
    waits = [tried.wait_after(FAULT) for _ in range(10)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    tried.begin_anew()
    assert tried.wait_after(FAULT) == 0.2


def test_server_of_the_operators_own_is_asked_for_every_5_s() -> None:
    """Asking costs nothing, and it may be back at any time."""
    tried = Attempts(is_ours=False)
    assert [tried.wait_after(FAULT) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_hope_ends_with_the_third_failure_and_comes_back_with_a_server() -> None:
    """One or two may pass; a server of another base model does not by itself."""
    tried = Attempts()
    told = []
    for _ in range(3):
        tried.failed(FAULT)
        told.append(tried.are_hopeless)
    assert told == [False, False, True]
    tried.served()
    assert not tried.are_hopeless
    tried.failed(OTHER)
    assert tried.are_hopeless
    assert tried.wait_after(OTHER) == attempts.MISMATCH_WAIT_S
    tried.begin_anew()
    assert not tried.are_hopeless


def test_server_that_dies_at_once_is_not_started_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes up and dies is tried ever later, up to 5 s; one that lived is replaced at once."""
    tried = Attempts()
    tried.served()
    assert [tried.wait_after_death() for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    monkeypatch.setattr(attempts, "LIVED_S", 0.0)
    assert tried.wait_after_death() == 0.0
    monkeypatch.undo()
    assert tried.wait_after_death() == 0.2
