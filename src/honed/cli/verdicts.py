"""What `honed status` says of verifiers, the judge, and alarms."""

from collections.abc import Iterator
from typing import Any

_COUNTS = {
    "told": "verdicts",
    "silent": "without one",
    "failed": "failed",
    "undecided": "undecided",
    "garbage": "unreadable answers",
    "retries": "retries",
    "timeouts": "timeouts",
}


def lines(rewards: dict[str, Any] | None) -> Iterator[str]:
    """The lines of the section; none where nobody is asked and nothing is suspicious."""
    if not rewards:
        return
    for source, found in rewards["asked"].items():
        yield f"asked       {source}: {_counts(found)}"
        if found["problem"]:
            yield f"            cannot be asked: {found['problem']}"
        if found["last_failure"]:
            yield f"            failed last on {found['last_failure']}"
    for source, found in rewards["agreement"].items():
        yield f"agreement   {_agreement(source, found)}"
    for alarm in rewards["alarms"]:
        yield f"suspicious  {alarm}"


def _counts(found: dict[str, Any]) -> str:
    told = [f"{found[name]} {words}" for name, words in _COUNTS.items() if found.get(name)]
    if found.get("vote_agreement") is not None and found.get("votes", 0) > found["told"]:
        told.append(f"votes agree {found['vote_agreement']:.2f}")
    return ", ".join(told) or "nothing yet"


def _agreement(source: str, found: dict[str, Any]) -> str:
    kappa = "" if found["kappa"] is None else f" (kappa {found['kappa']:.2f})"
    return (
        f"{source} agrees with the others on {found['share']:.0%} of {found['num']} episodes{kappa}: "
        f"{found['both_success']} both success, {found['both_failure']} both failure, "
        f"{found['judge_alone']} success for the judge alone, {found['others_alone']} for the others alone"
    )
