"""The process in which a Python function verifies: one episode a line in, one answer a line out.

Run by its path (`python -P calling.py NAME`), it knows nothing of honed: only the standard library and what the
function itself imports. What the function prints goes to stderr; an exception is an answer of its own.
"""

import importlib
import json
import os
import sys
from importlib import metadata
from typing import Any

GROUP = "honed.verifiers"
"""The entry points that may be named instead of `package.module:function`."""


def load(name: str) -> Any:
    """The function of that name."""
    module, _, attribute = name.partition(":")
    if not attribute:
        (entry,) = metadata.entry_points(group=GROUP, name=name)
        return entry.load()
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the function prints must not look like an answer
    try:
        verify = load(sys.argv[1])
    except Exception as error:  # the parent says which verifier it was
        _say(answers, {"broken": f"{type(error).__name__}: {error}"})
        return
    _say(answers, {"ready": True})
    for line in sys.stdin:
        try:
            answer = {"answer": verify(json.loads(line))}
            text = json.dumps(answer, allow_nan=False)
        except Exception as error:  # the function's fault is this episode's alone
            text = json.dumps({"failed": f"{type(error).__name__}: {error}"[:500]})
        _say(answers, text)


def _say(answers: Any, told: Any) -> None:
    answers.write((told if isinstance(told, str) else json.dumps(told)) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
