"""Whether a candidate is better than the adapter in service: evidence from held-out episodes.

`contrast` decides, `statistics` holds the tests and intervals it rests on. docs/gate.md says what a
pass proves and what it does not.
"""

from honed.gate.contrast import OutcomeGate

__all__ = ["OutcomeGate"]
