"""Functions that verify, for the tests: imported by the process in which verifiers run."""

import os
import time
from typing import Any


def length(episode: dict[str, Any]) -> Any:
    """The length of the answer over ten; prints, which must disturb nobody."""
    print("thinking")  # noqa: T201
    answer = episode["records"][0]["response_message"]["content"]
    if answer == "raise":
        raise ValueError("no such answer")
    if answer == "die":
        os._exit(3)
    if answer == "hang":
        time.sleep(600)
    if answer == "huge":
        return "x" * 100_000
    if answer == "odd":
        return {"type": "maybe"}
    if answer == "pid":
        return {"outcome": {"type": "success"}, "comment": str(os.getpid()), "version": "7"}
    return len(answer) / 10
