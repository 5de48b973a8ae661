"""Servers that cannot run here, as their documentation says that they answer: vLLM, SGLang, Ollama.

Real HTTP on real sockets. What they know of adapters they read from the folders and files that they are given, and they
answer with the log-probabilities of its fingerprint. Nothing here was compared with the servers themselves.
"""

import hashlib
import json
import math
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from honed.adapter_files import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS, adapter_digest
from honed.domain.fingerprint import (
    FINGERPRINT_FILE,
    Fingerprint,
    FingerprintPrompt,
    read_fingerprint,
)
from honed.domain.trained_model import TrainedModel
from honed.listen import listen_on, serving
from honed.own_servers import Server

BASE = "Qwen/Qwen3-0.6B"
SCENARIO = "airline"
_VOCABULARY = 64
_PROMPTS = 1

Handler = Callable[[Request], Awaitable[Response]]


# ------------------------------------------------------------ adapters


def published(adapters: Path, number: int) -> TrainedModel:
    """A published adapter with a fingerprint; its weights are a few bytes, which no server here loads."""
    model_id = f"{SCENARIO}@{number}"
    folder = adapters / model_id
    folder.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_GGUF):
        (folder / name).write_bytes(f"{name} of {model_id}".encode())
    (folder / FINGERPRINT_FILE).write_bytes(msgspec.json.encode(fingerprint(number)))
    return TrainedModel(
        id=model_id,
        scenario=SCENARIO,
        run_id=f"run-{number}",
        base_model=BASE,
        learn_model="chat",
        method="sft",
        adapter_path=str(folder),
        gguf_path=str(folder / ADAPTER_GGUF),
        digest=adapter_digest(folder),
        data_digest="",
        episode_ids=(),
        sample_count=1,
        created_at_ms=0,
    )


def fingerprint(number: int) -> Fingerprint:
    """That of adapter `number`: the same base, other answers."""
    return Fingerprint(
        vocab_size=_VOCABULARY, prompts=tuple(_prompt(at, number) for at in range(_PROMPTS))
    )


def _prompt(at: int, number: int) -> FingerprintPrompt:
    base_logits = [2 * random.Random(f"base {at} {id}").gauss(0, 1) for id in range(_VOCABULARY)]
    moved = [
        logit + random.Random(f"{number} {at} {id}").gauss(0, 1)
        for id, logit in enumerate(base_logits)
    ]
    return FingerprintPrompt(
        prompt_ids=(1, 2, 3 + at),
        token_ids=tuple(range(_VOCABULARY)),
        base=_log_softmax(base_logits),
        adapter=_log_softmax(moved),
    )


def _log_softmax(logits: list[float]) -> tuple[float, ...]:
    total = math.log(sum(math.exp(logit) for logit in logits))
    return tuple(logit - total for logit in logits)


# ------------------------------------------------------------ what all of them have


