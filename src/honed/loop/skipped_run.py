"""A run that ends before it begins: rejected in review, or ordered where nothing is trained."""

from honed.domain.run import Run
from honed.domain.times import now_ms
from honed.loop.orders import RunOrder
from honed.ports import Review


def skipped_run(asked: RunOrder | Review, *, scenario: str, learn_model: str, message: str) -> Run:
    """The run as it is written down; of a review with the id under which it waited."""
    at_ms = now_ms()
    return Run(
        id=asked.id,
        scenario=scenario,
        learn_model=learn_model,
        state="skipped",
        started_at_ms=at_ms,
        ended_at_ms=at_ms,
        reason=asked.reason,
        selection=asked.selection,
        review_id=asked.id if isinstance(asked, Review) else None,
        message=message,
    )
