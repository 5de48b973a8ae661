"""The demo: the whole loop on a tiny model, with nothing faked between its parts."""

from honed.demo.result import DemoResult
from honed.demo.run import run_demo

__all__ = ["DemoResult", "run_demo"]
