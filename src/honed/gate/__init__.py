"""Whether a candidate is better than the adapter in service: evidence from held-out episodes.

`held_out_gate` decides. What it rests on: `measures` says what tells better from worse, `chance` and `estimates` hold
the tests and intervals, `looks` what repeated looks cost, `slices` what may not become worse, `metrics` what users
measure themselves. docs/gate.md says what a pass proves and what it does not.
"""

from honed.gate.held_out_gate import HeldOutGate
from honed.gate.metrics import load_metrics

__all__ = ["HeldOutGate", "load_metrics"]
