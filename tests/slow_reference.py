"""Which rows a swarm's events should give: read from the events alone, slowly and in the plainest way.

Nothing of honed is used here. What it says is the documentation: docs/data.md, docs/learning.md, docs/gate.md.
"""

import hashlib
import json
import re
from typing import Any, NamedTuple

Event = dict[str, Any]
Row = dict[str, Any]


class Attempt(NamedTuple):
    """The events of one attempt, each once, in order of arrival."""

    calls: list[Event]
    outcomes: list[Event]


class Expected(NamedTuple):
    """What the files should hold."""

    training: list[Row]
    held_out: list[tuple[Row, bool]]
    """With whether it is a success."""


def expected(events: list[Event], *, secret: bytes, fraction: float, min_score: float) -> Expected:
    """The rows of the training file and of the held-out file, in any order."""
    sides: dict[bool, list[tuple[Row, int, bool | None, bool]]] = {True: [], False: []}
    for attempt in attempts(events):
        if not all(e.get("train", True) for e in attempt.calls + attempt.outcomes):
            continue
        row = longest(attempt.calls)
        if row is None:
            continue
        outcome = standing(attempt.outcomes)
        began = min(call["timestamp_ms"] for call in attempt.calls)
        is_success = None if outcome is None else outcome["type"] == "success"
        is_good = bool(is_success and outcome and outcome["score"] >= min_score)
        is_held_out = position(attempt, secret) < fraction
        sides[is_held_out].append((row, began, is_success, is_good))
    training = [(row, began) for row, began, _, is_good in sides[False] if is_good]
    texts = Texts([row for row, _ in training])
    kept = [
        entry
        for entry in sides[True]
        if not any(training[near][1] < entry[1] for near in texts.near(entry[0]))
    ]
    held_out_texts = Texts([entry[0] for entry in kept])
    return Expected(
        [row for row, _ in training if not held_out_texts.near(row)],
        [(row, is_success) for row, _, is_success, _ in kept if is_success is not None],
    )


def attempts(events: list[Event]) -> list[Attempt]:
    """Real work only, by task, else session; what comes again is the same event."""
    seen: set[str] = set()
    by_name: dict[str, Attempt] = {}
    by_receipt: dict[str, str] = {}
    for event in events:
        known_by = event.get("event_id") or f"event {len(seen)}"
        if known_by in seen or event.get("purpose", "work") != "work":
            continue
        seen.add(known_by)
        name = (
            event.get("task_id") or event.get("session_id") or by_receipt.get(event["receipt_id"])
        )
        if name is None:
            continue
        attempt = by_name.setdefault(name, Attempt([], []))
        if event["type"] == "llm_call":
            attempt.calls.append(event)
            by_receipt[event["receipt_id"]] = name
        else:
            attempt.outcomes.append(event)
    return [attempt for attempt in by_name.values() if attempt.calls]


def standing(outcomes: list[Event]) -> Event | None:
    """The newest, without those of an older version of a judge that has a newer one."""
    newest = max((told.get("version", "") for told in outcomes), default="")
    valid = [told for told in outcomes if told.get("version", newest) == newest]
    return valid[-1]["outcome"] if valid else None


def position(attempt: Attempt, secret: bytes) -> float:
    call = attempt.calls[0]
    key = call.get("group_id") or call.get("task_id") or f"session:{call['session_id']}"
    digest = hashlib.blake2b(key.encode(), key=secret).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


# ------------------------------------------------------------ conversations


def longest(calls: list[Event]) -> Row | None:
    """The longest conversation of an attempt with a turn to imitate; of equal ones that which began later.

    A turn is told by all that was said up to it, and is as the first call has it that says so much.
    """
    calls = [call for call in calls if not call.get("error")]
    refused = [said(c["response_message"]) for c in calls if c.get("trust") == "untrusted"]
    turns: dict[str, tuple[Row, bool]] = {}
    paths: list[list[str]] = []
    for call in calls:
        path: list[str] = []
        trusted = call.get("trust", "trusted") == "trusted"
        whole = [*call["messages"], call["response_message"]]
        for i, message in enumerate(whole):
            path.append((path[-1] if path else "") + said(message))
            again = i < len(whole) - 1 and said(message) in refused
            teaches = trusted and message["role"] == "assistant" and not again
            turns.setdefault(path[-1], (message, teaches))
        paths.append(path)
    ends = [path for path in paths if not any(path[-1] in other[:-1] for other in paths)]
    ends = [path for path in ends if any(turns[step][1] for step in path[1:])]
    if not ends:
        return None

    def began(path: list[str]) -> int:
        """The first call that belongs to this conversation alone."""
        own = [
            n
            for n, other in enumerate(paths)
            if other[-1] in path and not any(other[-1] in end for end in ends if end != path)
        ]
        return min(own)

    chosen = max(ends, key=lambda path: (len(path), began(path)))
    messages = [turns[step][0] for step in chosen]
    trained = [i for i, step in enumerate(chosen) if i and turns[step][1]]
    row: Row = {"messages": [plain(message) for message in messages], "tools": calls[0]["tools"]}
    if trained != [i for i, message in enumerate(messages) if message["role"] == "assistant"]:
        row["trained_turns"] = trained
    return row


def said(message: Row) -> str:
    """What a turn says, whatever ids and spaces it comes with."""
    calls = [
        (c["function"]["name"], read(c["function"]["arguments"]))
        for c in message.get("tool_calls", [])
    ]
    return json.dumps([message["role"], (message.get("content") or "").strip(), calls])


def read(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def plain(message: Row) -> Row:
    found = {name: value for name, value in message.items() if value is not None}
    if "tool_calls" in found:
        found["tool_calls"] = [{**call, "type": "function"} for call in found["tool_calls"]]
    return found


# ------------------------------------------------------------ near-duplicates


class Texts:
    """Rows by the sequences of five words in them."""

    def __init__(self, rows: list[Row]) -> None:
        self._sets = [sequences(row) for row in rows]
        self._having: dict[str, list[int]] = {}
        for number, found in enumerate(self._sets):
            for sequence in found:
                self._having.setdefault(sequence, []).append(number)

    def near(self, row: Row) -> list[int]:
        """Those that share four fifths of all sequences of both."""
        mine = sequences(row)
        others = {number for sequence in mine for number in self._having.get(sequence, [])}
        return [n for n in others if len(mine & self._sets[n]) / len(mine | self._sets[n]) >= 0.8]


def sequences(row: Row) -> set[str]:
    words: list[str] = []
    for message in row["messages"]:
        if message["role"] == "system":
            continue
        words += re.findall(r"\w+", (message.get("content") or "").lower())
        for call in message.get("tool_calls", []):
            told = f"{call['function']['name']} {call['function']['arguments']}"
            words += re.findall(r"\w+", told.lower())
    return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)} or {" ".join(words)}
