"""Rulings on made-up canaries: what decides, what only holds, and how often it errs (benchmarks/canary.py in small)."""

import math

import pytest
from benchmarks.canary import CASES, Case, simulate

from honed.statistics.canary import Arm, Looks, Ruling, Sample, next_look, rule
from honed.statistics.sequential import Share

MAX = 1_000


def _ruled(live: Arm, candidate: Arm, looks: Looks | None = None, **more: bool) -> Ruling:
    is_shadow = more.get("is_shadow", False)
    return rule(live, candidate, looks or {}, max_tasks=MAX, is_shadow=is_shadow)


def _work(num: int, *, seconds: float = 2.0, chars: float = 400.0, tools: float = 3.0) -> Arm:
    """So many tasks, done as is told, with a spread of two thirds."""
    return Arm(
        latency=Sample(num, math.log(seconds), 0.4),
        length=Sample(num, math.log1p(chars), 0.4),
        tools=Sample(num, tools, 2.0),
    )


def test_a_candidate_that_fails_every_task_goes_at_the_first_look() -> None:
    """Twenty tasks of each are enough."""
    found = _ruled(Arm(Share(14, 20)), Arm(Share(0, 20)))
    assert found.decision == "roll_back"
    assert found.reason.startswith("fewer tasks done: 0.0% of 20 against 70.0% of 20, p ")
    assert _ruled(Arm(Share(14, 19)), Arm(Share(0, 19))).decision == "watch"


def test_between_two_looks_nothing_is_decided() -> None:
    """However often it is asked: what was looked at is not looked at again."""
    first = _ruled(Arm(Share(14, 20)), Arm(Share(10, 20)))
    assert (first.decision, [look.num for look in first.looks["worse"]]) == ("watch", [20])
    again = _ruled(Arm(Share(28, 39)), Arm(Share(0, 39)), first.looks)
    assert (again.decision, again.looks) == ("watch", first.looks)
    later = _ruled(Arm(Share(28, 40)), Arm(Share(0, 40)), first.looks)
    assert later.decision == "roll_back"


def test_a_better_candidate_is_promoted_from_the_third_look_on() -> None:
    """Before, there is too little to see how the work is done."""
    early = _ruled(Arm(Share(10, 40)), Arm(Share(38, 40)))
    assert early.decision == "watch"
    found = _ruled(Arm(Share(30, 80)), Arm(Share(70, 80)), early.looks)
    assert found.decision == "promote"
    assert found.reason.startswith("more tasks done: 87.5% of 80 against 37.5% of 80, p ")


def test_a_candidate_that_changes_nothing_is_held_at_the_end() -> None:
    """Not worse is no reason to promote it: a person decides."""
    found = _ruled(Arm(Share(700, MAX)), Arm(Share(701, MAX)))
    assert (found.decision, found.reason) == (
        "hold",
        "neither better nor worse: 70.1% of 1000 tasks done against 70.0% of 1000",
    )
    assert next_look(found.looks, max_tasks=MAX, is_shadow=False) is None
    after = _ruled(Arm(Share(1400, 2000)), Arm(Share(0, 2000)), found.looks)
    assert after.decision == "hold", "all of the error is spent"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chars": 120}, "shorter answers: 120 characters against 400"),
        ({"chars": 1_000}, "longer answers: 1e+03 characters against 400"),
        ({"tools": 0.4}, "fewer tool calls: 0.4 for a task against 3"),
        ({"tools": 8}, "more tool calls: 8 for a task against 3"),
    ],
)
def test_work_that_is_done_otherwise_holds_a_promotion(change: dict[str, float], told: str) -> None:
    """More tasks are done, but look how."""
    live = _work(80)._replace(success=Share(30, 80))
    candidate = _work(80, **change)._replace(success=Share(70, 80))
    found = _ruled(live, candidate)
    assert found.decision == "hold"
    assert found.reason.endswith(f"; but {told}")
    brief = _work(80, chars=250, tools=2)._replace(success=Share(70, 80))
    assert _ruled(live, brief).decision == "promote"


