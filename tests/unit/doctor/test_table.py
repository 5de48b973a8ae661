"""The report is complete and in order, whatever one check does."""

import threading

import pytest

from honed.config import load_config
from honed.doctor.finding import Found, fail, ok, together, warn
from honed.doctor.patient import Once, Patient
from honed.doctor.table import CHECKS, Check, examine
from honed.errors import StoreError


def _broken(patient: Patient) -> Found:
    raise ZeroDivisionError("oh")


def _refused(patient: Patient) -> Found:
    raise StoreError("it is gone", advice="bring it back")


def test_a_check_that_hangs_or_breaks_takes_no_other_along() -> None:
    """Each becomes a failure that says so; the others answer, in the order of the table."""
    release = threading.Event()

    def hangs(patient: Patient) -> Found:
        release.wait(30)
        return ok("late")

    checks = (
        Check("hangs", hangs, limit_s=0.1),
        Check("breaks", _broken),
        Check("refuses", _refused),
        Check("works", lambda patient: ok("fine")),
    )
    found = list(examine(load_config(scenario="a"), checks))
    release.set()
    assert [(each.check, each.status) for each in found] == [
        ("hangs", "fail"),
        ("breaks", "fail"),
        ("refuses", "fail"),
        ("works", "ok"),
    ]
    assert "no answer within 0.1 s" in found[0].found
    assert "ZeroDivisionError: oh" in found[1].found
    assert (found[2].found, found[2].advice) == ("it is gone", "bring it back")
    assert all(each.advice for each in found[:3])


def test_without_a_config_only_the_machine_is_looked_at() -> None:
    """Checks that need a config are left out, not failed."""
    checks = (Check("scenario", _broken), Check("machine", lambda p: ok("x"), needs_config=False))
    assert [each.check for each in examine(None, checks)] == ["machine"]


def test_names_are_unique() -> None:
    """A script finds its line by the name."""
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_several_findings_are_as_bad_as_the_worst() -> None:
    """Its words come first; all advice is kept, once."""
    found = together([ok("a"), warn("b", "do b"), fail("c", "do c"), warn("d", "do b")])
    assert found == Found("fail", "c; b; d; a", "do c; do b")


def test_what_several_checks_need_is_looked_up_once() -> None:
    """Also when it fails: every one of them is told."""
    calls: list[int] = []

    def look() -> int:
        calls.append(1)
        raise StoreError("no")

    once = Once(look)
    for _ in range(2):
        with pytest.raises(StoreError):
            once()
    assert len(calls) == 1
