"""The config's word becomes an applier."""

from pathlib import Path
from typing import Any

import pytest

from honed.appliers import (
    FolderApplier,
    LlamaServerApplier,
    NoApplier,
    OllamaApplier,
    RuntimeLoraApplier,
    chosen_applier,
)
from honed.config import Config
from honed.errors import ApplyError, ConfigError
from tests.own_servers import VllmServer, published

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("kind", "server", "expected"),
    [
        ("none", {}, NoApplier),
        ("llama_server", {}, LlamaServerApplier),
        ("vllm", {}, RuntimeLoraApplier),
        ("sglang", {}, RuntimeLoraApplier),
        ("ollama", {"from_model": "qwen3:0.6b"}, OllamaApplier),
        ("folder", {"folder": "/srv/adapters"}, FolderApplier),
    ],
)
def test_each_kind_has_its_applier(
    tmp_path: Path, kind: str, server: dict[str, Any], expected: type
) -> None:
    """Making one asks nobody anything."""
    config = Config(scenario="airline", data_dir=tmp_path, apply={"kind": kind}, server=server)
    assert isinstance(chosen_applier(config, None), expected)


async def test_the_key_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never from the file; an empty one is a mistake."""
    fake = VllmServer()
    monkeypatch.setenv("HONED_SERVER_KEY", "s3cret")
    async with fake.open() as server:
        config = Config(
            scenario="airline",
            data_dir=tmp_path,
            apply={"kind": "vllm"},
            server={"url": server.url},
        )
        assert await chosen_applier(config, None).current() is None
        assert fake.keys == ["Bearer s3cret"]
    with pytest.raises(ApplyError, match="nobody answers as vLLM"):
        await chosen_applier(config, None).current()
    monkeypatch.setenv("HONED_SERVER_KEY", " ")
    with pytest.raises(ConfigError, match="HONED_SERVER_KEY is empty"):
        chosen_applier(config, None)


async def test_agents_of_other_users_may_read_where_to_ask(tmp_path: Path) -> None:
    """Where the config says; it holds no secret."""
    fake = VllmServer()
    file = tmp_path / "shared" / "airline.json"
    async with fake.open() as server:
        config = Config(
            scenario="airline",
            data_dir=tmp_path,
            apply={"kind": "vllm"},
            server={"url": server.url, "endpoint": file},
        )
        await chosen_applier(config, None).apply(published(config.adapters_dir, 1), previous=None)
    assert b'"model":"airline@1"' in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o644