def test_a_candidate_that_takes_longer_is_rolled_back() -> None:
    """From half as long again on, and looked at only when there is twice as much to see."""
    found = _ruled(_work(40), _work(40, seconds=4))
    assert (found.decision, found.reason) == (
        "roll_back",
        "slower: the model takes 4 s against 2 s for a typical task",
    )
    assert _ruled(_work(40), _work(40, seconds=2.5)).decision == "watch"
    seen = _ruled(_work(40), _work(40)).looks
    assert _ruled(_work(79), _work(79, seconds=9), seen).decision == "watch"
    assert _ruled(_work(80), _work(80, seconds=9), seen).decision == "roll_back"


def test_a_candidate_whose_requests_fail_is_rolled_back() -> None:
    """Also while nobody has said how a task ended."""
    live = Arm(errors=Share(2, 900))
    found = _ruled(live, Arm(errors=Share(9, 100)))
    assert found.decision == "roll_back"
    assert found.reason.startswith("more requests failed: 9.0% of 100 against 0.2% of 900, p ")
    assert _ruled(live, Arm(errors=Share(1, 100))).decision == "watch"
    assert _ruled(Arm(errors=Share(80, 900)), Arm(errors=Share(9, 100))).decision == "watch"


def test_a_shadow_is_never_promoted() -> None:
    """Nobody acts on its answers, so no success is its own; it is held when enough was seen, or rolled back."""
    live, shadow = (_work(MAX)._replace(success=Share(hits, MAX)) for hits in (100, 900))
    found = _ruled(live, shadow, is_shadow=True)
    assert (found.decision, found.reason) == (
        "hold",
        "no more errors and no longer waits than what serves",
    )
    assert _ruled(_work(500), _work(500), is_shadow=True).decision == "watch"
    changed = _ruled(_work(MAX), _work(MAX, tools=0), is_shadow=True)
    assert changed.reason.endswith("; fewer tool calls: 0 for a task against 3")
    slow = _ruled(_work(40), _work(40, seconds=9), is_shadow=True)
    assert slow.decision == "roll_back"


SHORT = [case for case in CASES if case.within]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: f"{case.name} {case.share}")
def test_harm_is_seen_in_time(case: Case) -> None:
    """Twenty-five candidates of each kind of benchmarks/canary.py, the same each time: none is promoted."""
    found = simulate(case, num=25, seed=5, ask_every=4)
    assert found.share_wrong == 0
    assert found.share_found >= case.at_least - 0.08


def test_a_change_of_nothing_is_seldom_taken_for_one() -> None:
    """Of twenty candidates that are what serves, none is promoted, and at most one is rolled back."""
    found = simulate(CASES[0], num=20, seed=5, ask_every=40)
    assert found.num("promote") == 0
    assert found.num("roll_back") <= 1
    assert found.num("hold") >= 19


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.share}")
def test_what_is_promised_holds_for_many(case: Case) -> None:
    """Five hundred of each, asked after every task."""
    found = simulate(case, num=500, seed=2)
    assert found.share_wrong <= (0.05 if case.success >= 0.7 else 0)
    assert found.share_found >= case.at_least - 0.01


@pytest.mark.parametrize(("told", "how"), [(57, "fewer"), (98, "more")])
def test_verdicts_that_come_otherwise_hold_a_promotion(told: int, how: str) -> None:
    """Of one version only its successes may be told, and of the other one all."""
    live = _work(80)._replace(success=Share(30, 80), told=Share(80, 100))
    candidate = _work(80)._replace(success=Share(70, 80), told=Share(told, 100))
    found = _ruled(live, candidate)
    assert (found.decision, f"; but {how} verdicts: of {told}.0% of 100 tasks" in found.reason) == (
        "hold",
        True,
    )
    alike = candidate._replace(told=Share(86, 100))
    assert _ruled(live, alike).decision == "promote"


def test_lower_scores_are_harm_where_success_is_alike() -> None:
    """By a tenth of what a task can be worth, and beyond chance."""
    live = _work(80)._replace(success=Share(80, 80), scores=Sample(80, 0.8, 0.04))
    for mean, decision in ((0.6, "roll_back"), (0.72, "watch"), (0.95, "watch")):
        candidate = _work(80)._replace(success=Share(80, 80), scores=Sample(80, mean, 0.04))
        assert _ruled(live, candidate).decision == decision
    vague = _work(80)._replace(success=Share(80, 80), scores=Sample(80, 0.69, 0.2))
    assert _ruled(live, vague).decision == "watch"
