"""The redactor: a line in, the line with placeholders out, or nothing when there is nothing to hide.

Three looks, each only after the one before it found something:

1. one `re2.Set` of all wide forms over the raw line (`pattern` says why that is enough); where many lines come at once,
   one search for all of them together, which says on which lines to look (`suspects`);
2. the same over the decoded strings, joined, where the line has an escape that may hide something;
3. string by string: the same once more, then the tight forms of the patterns that matched, and their checks.

The tight forms are no `Set`: some begin with long runs of any letter, and their common automaton outgrows
every bound (measured: 50 us and not 3 for each event, and 70 MiB).

What any pattern found is gone: findings that overlap are replaced as one, named after the pattern that
comes first in the table. Everything else in the line stays as it was sent, byte by byte.

**Placeholders.** `[SECRET:aws_key:1]`, `[PERSONAL:email:2]`: numbered for each kind and line, in order of first
appearance; equal text gets the same number. A line alone decides, so a repeated line gives the same bytes
in any process. Numbers that the line holds already (it may quote what was redacted before) are left out.

**Fields that join events** (`JOINING`) would fall apart under numbers that start anew in each line. There
the whole value becomes `[PERSONAL:email:9f3a6c01d27be845]`, its keyed hash: equal in all events of a data folder,
and nothing to guess from without the key. `redacted_id` gives the same for a value that somebody asks for.
"""

import difflib
import hashlib
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec
import re2

from honed.errors import ConfigError, ValidationError
from honed.redaction.pattern import Pattern, options
from honed.redaction.strings import JsonString, check_syntax, joined, strings
from honed.redaction.table import DEFAULT_KINDS, KINDS, PATTERNS

JOINING: Final = frozenset(
    (b"event_id", b"task_id", b"group_id", b"parent_task_id", b"session_id", b"receipt_id", b"user", b"agent")
)  # fmt: skip
"""Keys whose values tie events together, at any depth."""
_ESCAPED: Final = r"\\[u/]"
"""Escapes under which any character may hide."""
_NEVER: Final = r"[^\x00-\x{10FFFF}]"
_SET_MEMORY: Final = 16 << 20
_AT_ONCE: Final = 256 << 10
"""Bytes of lines that one search goes over; it copies them once."""
_PLACEHOLDER: Final = re.compile(
    rb"\[(?:SECRET|PERSONAL):([a-z0-9_]{1,24}):([0-9]{1,6}|[0-9a-f]{16})\]"
)


_ENDS_KEY: Final = re.compile(rb'(\\*")\s*:\s*\Z')
_ENDS_NUMBER: Final = re.compile(rb"\s*[,}]")


class Redacted(NamedTuple):
    """A line from which something was taken out."""

    line: bytes
    counts: Mapping[str, int]
    """Replacements by kind."""


class _Finding(NamedTuple):
    start: int
    end: int
    rank: int
    """Index of the pattern; the lowest names what overlaps."""


