"""What is served is the base model that is trained on, and its own adapters; the rest is refused."""

import asyncio
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from honed.adapter_files import ADAPTER_GGUF, ADAPTER_WEIGHTS, MANIFEST_FILE, adapter_digest
from honed.config import ServeSection
from honed.domain.base_facts import BaseFacts, read_facts
from honed.domain.serving import AdapterRef, LaneStatus, Registration, SwitchOrder
from honed.errors import (
    AdapterNotFoundError,
    ApplyError,
    BaseMismatchError,
    ForeignAdapterError,
    ProbeFailedError,
)
from honed.gateway import launch
from honed.gateway.adapter import see_adapter
from honed.gateway.gateway import Gateway
from honed.gateway.parity import check_server
from honed.gateway.upstream import Address
from tests.gguf_files import rewrite, value_of
from tests.unit.gateway.stub import Request, upstream

pytestmark = pytest.mark.anyio

SECTION = ServeSection(ctx_size=256, parallel=2, threads=1)
TEMPLATE = "tokenizer.chat_template"
TEMPLATES = Path(__file__).parents[2] / "templates"


def facts_of(base: Path, gguf: Path, path: Path) -> Path:
    """The facts of `base`, as if `gguf` had been compared with it."""
    from honed.worker.base_facts import write_facts

    write_facts(path, base, gguf, architecture="qwen3", quantisation="F32")
    return path


