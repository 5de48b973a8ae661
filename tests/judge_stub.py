"""A server that answers as OpenAI's chat completions are documented, with whatever a test wants it to say."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """What the stub sends; `hangs` sends nothing until the stub is closed."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012
    hangs: bool = False


Says = Callable[[dict[str, Any], int], Reply]
"""The request's body and its number, from 1, to a reply."""


def saying(content: str | None) -> Reply:
    """A chat completion with this text."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "stub",
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
    return Reply(body=json.dumps(body).encode())


def scoring(score: float, reason: str = "because") -> Reply:
    """A judge's answer in the form that honed asks for."""
    verdict = "success" if score >= 0.5 else "failure"
    return saying(json.dumps({"score": score, "verdict": verdict, "reason": reason}))


def failing(status: int, **headers: str) -> Reply:
    """An error as OpenAI sends them."""
    error = {"message": "no", "type": "server_error", "param": None, "code": None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": error}).encode(), named)


HANGS = Reply(hangs=True)


class JudgeStub:
    """The server's side: what it was asked, and what it says next."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_now = 0
        self.num_most = 0
        """The most requests that it had at a time."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self.url = ""

    def take(self, request: dict[str, Any], headers: dict[str, str]) -> Reply:
        """Note a request; what to answer."""
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            number = len(self.requests)
            self.num_now += 1
            self.num_most = max(self.num_most, self.num_now)
        try:
            return self.says(request, number)
        finally:
            with self._lock:
                self.num_now -= 1

    @property
    def shown(self) -> list[str]:
        """What the judge was shown in each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


@contextlib.contextmanager
def judge_stub(says: Says, port: int = 0) -> Iterator[JudgeStub]:
    """A stub that listens on loopback while the context is open."""
    stub = JudgeStub(says)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path != "/v1/chat/completions":
                self._send(failing(404))
                return
            reply = stub.take(json.loads(body), dict(self.headers))
            if reply.hangs:
                stub.closing.wait(60)
                self.close_connection = True
                return
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        stub.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
