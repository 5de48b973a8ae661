"""Whether a server's answers are those of an adapter: worked out from log-probabilities alone.

The worker measured what base and adapter answer to fixed prompts (`fingerprint.json`). With e the
worker's log-probabilities and s those of a server, or of two, before and after, d = e_new - e_old, and

    x = (s_new - s_old) . d / d . d

is near 1 when the server changed as the worker says it should, and near 0 when it did not change.
That alone lets another strong adapter pass (0.55 was measured), so the change must also point the
right way: the cosine between s_new - s_old and d. It is asked for only where d is well above the
noise of quantisation, which decides the direction for a weak adapter (docs/serving.md).
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from honed.domain.fingerprint import Fingerprint
from honed.errors import ProbeFailedError

ACCEPT_ABOVE: Final = 0.5
ACCEPT_BELOW: Final = 1.5
ACCEPT_COSINE: Final = 0.65
"""Measured on F32, F16, Q8_0 and Q4_0: the right adapter 0.74 and more, another one 0.48 at most."""
_LOUD: Final = 0.05
_LOUD_ALONE: Final = 1.0
"""Nats, root mean square of d, from which on upper bound and cosine are asked for. Without a former
server the whole error of a quantised base is in the way, 0.35 to 0.65 nats on Q4_0.
"""
_LEAST_DIFFERENCE: Final = 1e-4
"""Nats; two models that differ less everywhere cannot be told apart by float32 log-probabilities.
"""
_NEVER: Final = -60.0
"""Nats; what is less likely is the same as this. A server's float32 probabilities end in zero at -103, which
llama-server calls -3.4e38: one such token would outweigh all others.
"""
Answers = tuple[float, ...]
"""Log-probabilities of all prompts' tokens, in the fingerprint's order, nats."""


class Proof(NamedTuple):
    """What a probe found."""

    x: float
    """1: changed as expected; 0: not changed."""
    cosine: float
    """1: changed in the expected direction, however far."""
    expected: float
    """How far the answers should have moved, root mean square, nats."""
    is_relative: bool
    """Whether the former server's answers were at hand; without them quantisation counts as change.
    """

    @property
    def is_accepted(self) -> bool:
        """Whether the server serves what it should."""
        if self.expected < (_LOUD if self.is_relative else _LOUD_ALONE):
            return self.x > ACCEPT_ABOVE
        return ACCEPT_ABOVE < self.x < ACCEPT_BELOW and self.cosine > ACCEPT_COSINE

    def facts(self) -> dict[str, float | bool]:
        """For the log."""
        return {
            "x": round(self.x, 3),
            "cosine": round(self.cosine, 3),
            "expected_nats": round(self.expected, 4),
            "is_relative": self.is_relative,
        }


def compare(
    new: Fingerprint | None, old: Fingerprint | None, s_new: Answers, s_old: Answers | None
) -> Proof:
    """Compare what two servers answer with what the worker says.

    Args:
        new: of the adapter that should answer now; None is the bare base.
        old: of the adapter that answered before; None is the bare base. One of the two is given.
        s_new: the new server's answers to the prompts of `new` (of `old` when `new` is None).
        s_old: the old server's answers to the same prompts; None when they are not to be had.

    Raises:
        ProbeFailedError: nothing that the worker measured tells the two apart.
    """
    asked = new or old
    assert asked is not None
    s_new = _audible(s_new)
    s_old = _audible(s_old) if s_old is not None else None
    e_base = _joined([prompt.base for prompt in asked.prompts])
    e_new = _joined([prompt.adapter for prompt in asked.prompts]) if new else e_base
    e_old = e_base
    if old is not None and ask_the_same(asked, old):
        e_old = _joined([prompt.adapter for prompt in old.prompts])
    elif old is not None:
        s_old = None
    if new is not None and (s_old is None or not _differ(e_new, e_old)):
        # Nothing served before, or nothing that compares: the worker's values for the base stand
        # in.
        e_old, s_old = e_base, None
    if not _differ(e_new, e_old):
        raise ProbeFailedError(
            "the probe cannot tell the adapter from the model before it: "
            f"their log-probabilities differ by less than {_LEAST_DIFFERENCE} nats everywhere"
        )
    d = [a - b for a, b in zip(e_new, e_old, strict=True)]
    moved = [a - b for a, b in zip(s_new, s_old or e_old, strict=True)]
    product = sum(a * b for a, b in zip(moved, d, strict=True))
    length, moved_length = math.hypot(*d), math.hypot(*moved)
    return Proof(
        x=product / length**2,
        cosine=product / (length * moved_length) if moved_length else 0.0,
        expected=length / math.sqrt(len(d)),
        is_relative=s_old is not None,
    )


def strength(fingerprint: Fingerprint) -> float:
    """How far the adapter's answers are from those of its base, as the worker measured them; root mean square, nats."""
    return distance(
        _joined([prompt.adapter for prompt in fingerprint.prompts]),
        _joined([prompt.base for prompt in fingerprint.prompts]),
    )


def distance(one: Answers, other: Answers) -> float:
    """Between two answers to the same prompts; root mean square, nats."""
    return math.dist(_audible(one), _audible(other)) / math.sqrt(len(one))


def _joined(parts: Sequence[Answers]) -> Answers:
    return _audible([value for part in parts for value in part])


def _audible(values: Sequence[float]) -> Answers:
    return tuple(max(value, _NEVER) for value in values)


def ask_the_same(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints have the same prompts and tokens, so that their answers line up."""
    return [(p.prompt_ids, p.token_ids) for p in one.prompts] == [
        (p.prompt_ids, p.token_ids) for p in other.prompts
    ]


def _differ(one: Answers, other: Answers) -> bool:
    return any(abs(a - b) > _LEAST_DIFFERENCE for a, b in zip(one, other, strict=True))