@pytest.fixture(scope="module")
def facts(tiny_base: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return facts_of(tiny_base, tiny_gguf, tmp_path_factory.mktemp("facts") / "base.facts.json")


@pytest.fixture
def published(tiny_adapters: tuple[Path, Path], facts: Path, tmp_path: Path) -> Path:
    """A copy of `tiny@1` with the manifest that the worker would have written."""
    folder = Path(shutil.copytree(tiny_adapters[0], tmp_path / "tiny@1"))
    write_manifest(folder, known(facts))
    return folder


def known(path: Path) -> BaseFacts:
    found = read_facts(path)
    assert found is not None
    return found


def write_manifest(folder: Path, facts: BaseFacts, **digests: str) -> None:
    told = {
        "adapter": adapter_digest(folder),
        "base_model": facts.digests.base_model,
        "tokenizer": facts.digests.tokenizer,
        "chat_template": facts.digests.chat_template,
    }
    manifest = {"base_model": facts.base_model, "digests": told | digests}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def order(folder: Path) -> SwitchOrder:
    """An order that brings no digest: what is known of the files is in their manifest."""
    return SwitchOrder(model_id="tiny@1", adapter_path=str(folder))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(SECTION, folder / "llama")
    async with gateway.open():
        yield gateway


async def until(gateway: Gateway, look: Callable[[LaneStatus], object]) -> LaneStatus:
    """The lane's status, once `look` likes it."""
    with anyio.fail_after(30):
        while not look(status := gateway.serving().scenarios["tiny"]):
            await anyio.sleep(0.01)
        return status


async def served(gateway: Gateway, gguf: Path, facts: Path | None) -> LaneStatus:
    await gateway.use_base("tiny", gguf, facts)
    return await until(gateway, lambda status: status.is_serving or status.error)


# ---------------------------------------------------------------- the base model


async def test_server_of_the_same_model_is_served_as_compared(
    tiny_gguf: Path, facts: Path, tmp_path: Path
) -> None:
    """Strings, conversations, tools: the server reads and renders as transformers does."""
    async with opened(tmp_path) as gateway:
        status = await served(gateway, tiny_gguf, facts)
    assert (status.is_serving, status.is_compared) == (True, True)
    assert (status.base_problem, status.error) == (None, None)


async def refused(
    tiny_base: Path, tiny_gguf: Path, folder: Path, metadata: dict[str, object]
) -> str:
    """What the lane says of a file that passed for the base model's."""
    gguf = rewrite(tiny_gguf, folder / "other.gguf", metadata=metadata)
    async with opened(folder) as gateway:
        status = await served(gateway, gguf, facts_of(tiny_base, gguf, folder / "facts.json"))
        assert (status.state, status.is_serving) == ("down", False)
        assert not list((folder / "llama").glob("*.pid"))
    assert status.base_problem == status.error
    return status.base_problem or ""


async def test_another_tokenizer_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Only the name of the pre-tokenizer differs; nothing but the tokens shows it."""
    told = await refused(tiny_base, tiny_gguf, tmp_path, {"tokenizer.ggml.pre": "default"})
    assert "tokenises" in told
    assert "otherwise than training does: token " in told
    assert ": expected " in told


async def test_another_template_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A word that only conversations with tools show."""
    template = value_of(tiny_gguf, TEMPLATE).replace("Call a tool like this", "Call it so")
    told = await refused(tiny_base, tiny_gguf, tmp_path, {TEMPLATE: template})
    assert "renders the conversation 'tools and generation prompt'" in told
    assert "expected 'a tool like this:" in told
    assert "found 'it so:" in told


async def test_template_without_its_generation_prompt_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """The end is compared too."""
    template = value_of(tiny_gguf, TEMPLATE).replace(
        "{%- if add_generation_prompt -%}", "{%- if false -%}"
    )
    told = await refused(tiny_base, tiny_gguf, tmp_path, {TEMPLATE: template})
    assert "renders the conversation 'one turn and generation prompt'" in told
    assert "expected '<|im_start|>assistant" in told
    assert "found 'the end'" in told


async def test_file_that_was_exchanged_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A checkpoint under the name of the one that was compared; a server of it is not even started."""
    gguf = Path(shutil.copy(tiny_gguf, tmp_path / "base.gguf"))
    facts = facts_of(tiny_base, gguf, tmp_path / "facts.json")
    rewrite(tiny_gguf, gguf, change=lambda name, values: values * 2)
    async with opened(tmp_path) as gateway:
        status = await served(gateway, gguf, facts)
        assert "was changed since it was compared" in (status.base_problem or "")
        assert not list((tmp_path / "llama").glob("*.log"))


async def test_base_without_facts_is_served_uncompared(tiny_gguf: Path, tmp_path: Path) -> None:
    """An older daemon tells of none; the lane says that it does not know."""
    async with opened(tmp_path) as gateway:
        status = await served(gateway, tiny_gguf, None)
        assert (status.is_serving, status.is_compared) == (True, False)


async def test_facts_that_come_later_are_held_against_what_serves(
    tiny_base: Path, tiny_gguf: Path, facts: Path, tmp_path: Path
) -> None:
    """A newer daemon registers: its facts end a server that they do not fit, and mark one that they do."""
    template = value_of(tiny_gguf, TEMPLATE).replace("<|im_start|>", "<|im_begin|>")
    gguf = rewrite(tiny_gguf, tmp_path / "other.gguf", metadata={TEMPLATE: template})
    other = facts_of(tiny_base, gguf, tmp_path / "facts.json")
    for name, base, told, is_fit in (("a", tiny_gguf, facts, True), ("b", gguf, other, False)):
        async with opened(tmp_path / name) as gateway:
            await served(gateway, base, None)
            await gateway.register("tiny", Registration(base_facts=str(told)))
            status = await until(gateway, lambda status: status.is_compared or status.error)
            assert (status.is_serving, status.base_problem is None) == (is_fit, is_fit)


async def test_facts_of_another_base_are_a_conflict(
    tiny_gguf: Path, facts: Path, tmp_path: Path
) -> None:
    """A daemon that trains on another folder than the lane was compared with cannot have it."""
    other = replace(known(facts), digests=replace(known(facts).digests, tokenizer="0" * 64))
    from msgspec.json import encode

    (tmp_path / "other.json").write_bytes(encode(other))
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        with pytest.raises(
            BaseMismatchError, match=r"another tokenizer: expected digest .*found 000"
        ):
            await gateway.register("tiny", Registration(base_facts=str(tmp_path / "other.json")))
        assert gateway.serving().scenarios["tiny"].is_serving


async def test_facts_are_remembered(tiny_gguf: Path, facts: Path, tmp_path: Path) -> None:
    """A gateway that comes back compares before anybody registers."""
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
    async with opened(tmp_path) as gateway:
        status = await until(gateway, lambda status: status.is_serving)
        assert status.is_compared


@pytest.mark.parametrize("name", ["llama-3.1", "mistral-nemo", "qwen3", "gemma-3"])
async def test_template_of_a_published_model_passes(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    """Dates, a beginning token in the text, tools in a format of its own, no system role: no false alarm."""
    from honed.worker.gguf_base import write_base

    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    shutil.copy(TEMPLATES / f"{name}.jinja", base / "chat_template.jinja")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["bos_token"] = "<|endoftext|>"
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    gguf = tmp_path / "base.gguf"
    write_base(base, gguf)
    facts = facts_of(base, gguf, tmp_path / "facts.json")
    assert ("%d %b %Y" in known(facts).conversations[0].text) == (name == "llama-3.1")
    async with opened(tmp_path) as gateway:
        status = await served(gateway, gguf, facts)
    assert (status.error, status.is_compared) == (None, True)


# ---------------------------------------------------------------- adapters


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (ADAPTER_GGUF, cut),
        (ADAPTER_WEIGHTS, cut),
        (ADAPTER_WEIGHTS, change_a_byte),
        (ADAPTER_GGUF, change_a_byte),
    ],
)
async def test_damaged_adapter_is_refused(
    tiny_gguf: Path,
    facts: Path,
    published: Path,
    tmp_path: Path,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    """Cut short, or one bit changed: the manifest knows, and what served before serves on."""
    damage(published / file)
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        with pytest.raises(AdapterNotFoundError, match="was changed after it was published"):
            await gateway.switch("tiny", order(published))
        status = gateway.serving().scenarios["tiny"]
        assert (status.is_serving, status.model_id) == (True, None)


async def test_adapter_of_the_base_is_served(
    tiny_gguf: Path, facts: Path, published: Path, tmp_path: Path
) -> None:
    """The digests in its manifest are those of the base model that is served."""
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        await gateway.switch("tiny", order(published))
        status = gateway.serving().scenarios["tiny"]
        assert (status.model_id, status.is_compared) == ("tiny@1", True)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("base_model", "base model"),
        ("tokenizer", "tokenizer"),
        ("chat_template", "chat template"),
    ],
)
async def test_adapter_of_another_base_is_refused(
    tiny_gguf: Path, facts: Path, published: Path, tmp_path: Path, name: str, what: str
) -> None:
    """Also when its files are whole and it would load: it was learned from other text or weights."""
    write_manifest(published, known(facts), **{name: "0" * 64})
    expected = f"tiny@1 was trained on another {what}: expected digest .*, found 0000"
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        with pytest.raises(ForeignAdapterError, match=expected):
            await gateway.switch("tiny", order(published))
        status = gateway.serving().scenarios["tiny"]
        assert (status.is_serving, status.model_id) == (True, None)
        assert not list((tmp_path / "llama").glob("tiny-green*"))


async def test_adapter_without_a_manifest_is_refused(
    tiny_gguf: Path, facts: Path, published: Path, tmp_path: Path
) -> None:
    """Nothing says which base model it belongs to."""
    (published / MANIFEST_FILE).unlink()
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        with pytest.raises(ForeignAdapterError, match=r"tiny@1 has no manifest\.json"):
            await gateway.switch("tiny", order(published))


async def test_first_adapter_of_another_base_is_refused(
    tiny_gguf: Path, facts: Path, published: Path, tmp_path: Path
) -> None:
    """What a registration begins with is looked at as an order is; the lane says why it is down."""
    write_manifest(published, known(facts), base_model="0" * 64)
    async with opened(tmp_path) as gateway:
        registration = Registration(
            base_gguf=str(tiny_gguf),
            base_facts=str(facts),
            adapter=AdapterRef("tiny@1", str(published)),
        )
        await gateway.register("tiny", registration)
        status = await until(gateway, lambda status: status.error)
        assert "was trained on another base model" in (status.error or "")
        assert not status.is_serving


async def test_base_that_changed_before_a_restart_is_served_without_its_adapter(
    tiny_base: Path, tiny_gguf: Path, facts: Path, published: Path, tmp_path: Path
) -> None:
    """The gateway remembers an adapter of the former base: it serves the new one bare, and refuses it."""
    async with opened(tmp_path) as gateway:
        await served(gateway, tiny_gguf, facts)
        await gateway.switch("tiny", order(published))
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"initializer_range": 0.03}))
    now = facts_of(base, tiny_gguf, tmp_path / "now.json")
    async with opened(tmp_path) as gateway:
        await gateway.use_base("tiny", tiny_gguf, now)
        status = await until(gateway, lambda status: status.is_serving)
        assert (status.model_id, status.is_compared) == (None, True)
        with pytest.raises(ForeignAdapterError, match="was trained on another base model"):
            await gateway.switch("tiny", order(published))


async def test_replaced_file_that_cannot_be_compared_any_more_is_served_uncompared(
    tiny_gguf: Path, facts: Path, tmp_path: Path
) -> None:
    """What is remembered of the former file does not refuse the new one for ever."""
    named = Path(shutil.copy2(tiny_gguf, tmp_path / "own.gguf"))
    os.utime(named, ns=(0, 0))
    async with opened(tmp_path) as gateway:
        status = await served(gateway, named, facts)
        assert "was changed since it was compared" in (status.error or "")
        status = await served(gateway, named, None)
        status = await until(gateway, lambda status: status.is_serving)
        assert (status.is_compared, status.base_problem) == (False, None)


def test_record_and_manifest_must_agree(published: Path) -> None:
    """An order with the digest of other files is refused although the manifest fits."""
    with pytest.raises(AdapterNotFoundError, match="expected 0000"):
        see_adapter(AdapterRef("tiny@1", str(published), "0" * 64))


def test_manifest_that_cannot_be_read_is_an_error(published: Path) -> None:
    """Half a manifest is not taken for none."""
    (published / MANIFEST_FILE).write_text('{"digests":')
    with pytest.raises(AdapterNotFoundError, match=r"manifest\.json cannot be read"):
        see_adapter(AdapterRef("tiny@1", str(published)))


# ---------------------------------------------------------------- servers that cannot be asked


@contextmanager
def answering(status: str) -> Iterator[Address]:
    """A server that answers everything alike."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(
                        f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
                    )

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield Address(*listener.getsockname())
        finally:  # a thread that waits on would keep a failed run from ending
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oh", "200 OK"])
async def test_server_that_cannot_be_compared_is_refused(facts: Path, status: str) -> None:
    """A llama-server from before /apply-template, or one that fails: not knowing is not passing."""
    without_strings = replace(known(facts), strings=())
    told: list[ApplyError] = []
    with answering(status) as address:
        for asked in (known(facts), without_strings):
            try:
                await check_server(address, asked)
            except ApplyError as error:
                told.append(error)
    assert len(told) == 2
    if status.startswith("404"):
        assert "newer llama-server" in (told[-1].advice or "")
    # a template that its engine cannot render stays so; whatever else fails may pass
    is_other = {"404": [True, True], "500": [False, True], "200": [False, False]}[status[:3]]
    assert [isinstance(error, BaseMismatchError) for error in told] == is_other


