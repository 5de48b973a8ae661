"""A llama-server as somebody runs it himself: `python -m tests.own_llama PORT BASE [ADAPTER...]`, until SIGTERM.

Its only line is its address. With adapters they are loaded and not applied. `--cache-ram MIB` and `--api-key KEY` are
llama-server's; `--loads` adds the two routes of llama.cpp's pull request 22061 in front of a server that has all
adapters: `POST /lora-adapters/load` ({"path", "scale"} -> {"id", "scale"}, 400 without a path) and `/unload` ({"id"} ->
{"success"}), an unloaded one stays in the list with scale 0. As the pull request's own tests say
(tools/server/tests/unit/test_lora.py).
"""

import argparse
import asyncio
import json
import signal
import sys
import threading
from typing import Any

import httpx
import xllamacpp


def run(arguments: argparse.Namespace) -> None:
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames = arguments.base, ["127.0.0.1"]
    params.port = 0 if arguments.loads else arguments.port
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(each, 0.0) for each in arguments.adapters
    ]
    params.lora_init_without_apply = True
    params.n_ctx, params.n_parallel, params.verbosity = 512, 2, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.ui, params.fit_params = False, False
    params.cache_ram_mib = arguments.cache_ram
    params.api_keys = arguments.api_key
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    if arguments.loads:
        front = Loading(server.listening_address, arguments.adapters)
        threading.Thread(
            target=lambda: asyncio.run(front.serve(arguments.port)), daemon=True
        ).start()
    else:
        tell(server.listening_address)
    stop.wait()
    del server


class Loading:
    """Passes everything on, but for the adapters: the list shows those that were loaded, by ids of its own."""

    def __init__(self, address: str, files: list[str]) -> None:
        self.address = address
        self.files = files
        self.loaded: list[str | None] = []
        self.paths: list[str] = []

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self.answer, "127.0.0.1", port)
        tell("http://127.0.0.1:{}".format(*server.sockets[0].getsockname()[1:]))
        async with server:
            await server.serve_forever()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *headers = head.strip().split("\r\n")
            method, path, _ = line.split()
            length = next(
                (int(h.split(":")[1]) for h in headers if h.lower().startswith("content-l")), 0
            )
            body = await reader.readexactly(length)
            # without TLS: making its context takes longer than the answer
            async with httpx.AsyncClient(
                base_url=self.address, timeout=60, verify=False, trust_env=False
            ) as client:
                status, answer = await self.respond(client, method, path, body)
            writer.write(
                b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (status, len(answer), answer)
            )
            await writer.drain()
        finally:
            writer.close()

    async def respond(
        self, client: httpx.AsyncClient, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        order: Any = json.loads(body) if body else None
        match method, path:
            case "POST", "/lora-adapters/load":
                if "path" not in order:
                    return 400, b'{"error": {"message": "path is required"}}'
                self.loaded.append(order["path"])
                self.paths.append(order["path"])
                return self.json({"id": len(self.loaded) - 1, "scale": order.get("scale", 1.0)})
            case "POST", "/lora-adapters/unload":
                self.loaded[order["id"]] = None
                return self.json({"success": True})
            case "POST", "/lora-adapters":
                applied = {self.loaded[each["id"]]: each["scale"] for each in order}
                scales = [
                    {"id": number, "scale": applied.get(file, 0.0)}
                    for number, file in enumerate(self.files)
                ]
                return self.json((await client.post(path, json=scales)).json())
            case "GET", "/lora-adapters":
                found = (await client.get(path)).json()
                scales = {each["path"]: each["scale"] for each in found}
                return self.json(
                    [
                        {
                            "id": number,
                            "path": self.paths[number],
                            "scale": scales[file] if file else 0.0,
                        }
                        for number, file in enumerate(self.loaded)
                    ]
                )
        answer = await client.request(method, path, content=body)
        return answer.status_code, answer.content

    def json(self, value: Any) -> tuple[int, bytes]:
        return 200, json.dumps(value).encode()


def tell(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("base")
    parser.add_argument("adapters", nargs="*")
    parser.add_argument("--cache-ram", type=int, default=8192)
    parser.add_argument("--api-key", action="append", default=[])
    parser.add_argument("--loads", action="store_true")
    run(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