class OwnServer:
    """A server with faults that a test may plant; use `open` and `server`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """`METHOD path` of every request."""
        self.keys: list[str | None] = []
        self.faults: dict[str, Handler] = {}
        """Path to what is answered there instead."""
        self.url = ""
        self.key: str | None = None
        """What it asks for (`--api-key`)."""
        self.weights: dict[str, str] = {}
        """Adapter's name to its weights, as they were when it was loaded."""
        self.in_use: Counter[str] = Counter()
        """Answers that are being given, by the adapter's name."""
        self.dropped_in_use: list[str] = []
        """Names of adapters that were unloaded while somebody was answered by them."""
        self.chats: list[dict[str, Any]] = []
        """Bodies of the chats that it was asked for."""
        self.gate: anyio.Event | None = None
        """What answers wait for before their last words."""
        self._released = anyio.Event()

    def routes(self) -> list[Route]:
        raise NotImplementedError

    @asynccontextmanager
    async def open(self, path: Path | None = None, *, port: int = 0) -> AsyncIterator[Server]:
        """Listen on a port, 0 is a free one, or on the unix socket `path`."""
        if path is None:
            listener = listen_on("127.0.0.1", port)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            listener.setblocking(False)
            self.url = f"unix:{path}"
        async with serving(self._app(), listener, drain_s=1):
            try:
                yield self.server()
            finally:
                self._released.set()

    def server(self, *, timeout_s: float = 60, key: str | None = None) -> Server:
        """How an applier speaks to it."""
        return Server(type(self).__name__, self.url, key=key, timeout=timedelta(seconds=timeout_s))

    def _app(self) -> Any:
        inner = Starlette(routes=self.routes())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            self.asked.append(f"{scope['method']} {scope['path']}")
            self.keys.append(request.headers.get("authorization"))
            if self.key and scope["path"] != "/health" and self.keys[-1] != f"Bearer {self.key}":
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
            if (fault := self.faults.get(scope["path"])) is None:
                await inner(scope, receive, send)
                return
            try:
                response = await fault(request)
            except Gone:
                headers = [(b"content-length", b"100")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                return  # without an end: the connection is cut
            await response(scope, receive, send)

        return app

    def restart(self) -> None:
        """Forget what was loaded, as a new process has."""
        self.weights.clear()

    async def _health(self, request: Request) -> Response:
        return Response()

    def _loaded(self, name: str, path: str) -> None:
        self.weights[name] = (Path(path) / ADAPTER_WEIGHTS).read_text()

    def _drop(self, name: str) -> None:
        if self.in_use[name]:
            self.dropped_in_use.append(name)
        self.weights.pop(name, None)

    def _said(self, body: dict[str, Any], name: str | None, weights: str) -> Response:
        """An answer that tells the weights that give it, streamed or not."""
        self.chats.append(body)
        whole = {"id": "c-1", "object": "chat.completion", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

        async def chunks() -> AsyncIterator[bytes]:
            with self._using(name):
                for delta in ({"role": "assistant", "content": ""}, {"content": weights[:3]}):
                    yield _chunk(whole, delta)
                await self._wait()
                yield _chunk(whole, {"content": weights[3:]})
                yield _chunk(whole, {}, finish_reason="stop")
                yield b"data: [DONE]\n\n"

        if body.get("stream"):
            return StreamingResponse(chunks(), media_type="text/event-stream")
        message = {"role": "assistant", "content": weights, "tool_calls": [], "reasoning": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(whole | {"choices": [choice], "usage": usage})

    @contextmanager
    def _using(self, name: str | None) -> Iterator[None]:
        self.in_use[name or ""] += 1
        try:
            yield
        finally:
            self.in_use[name or ""] -= 1

    async def _wait(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()

    async def hang(self, request: Request) -> Response:
        """A fault: no answer while the server runs."""
        await self._released.wait()
        return Response(status_code=503)


class Gone(Exception):
    """Raised in a fault: the server's process ends in the middle of its answer."""


def _chunk(whole: dict[str, Any], delta: dict[str, str], **more: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": more.get("finish_reason")}
    chunk = whole | {"object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def gone(request: Request) -> Response:
    """A fault: the process ends while it answers."""
    raise Gone


# ------------------------------------------------------------ vLLM


class VllmServer(OwnServer):
    """vLLM with `--enable-lora`.

    Documentation: "LoRA Adapters" (docs/features/lora.md), sections "Dynamically serving LoRA Adapters" and "LoRA model
    lineage in model card"; "OpenAI-Compatible Server" for `/v1/completions`. The texts of its errors are those of
    `vllm/entrypoints/openai/models/serving.py`.
    """

    def __init__(self, *, updating: bool = True, max_logprobs: int = 20) -> None:
        super().__init__()
        self.adapters: dict[str, str] = {}
        self.updating = updating
        """VLLM_ALLOW_RUNTIME_LORA_UPDATING; without it the two paths do not exist."""
        self.max_logprobs = max_logprobs
        self.answers_as: dict[str, str | None] = {}
        """Adapter's name to the folder whose answers it gives instead of its own; None is the base."""
        self.salts: list[str | None] = []
        self.inplace: list[str] = []
        self.states: dict[tuple[str, ...], str] = {}
        """Its prefix cache, by adapter's name, salt and prompt: the weights by which states were made."""

    def restart(self) -> None:
        """Forget what was loaded, and all states."""
        super().restart()
        self.adapters.clear()
        self.states.clear()

    def routes(self) -> list[Route]:
        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
        ]
        if self.updating:
            routes += [
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
            ]
        return routes

    async def _models(self, request: Request) -> Response:
        cards: list[dict[str, Any]] = [{"id": BASE, "root": "/models/base", "parent": None}]
        cards += [
            {"id": name, "root": path, "parent": BASE} for name, path in self.adapters.items()
        ]
        data = [{"object": "model", "created": 0, "owned_by": "vllm"} | card for card in cards]
        return JSONResponse({"object": "list", "data": data})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if body.get("load_inplace"):
            self.inplace.append(name)
        elif name in self.adapters:
            return _vllm_error(
                400,
                "InvalidUserInput",
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True.",
            )
        if not (Path(path) / ADAPTER_CONFIG).is_file():
            return _vllm_error(
                404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}"
            )
        self.adapters[name] = path
        self._loaded(name, path)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in self.adapters:
            return _vllm_error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        self._drop(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        name = body["model"]
        if name != BASE and name not in self.adapters:
            return _vllm_error(404, "NotFoundError", f"The model `{name}` does not exist.")
        prompt = json.dumps(body["messages"])
        states = (name, body.get("cache_salt") or "", prompt)
        weights = self.states.setdefault(states, self.weights.get(name, "base"))
        return self._said(body, name, weights)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        name = body["model"]
        if name != BASE and name not in self.adapters:
            return _vllm_error(404, "NotFoundError", f"The model `{name}` does not exist.")
        if body["logprobs"] > self.max_logprobs:
            return _vllm_error(
                400,
                "BadRequestError",
                f"Requested sample logprobs of {body['logprobs']}, which is greater than max allowed: "
                f"{self.max_logprobs}",
            )
        self.salts.append(body.get("cache_salt"))
        path = self.answers_as.get(name, self.adapters.get(name))
        values = logprobs_of(path, tuple(body["prompt"]))
        likeliest = sorted(values, key=values.__getitem__, reverse=True)[: body["logprobs"]]
        assert body["return_tokens_as_token_ids"]
        top = {f"token_id:{id}": values[id] for id in likeliest}
        return JSONResponse(
            {
                "object": "text_completion",
                "model": name,
                "choices": [{"index": 0, "text": "a", "logprobs": {"top_logprobs": [top]}}],
            }
        )


def _vllm_error(status: int, type: str, message: str) -> Response:
    error = {"message": message, "type": type, "param": None, "code": status}
    return JSONResponse({"error": error}, status)


def logprobs_of(path: str | None, prompt_ids: tuple[int, ...]) -> dict[int, float]:
    """What the base (None), or the adapter in this folder, answers."""
    known = fingerprint(0) if path is None else read_fingerprint(Path(path))
    prompt = next(prompt for prompt in known.prompts if prompt.prompt_ids == prompt_ids)
    values = prompt.base if path is None else prompt.adapter
    return dict(zip(prompt.token_ids, values, strict=True))


# ------------------------------------------------------------ SGLang


class SglangServer(OwnServer):
    """SGLang with `--enable-lora`.

    Documentation: "LoRA Serving", section "Dynamic LoRA loading"; "SGLang Native APIs" for `/generate`. An answer to
    loading is {success, error_message, loaded_adapters}, with status 400 where `success` is false
    (`python/sglang/srt/entrypoints/http_server.py`).
    """

    def __init__(self, *, max_loaded: int = 8) -> None:
        super().__init__()
        self.adapters: dict[str, str] = {}
        self.max_loaded = max_loaded
        self.answers_as: dict[str, str | None] = {}
        """Adapter's name to the folder whose answers it gives instead of its own; None is the base."""

    def restart(self) -> None:
        """Forget what was loaded."""
        super().restart()
        self.adapters.clear()

    def routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/load_lora_adapter", self._load, methods=["POST"]),
            Route("/unload_lora_adapter", self._unload, methods=["POST"]),
            Route("/generate", self._generate, methods=["POST"]),
        ]

    async def _models(self, request: Request) -> Response:
        cards: list[dict[str, Any]] = [{"id": BASE, "root": BASE, "max_model_len": 4096}]
        cards += [
            {"id": name, "root": path, "parent": BASE} for name, path in self.adapters.items()
        ]
        data = [{"object": "model", "created": 0, "owned_by": "sglang"} | card for card in cards]
        return JSONResponse({"object": "list", "data": data})

    def _told(self, error: str = "") -> Response:
        body = {"success": not error, "error_message": error, "loaded_adapters": self.adapters}
        return JSONResponse(body, 400 if error else 200)

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return self._told(f"LoRA with name {name} already exists.")
        if len(self.adapters) >= self.max_loaded:
            return self._told(f"Maximum number of LoRA adapters ({self.max_loaded}) loaded.")
        if not (Path(path) / ADAPTER_CONFIG).is_file():
            return self._told(f"Failed to load LoRA adapter {name}: {path} does not exist")
        self.adapters[name] = path
        self._loaded(name, path)
        return self._told()

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return self._told(f"LoRA with name {name} does not exist.")
        self._drop(name)
        return self._told()

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        base, _, named = body["model"].partition(":")
        name = named or body.get("lora_path")
        if base != BASE or (name and name not in self.adapters):
            message = f"The following requested LoRA adapters are not loaded: {name}"
            error = {"object": "error", "message": message, "type": "BadRequestError", "code": 400}
            return JSONResponse(error, 400)
        return self._said(body, name, self.weights[name] if name else "base")

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        name = body.get("lora_path")
        if name and name not in self.adapters:
            return JSONResponse({"error": {"message": f"LoRA {name} is not loaded"}}, 400)
        if "text" in body:
            return JSONResponse({"text": self.weights[name] if name else "base", "meta_info": {}})
        path = self.answers_as.get(name, self.adapters[name]) if name else None
        values = logprobs_of(path, tuple(body["input_ids"]))
        assert body["return_logprob"]
        told = [[values[id], id, None] for id in body["token_ids_logprob"]]
        return JSONResponse({"text": "a", "meta_info": {"output_token_ids_logprobs": [told]}})


# ------------------------------------------------------------ Ollama


class OllamaServer(OwnServer):
    """Ollama with one base model.

    Documentation: docs/api.md, sections "Create a Model", "Check if a Blob Exists", "Push a Blob", "Show Model
    Information", "Copy a Model", "List Local Models", "Delete a Model" and "Generate a completion" ("Load a model").
    """

    base = "qwen3:0.6b"

    def __init__(self, *, architecture: str = "qwen3", template: str = "", stops: str = "") -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {
            self.base: {
                "template": template,
                "parameters": stops,
                "architecture": architecture,
                "adapter": None,
            }
        }
        self.loaded: list[str] = []
        self.drops_adapters = False
        """Makes the model without what it was asked to hold."""
        self.fits = True
        """Whether adapters fit the base."""

    def routes(self) -> list[Route]:
        return [
            Route("/api/blobs/{digest}", self._blob, methods=["HEAD", "POST"]),
            Route("/api/create", self._create, methods=["POST"]),
            Route("/api/show", self._show, methods=["POST"]),
            Route("/api/copy", self._copy, methods=["POST"]),
            Route("/api/tags", self._tags),
            Route("/api/delete", self._delete, methods=["DELETE"]),
            Route("/api/generate", self._generate, methods=["POST"]),
        ]

    async def _blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if request.method == "HEAD":
            return Response(status_code=200 if digest in self.blobs else 404)
        content = await request.body()
        if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
            return JSONResponse({"error": "digest mismatch"}, 400)
        self.blobs[digest] = content
        return Response(status_code=201)

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        if "@" in body["model"]:
            return JSONResponse({"error": "invalid model name"}, 400)
        source = self.models.get(_latest(body["from"]))
        if source is None:
            return JSONResponse({"error": "pull model manifest: file does not exist"}, 500)
        ((_, digest),) = body["adapters"].items()
        if digest not in self.blobs:
            return JSONResponse({"error": f"blob {digest} not found"}, 400)
        made = dict(source, adapter=None if self.drops_adapters else digest)
        if stop := body.get("parameters", {}).get("stop"):
            made["parameters"] = "\n".join(f"{'stop':<30} {json.dumps(word)}" for word in stop)
        self.models[_latest(body["model"])] = made
        assert body["stream"] is False
        return JSONResponse({"status": "success"})

    async def _show(self, request: Request) -> Response:
        name = (await request.json())["model"]
        model = self.models.get(_latest(name))
        if model is None:
            return JSONResponse({"error": f"model '{name}' not found"}, 404)
        lines = [
            '# Modelfile generated by "ollama show"',
            "FROM /root/.ollama/models/blobs/sha256-1",
        ]
        if model["adapter"]:
            blob = model["adapter"].replace(":", "-")
            lines.append(f"ADAPTER /root/.ollama/models/blobs/{blob}")
        return JSONResponse(
            {
                "modelfile": "\n".join(lines),
                "parameters": model["parameters"],
                "template": model["template"],
                "model_info": {"general.architecture": model["architecture"]},
            }
        )

    async def _copy(self, request: Request) -> Response:
        body = await request.json()
        source = self.models.get(_latest(body["source"]))
        if source is None:
            return JSONResponse({"error": f"model '{body['source']}' not found"}, 404)
        self.models[_latest(body["destination"])] = source
        return Response()

    async def _tags(self, request: Request) -> Response:
        models = [
            {"name": name, "model": name, "digest": _digest(model), "size": 1}
            for name, model in self.models.items()
        ]
        return JSONResponse({"models": models})

    async def _delete(self, request: Request) -> Response:
        name = _latest((await request.json())["model"])
        if self.models.pop(name, None) is None:
            return JSONResponse({"error": f"model '{name}' not found"}, 404)
        return Response()

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        assert "prompt" not in body, "without one the model is loaded, and nothing is made"
        if not self.fits:
            return JSONResponse({"error": "llama runner process has terminated"}, 500)
        self.loaded.append(body["model"])
        return JSONResponse({"model": body["model"], "done": True, "done_reason": "load"})

    def adapter_of(self, name: str) -> str | None:
        """The blob of a model's adapter."""
        adapter: str | None = self.models[_latest(name)]["adapter"]
        return adapter


def _latest(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _digest(model: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
