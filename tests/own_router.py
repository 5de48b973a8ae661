"""llama-server's router, as its documentation says that it answers: models from a presets file, a process for each.

Documentation: tools/server/README.md of llama.cpp b11434, "Using multiple models"; what an error says is that of
tools/server/server-models.cpp. What a model answers is read from the adapter's folder, as in `tests/own_servers.py`.
"""

import configparser
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.own_servers import OwnServer, logprobs_of

_LETTER = 7
TEXT = "what each conversation is rendered as"


class RouterServer(OwnServer):
    """`llama-server --models-preset FILE --models-max N`."""

    def __init__(self, presets: Path, *, max_models: int = 4) -> None:
        super().__init__()
        self.presets = presets
        self.max_models = max_models
        self.models: dict[str, dict[str, str]] = {}
        """The settings of each, as they were when the file was read last."""
        self.status: dict[str, dict[str, Any]] = {}
        self.processes: list[str] = []
        """Names, by when a process was started."""
        self.cannot_load: set[str] = set()
        self.loading: anyio.Event | None = None
        """What loading waits for."""
        self.answers_as: dict[str, Path | None] = {}
        """Model's name to the adapter's folder whose answers it gives instead of its own; None is the base."""
        self.read()

    def read(self) -> None:
        """Read the file; a model that runs and is not in it as it was ends."""
        parser = configparser.RawConfigParser(
            delimiters=["="], comment_prefixes=[";", "#"], inline_comment_prefixes=[";", "#"]
        )
        parser.read_string("[file]\n" + self.presets.read_text())
        found = {
            name: dict(parser[name]) for name in parser.sections() if name not in ("file", "*")
        }
        for name in list(self.models):
            if found.get(name) != self.models[name]:
                self.end(name)
            if name not in found:
                del self.models[name], self.status[name]
        for name, settings in found.items():
            assert "model" in settings
            self.models[name] = settings
            self.status.setdefault(name, {"value": "unloaded"})

    def end(self, name: str, **how: Any) -> None:
        """End the process of a model."""
        self._drop(name)
        self.status[name] = {"value": "unloaded"} | how

    def restart(self) -> None:
        """As a new process: nothing is loaded."""
        super().restart()
        self.models, self.status = {}, {}
        self.read()

    def folder_of(self, name: str) -> Path | None:
        """The adapter's folder."""
        adapter = self.models[name].get("lora")
        return Path(adapter).parent if adapter else None

    @property
    def loaded(self) -> set[str]:
        return {name for name, status in self.status.items() if status["value"] == "loaded"}

    def routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/props", self._props),
            Route("/models", self._models),
            Route("/models/load", self._load, methods=["POST"]),
            Route("/models/unload", self._unload, methods=["POST"]),
            Route("/lora-adapters", self._loras),
            Route("/metrics", self._metrics),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/apply-template", self._apply_template, methods=["POST"]),
            Route("/completion", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]

    async def _props(self, request: Request) -> Response:
        return JSONResponse({"role": "router", "max_instances": self.max_models})

    async def _models(self, request: Request) -> Response:
        if request.query_params.get("reload"):
            self.read()
        data = [
            {"id": name, "object": "model", "status": status}
            for name, status in self.status.items()
        ]
        return JSONResponse({"data": data, "object": "list"})

    async def _load(self, request: Request) -> Response:
        name = (await request.json())["model"]
        if name not in self.models:
            return _error(404, "model is not found")
        if self.status[name]["value"] != "unloaded":
            return _error(400, "model is already running")
        running = [name for name, status in self.status.items() if status["value"] != "unloaded"]
        if len(running) >= self.max_models:
            self.end(running[0])  # the one that was asked longest ago
        self.processes.append(name)
        self.status[name] = {"value": "loading", "args": ["llama-server"]}
        if self.loading is None:
            self.come_up(name)
        return JSONResponse({"success": True})

    def come_up(self, name: str) -> None:
        """A model that loads has loaded, or cannot be."""
        if name in self.cannot_load:
            self.end(name, failed=True, exit_code=1)
            return
        folder = self.folder_of(name)
        self.weights[name] = (folder / "adapter.gguf").read_text() if folder else "base"
        self.status[name] = {"value": "loaded", "args": ["llama-server"]}

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["model"]
        if name not in self.models:
            return _error(400, "model is not found")
        if self.status[name]["value"] == "unloaded":
            return _error(400, "model is not running")
        self.end(name)
        return JSONResponse({"success": True})

    def _asked(self, name: str | None) -> Response | None:
        """Why a model does not answer; one that is not loaded is."""
        if not name:
            return _error(400, "model name is missing from the request")
        if name not in self.models:
            return _error(400, f"model '{name}' not found")
        if self.status[name]["value"] != "loaded":
            self.processes.append(name)
            self.come_up(name)
        return None

    async def _loras(self, request: Request) -> Response:
        name = request.query_params.get("model", "")
        if refusal := self._asked(name):
            return refusal
        lora = self.models[name].get("lora")
        return JSONResponse([{"id": 0, "path": lora, "scale": 1.0}] if lora else [])

    async def _metrics(self, request: Request) -> Response:
        if refusal := self._asked(request.query_params.get("model")):
            return refusal
        return PlainTextResponse("llamacpp:tokens_predicted_total 750\n")

    async def _tokenize(self, request: Request) -> Response:
        return self._asked((await request.json()).get("model")) or JSONResponse(
            {"tokens": [_LETTER]}
        )

    async def _apply_template(self, request: Request) -> Response:
        return self._asked((await request.json()).get("model")) or JSONResponse({"prompt": TEXT})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if refusal := self._asked(body.get("model")):
            return refusal
        name = body["model"]
        folder = self.answers_as.get(name, self.folder_of(name))
        values = logprobs_of(str(folder) if folder else None, tuple(body["prompt"]))
        top = [{"id": id, "logprob": value} for id, value in values.items()]
        return JSONResponse({"completion_probabilities": [{"top_logprobs": top}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if refusal := self._asked(body.get("model")):
            return refusal
        assert "lora" not in body
        return self._said(body, body["model"], self.weights[body["model"]])


def _error(status: int, message: str) -> Response:
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return JSONResponse({"error": {"code": status, "message": message, "type": kind}}, status)