class Redactor:
    """Takes what the patterns find out of lines; keeps no state between them.

    Args:
        kinds: which of the table's kinds to look for.
        own: patterns of the operator (`own_pattern`).
        secret: keys the hashes in joining fields, at most 64 bytes; one for each data folder.

    Raises:
        ConfigError: a kind is unknown, or two patterns have one name.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[str] = DEFAULT_KINDS,
        own: Sequence[Pattern] = (),
        secret: bytes,
    ) -> None:
        chosen = set(kinds)
        for kind in sorted(chosen.difference(KINDS)):
            near = difflib.get_close_matches(kind, KINDS, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
            raise ConfigError(f"redaction: unknown kind {kind!r}", advice=advice)
        names = Counter(pattern.kind for pattern in own)
        for name, count in names.items():
            if count > 1:
                raise ConfigError(f"redaction: found {count} patterns called {name}, expected one")
        self._patterns = (*(p for p in PATTERNS if p.kind in chosen), *own)
        self._secret = secret
        self._always = [rank for rank, p in enumerate(self._patterns) if p.wide is None]
        self._wide = re2.Set.SearchSet(options(max_mem=_SET_MEMORY))
        for pattern in self._patterns:
            self._wide.Add((_NEVER if pattern.wide is None else pattern.wide).encode())
        self._escaped = self._wide.Add(_ESCAPED.encode())
        self._wide.Compile()
        looked_for = [p.wide for p in self._patterns if p.wide is not None]
        search = options(max_mem=_SET_MEMORY)
        search.longest_match = True  # fewer states: the order of the alternatives does not count
        search.never_capture = True
        self._any = re2.compile(
            "|".join(f"(?:{wide})" for wide in (*looked_for, _ESCAPED)).encode(), search
        )
        self._tight: dict[int, re2._Regexp] = {}
        """By rank, compiled when first needed."""

    def suspects(self, lines: Sequence[bytes]) -> set[int]:
        """Positions of the lines that may hold something; `redact` has the last word on them, and None for all others.

        One search over many lines: `Set.Match` for each lets go of the interpreter lock each time, and the writer's
        thread takes it (measured, on tmpfs: 55 thousand events a second, and 65 thousand with the search).
        """
        if self._always:
            return set(range(len(lines)))
        found: set[int] = set()
        first = size = 0
        for position, line in enumerate(lines):
            size += len(line)
            if size >= _AT_ONCE or position == len(lines) - 1:
                found.update(self._suspects(lines[first : position + 1], first))
                first, size = position + 1, 0
        return found

    def _suspects(self, lines: Sequence[bytes], first: int) -> Iterator[int]:
        text = b"\n".join(lines)
        # A line break is an edge of a word as the line's own end is, and no wide form has an anchor.
        ends: list[int] = []
        position = 0
        while (found := self._any.search(text, position)) is not None:
            start, stop = found.span()
            ends = ends or list(accumulate(len(line) + 1 for line in lines))
            line, last = bisect_right(ends, start), bisect_right(ends, stop - 1)
            yield from range(first + line, first + last + 1)
            position = ends[last]
            if position >= len(text):
                break

    def redact(self, line: bytes) -> Redacted | None:
        """The line without what should not be kept; None when it can be kept as it is.

        Raises:
            ValidationError: the line may hold something, but is not JSON in UTF-8.
        """
        hits = self._wide.Match(line)
        if hits is None and not self._always:
            return None
        if hits is None or self._escaped in hits:
            hits = self._wide.Match(joined(line))
            if hits is None and not self._always:
                return None
        else:
            check_syntax(line)
        return self._replace(line, hits or ())

    def redacted_id(self, value: str) -> str:
        """What a joining field with this value is stored as; the value itself if it may be kept.

        For whoever asks by an id from outside: a verdict, a query, an order to forget.
        """
        line = msgspec.json.encode({"task_id": value})
        redacted = self.redact(line)
        if redacted is None:
            return value
        stored: str = msgspec.json.decode(redacted.line)["task_id"]
        return stored

    def _replace(self, line: bytes, hits: Sequence[int]) -> Redacted | None:
        numbers = _Numbers(line)
        counts: Counter[str] = Counter()
        pieces: list[bytes] = []
        done = 0
        fields = [rank for rank in hits if rank != self._escaped and self._patterns[rank].is_field]
        for string in strings(line):
            findings = self._findings(string, fields)
            if not findings:
                continue
            findings = _merged(findings)
            if string.key in JOINING:
                text = self._hashed(string.text, self._patterns[findings[0].rank])
                counts[self._patterns[findings[0].rank].kind] += 1
            else:
                text = self._numbered(string.text, findings, numbers)
                counts.update(self._patterns[finding.rank].kind for finding in findings)
            pieces += (line[done : string.start], _encoded(text))
            done = string.end
        if not pieces:
            return None
        return Redacted(b"".join(pieces) + line[done:], dict(counts))

    def _findings(self, string: JsonString, fields: Sequence[int]) -> list[_Finding]:
        text = string.text
        found: list[_Finding] = []
        holes = [hole.span() for hole in _PLACEHOLDER.finditer(text)] if b"[" in text else []
        if string.key is not None and not holes:
            found += (
                _Finding(0, len(text), rank) for rank in fields if self._is_field(rank, string)
            )
        if not string.is_number:
            for rank in (*(self._wide.Match(b"\n" + text) or ()), *self._always):
                if rank != self._escaped and not self._patterns[rank].is_field:
                    found += (
                        _Finding(start, end, rank)
                        for start, end in _spans(
                            self._patterns[rank], self._tight_form(rank), text, holes
                        )
                    )
        return found

    def _is_field(self, rank: int, string: JsonString) -> bool:
        """Whether the key says what the value is, and the value looks like it."""
        pattern = self._patterns[rank]
        if string.is_number and pattern.kind != "card":
            return False
        assert string.key is not None
        assert pattern.check is not None
        return (
            self._tight_form(rank).search(string.key) is not None
            and pattern.check(string.text, 0, len(string.text)) is not None
        )

    def _tight_form(self, rank: int) -> re2._Regexp:
        if (compiled := self._tight.get(rank)) is None:
            pattern = self._patterns[rank]
            expression = rf"(?:{pattern.tight})\z" if pattern.is_field else pattern.tight
            compiled = self._tight[rank] = re2.compile(expression.encode(), options())
        return compiled

    def _numbered(self, text: bytes, findings: Sequence[_Finding], numbers: "_Numbers") -> bytes:
        pieces: list[bytes] = []
        done = 0
        for start, end, rank in findings:
            pattern = self._patterns[rank]
            number = numbers.of(pattern.kind, text[start:end])
            quote = _quote_of_number(text, start, end)
            pieces += (text[done:start], quote, _placeholder(pattern, str(number)), quote)
            done = end
        return b"".join(pieces) + text[done:]

    def _hashed(self, text: bytes, pattern: Pattern) -> bytes:
        digest = hashlib.blake2b(text, digest_size=8, key=self._secret, person=b"honed.redaction")
        return _placeholder(pattern, digest.hexdigest())


class _Numbers:
    """The numbers of one line's placeholders."""

    def __init__(self, line: bytes) -> None:
        self._taken = set(_PLACEHOLDER.findall(line))
        self._known: dict[tuple[str, bytes], int] = {}
        self._last: Counter[str] = Counter()

    def of(self, kind: str, text: bytes) -> int:
        if (number := self._known.get((kind, text))) is None:
            self._last[kind] += 1
            while (kind.encode(), b"%d" % self._last[kind]) in self._taken:
                self._last[kind] += 1
            number = self._known[kind, text] = self._last[kind]
        return number


