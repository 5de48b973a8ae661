"""Clients that ask a gateway without a pause, and note of each request when it was open and what became of it."""

import contextlib
import http.client
import itertools
import json
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec

from tests.faults.dialects import DIALECTS, Dialect

TIMEOUT_S: Final = 90
_PAUSE_S: Final = 0.02
_TOKENS_MAX: Final = 64
_PART_BYTES: Final = 1 << 16

Fate = Literal["answered", "told", "cut", "refused", "wrong"]
"""Answered: whole, by the version that its header names. Told: an error in the client's dialect that says so. Cut: the
connection ended before the answer did. Refused: nobody listened. Wrong: anything else.
"""


class Asked(NamedTuple):
    """One request."""

    began_s: float
    """Before its connection was opened, or used again."""
    ended_s: float
    fate: Fate
    version: str | None = None
    """What `x-honed-model` said; None where no head came."""
    receipt: str | None = None
    why: str = ""
    is_half: bool = False
    """Whether it was cut at a place where nothing more could have been said: in a body with a length, or inside an
    event.
    """


class Clients:
    """Their requests, in the order in which they ended."""

    def __init__(self, port: int, letter_of: Callable[[str], str]) -> None:
        """Of a gateway at this port of the loopback; a version says nothing but its letter."""
        self._port = port
        self._letter_of = letter_of
        self.asked: list[Asked] = []

    @contextlib.contextmanager
    def asking(self, count: int) -> Iterator[None]:
        """So many ask until the context ends: half of them streamed; in turn all dialects; a third with a connection
        of its own for each request.
        """
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._ask_on, args=(stop, number)) for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * TIMEOUT_S)

    def answered_after(self, moment_s: float) -> Asked | None:
        """The first whole answer to a request that was begun after that moment."""
        later = (each for each in self.asked if each.fate == "answered" and each.began_s > moment_s)
        return next(later, None)

    def versions_since(self, moment_s: float) -> set[str | None]:
        """Those that have answered requests which were begun after that moment."""
        later = (each for each in self.asked if each.began_s > moment_s)
        return {each.version for each in later if each.fate == "answered"}

    def failed_since(self, moment_s: float) -> int:
        """Requests, begun after that moment, that a server had and did not answer."""
        failed = [each for each in self.asked if each.fate in ("told", "cut")]
        return sum(each.began_s > moment_s for each in failed)

    def _ask_on(self, stop: threading.Event, number: int) -> None:
        dialect, is_stream, keeps = (
            DIALECTS[number % 3],
            number % 2 == 0,
            number // 2 % 3 != 0,
        )
        chance = random.Random(number)
        with contextlib.closing(_Connection(self._port)) as connection:
            for turn in itertools.count():
                if stop.wait(_PAUSE_S):
                    return
                num = chance.randint(1, _TOKENS_MAX)
                body = dialect.ask(f"incident {chance.randrange(40)}", num)
                body |= {"temperature": 0, "stream": is_stream}
                headers = {"x-honed-task": f"{number}-{turn}"}
                self.asked.append(self._ask(connection, dialect, body, headers, num))
                if not keeps or self.asked[-1].fate != "answered":
                    connection.close()

    def _ask(
        self,
        connection: "_Connection",
        dialect: Dialect,
        body: dict[str, Any],
        headers: dict[str, str],
        num: int,
    ) -> Asked:
        began_s = time.monotonic()
        came = bytearray()
        answer: http.client.HTTPResponse | None = None
        try:
            answer = connection.post(dialect.path, body, headers)
            while chunk := answer.read1() if answer.chunked else answer.read(_PART_BYTES):
                came += chunk
            is_cut, why = answer.length not in (None, 0), "it ended early"
        except ConnectionRefusedError:
            return Asked(began_s, time.monotonic(), "refused")
        except TimeoutError as error:
            return Asked(began_s, time.monotonic(), "wrong", why=repr(error))
        except (OSError, http.client.HTTPException) as error:
            is_cut, why = True, repr(error)
        ended_s = time.monotonic()
        if answer is None:
            return Asked(began_s, ended_s, "cut", why=why)
        version, receipt = answer.headers["x-honed-model"], answer.headers["x-honed-receipt"]
        fate, said = self._fate(answer, bytes(came), dialect, num, is_cut=is_cut)
        is_half = bool(came) and not came.endswith(b"\n\n") if body["stream"] else True
        return Asked(began_s, ended_s, fate, version, receipt, said or why, is_half)

    def _fate(
        self,
        answer: http.client.HTTPResponse,
        came: bytes,
        dialect: Dialect,
        num: int,
        *,
        is_cut: bool,
    ) -> tuple[Fate, str]:
        """What became of a request whose head has come, and what speaks for it."""
        if answer.status != 200:
            is_clear = answer.status == 503 and answer.headers["retry-after"] == "1"
            is_clear = is_clear and dialect.is_error(msgspec.json.decode(came))
            return ("told" if is_clear and not is_cut else "wrong"), f"{answer.status} {came!r}"
        kind = answer.headers["content-type"]
        read = dialect.read(came, is_stream=kind.startswith("text/event-stream"))
        letter = self._letter_of(answer.headers["x-honed-model"])
        if read.text.strip(letter):
            return "wrong", f"{answer.headers['x-honed-model']} said {read.text}"
        if is_cut:
            return "cut", came[-300:].decode()
        if read.error is not None:
            return ("told" if dialect.is_error(read.error) else "wrong"), str(read.error)
        if not read.is_whole or read.text != letter * num:
            return "wrong", f"{num} tokens were asked for: {came!r}"
        return "answered", ""


class _Connection:
    """A client's connection, used again while its other end is open."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def post(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send a request; its answer, once the head is there."""
        if self._http.sock is not None and _has_ended(self._http.sock):
            self._http.close()
        content = json.dumps(body)
        self._http.request("POST", path, content, {"content-type": "application/json"} | headers)
        return self._http.getresponse()

    def close(self) -> None:
        self._http.close()


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other end has closed it; nothing else can come between two requests."""
    return bool(select.select([connection], [], [], 0)[0])
