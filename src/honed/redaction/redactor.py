"""The redactor: a line in, the line with placeholders out, or nothing when there is nothing to hide.

Three looks, each only after the one before it found something:

1. one `re2.Set` of all wide forms over the raw line (`pattern` says why that is enough);
2. one `re2.Set` of all tight forms over the decoded strings, joined;
3. the tight forms that matched, string by string, and their checks.

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
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import re2

from honed.errors import ConfigError, ValidationError
from honed.redaction.pattern import Pattern, options
from honed.redaction.strings import AFTER_KEY, JsonString, joined, strings
from honed.redaction.table import DEFAULT_KINDS, KINDS, PATTERNS

JOINING: Final = frozenset(
    (b"event_id", b"task_id", b"group_id", b"parent_task_id", b"session_id", b"receipt_id", b"user", b"agent")
)  # fmt: skip
"""Keys whose values tie events together, at any depth."""
_ESCAPED: Final = r"\\[u/]"
"""Escapes under which any character may hide."""
_PLACEHOLDER: Final = re.compile(
    rb"\[(?:SECRET|PERSONAL):([a-z0-9_]{1,24}):([0-9]{1,6}|[0-9a-f]{16})\]"
)


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
        known = tuple(pattern for pattern in PATTERNS if pattern.kind in chosen)
        self._patterns = (*known, *own)
        self._secret = secret
        self._looks_always = any(pattern.wide is None for pattern in self._patterns)
        wide = [pattern.wide for pattern in self._patterns if pattern.wide is not None]
        self._first_look = _compile_set([*wide, _ESCAPED])
        # Own patterns may hold anchors, which mean something in each string alone.
        self._second_look = _compile_set(
            [*(_in_joined(pattern) for pattern in known), *(pattern.wide or "" for pattern in own)]
        )
        self._tight = [
            re2.compile((rf"(?:{p.tight})\z" if p.is_field else p.tight).encode(), options())
            for p in self._patterns
        ]

    def redact(self, line: bytes) -> Redacted | None:
        """The line without what should not be kept; None when it can be kept as it is.

        Raises:
            ValidationError: the line may hold something, but is not JSON in UTF-8.
        """
        if self._first_look.Match(line) is None and not self._looks_always:
            return None
        ranks = self._second_look.Match(joined(line))
        return None if ranks is None else self._replace(line, ranks)

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

    def _replace(self, line: bytes, ranks: Sequence[int]) -> Redacted | None:
        numbers = _Numbers(line)
        counts: Counter[str] = Counter()
        pieces: list[bytes] = []
        done = 0
        for string in strings(line):
            findings = _merged(self._findings(string, sorted(ranks)))
            if not findings:
                continue
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

    def _findings(self, string: JsonString, ranks: Sequence[int]) -> Iterator[_Finding]:
        holes = [found.span() for found in _PLACEHOLDER.finditer(string.text)]
        for rank in ranks:
            pattern, tight = self._patterns[rank], self._tight[rank]
            if pattern.is_field:
                if string.key is None or (string.is_number and pattern.kind != "card"):
                    continue
                if (
                    tight.search(string.key) is not None
                    and pattern.check is not None
                    and pattern.check(string.text, 0, len(string.text)) is not None
                    and not holes
                ):
                    yield _Finding(0, len(string.text), rank)
            elif not string.is_number:
                for start, end in _spans(pattern, tight, string.text, holes):
                    yield _Finding(start, end, rank)

    def _numbered(self, text: bytes, findings: Sequence[_Finding], numbers: "_Numbers") -> bytes:
        pieces: list[bytes] = []
        done = 0
        for start, end, rank in findings:
            pattern = self._patterns[rank]
            number = numbers.of(pattern.kind, text[start:end])
            pieces += (text[done:start], _placeholder(pattern, str(number)))
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


def _compile_set(expressions: Iterable[str]) -> re2.Set:
    compiled = re2.Set.SearchSet(options(max_mem=32 << 20))
    for expression in expressions:
        compiled.Add(expression.encode())
    compiled.Compile()
    return compiled


def _in_joined(pattern: Pattern) -> str:
    return f"(?:{pattern.tight}){AFTER_KEY.decode()}" if pattern.is_field else pattern.tight


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


def _placeholder(pattern: Pattern, number: str) -> bytes:
    return f"[{pattern.group}:{pattern.kind}:{number}]".encode()


def _encoded(text: bytes) -> bytes:
    try:
        return msgspec.json.encode(text.decode())
    except UnicodeDecodeError as error:
        raise ValidationError(
            f"the line is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
