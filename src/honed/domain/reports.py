"""One call that several have reported: the gateway, the client and a trace may all tell of it.

Reports are of one call when they name the same receipt, or the same answer by the model server's id
(`response_id`). Some servers give ids that repeat, so reports by one reporter are never joined: it knows its calls.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from honed.domain.records import LlmCallRecord, Record

Reporter = Literal["gateway", "client", "otlp"]

_SPAN: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}")
_ORDER: Final[tuple[Reporter, ...]] = ("gateway", "client", "otlp")
"""Who is believed first: the gateway saw the bytes, instrumentations shorten and leave out."""


def reporter(call: LlmCallRecord) -> Reporter:
    """Who reported a call: the gateway's events are named by their receipt, those of traces by their span."""
    if call.event_id is not None and call.event_id == call.receipt_id:
        return "gateway"
    return "otlp" if _SPAN.fullmatch(call.event_id or "") else "client"


def once(records: Sequence[Record]) -> list[Record]:
    """The records with one report of each call, in their order.

    A report that keeps the call out of training, or does not trust it, is taken before one that does not say so.
    """
    calls = [record for record in records if isinstance(record, LlmCallRecord)]
    ranked = sorted(calls, key=_rank)
    kept: list[tuple[LlmCallRecord, set[Reporter]]] = []
    by_name: dict[str, list[int]] = {}
    left_out: set[int] = set()
    for call in ranked:
        who = reporter(call)
        places = [place for name in _names(call) for place in by_name.get(name, ())]
        place = next((p for p in places if who not in kept[p][1]), None)
        if place is None:
            place = len(kept)
            kept.append((call, set()))
        else:
            left_out.add(id(call))
        kept[place][1].add(who)
        for name in _names(call):
            by_name.setdefault(name, []).append(place)
    return [record for record in records if id(record) not in left_out]


def _rank(call: LlmCallRecord) -> tuple[bool, bool, int]:
    return call.train, call.trust == "trusted", _ORDER.index(reporter(call))


def _names(call: LlmCallRecord) -> Iterator[str]:
    """What the call is known by; clients and instrumentations give either id as the receipt."""
    if call.receipt_id:
        yield call.receipt_id
    if call.response_id and call.response_id != call.receipt_id:
        yield call.response_id