# ---------------------------------------------------------------- a server that cannot be asked


async def test_server_that_dies_while_it_is_compared_is_started_again(
    tiny_gguf: Path, facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be asked is no other base model: nobody has to wait for an operator."""
    killed: list[int] = []

    async def killing(address: Address, facts: BaseFacts) -> None:
        if not killed:
            [pid_file] = (tmp_path / "llama").glob("*.pid")
            killed.append(int(pid_file.read_text()))
            os.kill(killed[0], signal.SIGKILL)
        await check_server(address, facts)

    monkeypatch.setattr(launch, "check_server", killing)
    async with opened(tmp_path) as gateway:
        await gateway.use_base("tiny", tiny_gguf, facts)
        status = await until(gateway, lambda status: status.is_serving)
    assert killed
    assert (status.is_compared, status.base_problem) == (True, None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ProbeFailedError),
        (b"HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n", ProbeFailedError),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", ProbeFailedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", ProbeFailedError),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", BaseMismatchError),
    ],
)
async def test_only_a_difference_is_another_base_model(
    facts: Path, answer: bytes, error: type[ApplyError]
) -> None:
    """Silence, loading, faults and garbage pass; a server without the question never answers it."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with upstream(script) as server:
        with pytest.raises(error):
            await check_server(server.address, known(facts))