def _spans(
    pattern: Pattern, tight: re2._Regexp, text: bytes, holes: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Where the pattern finds something that touches no placeholder."""
    position = 0
    while position <= len(text) and (found := tight.search(text, position)) is not None:
        start, stop = found.span(tight.groups)
        if start < 0:
            start, stop = found.span()
        end = stop if pattern.check is None else pattern.check(text, start, stop)
        if end is None or end <= start:
            position = start + 1 if pattern.rescans else max(stop, start + 1)
        elif (hole_end := _touched(holes, start, end)) is not None:
            position = max(hole_end, start + 1)
        else:
            yield start, end
            position = end


def _touched(holes: Sequence[tuple[int, int]], start: int, end: int) -> int | None:
    """The end of the last placeholder that the span touches."""
    index = bisect_left(holes, (end, 0)) - 1
    return holes[index][1] if index >= 0 and holes[index][1] > start else None


def _merged(findings: Iterable[_Finding]) -> list[_Finding]:
    merged: list[_Finding] = []
    for finding in sorted(findings):
        if merged and finding.start < merged[-1].end:
            last = merged.pop()
            finding = _Finding(last.start, max(last.end, finding.end), min(last.rank, finding.rank))
        merged.append(finding)
    return merged


def _quote_of_number(text: bytes, start: int, end: int) -> bytes:
    """What makes a text of a finding that is a number in JSON inside a string, at whatever depth; else nothing.

    `{"card": 4111111111111111}` as a tool's arguments has to stay JSON.
    """
    if not text[start:end].isdigit() or _ENDS_NUMBER.match(text, end) is None:
        return b""
    key = _ENDS_KEY.search(text, max(0, start - 16), start)
    return b"" if key is None else key[1]


def _placeholder(pattern: Pattern, number: str) -> bytes:
    return f"[{pattern.group}:{pattern.kind}:{number}]".encode()


def _encoded(text: bytes) -> bytes:
    try:
        return msgspec.json.encode(text.decode())
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"the line is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
