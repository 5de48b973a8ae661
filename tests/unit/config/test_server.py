"""The section `server`: where the operator's own server may be, and what each kind needs."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from honed.config import Config, OwnServer, ServerSection


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "http://localhost:8000/", "http://[::1]:8000", "unix:/run/vllm.sock"],
)
def test_this_machine_needs_no_leave(url: str) -> None:
    """Loopback and unix sockets."""
    assert ServerSection(url=url).url_of("vllm") == url


@pytest.mark.parametrize(
    ("url", "allow_remote", "says"),
    [
        ("http://10.0.0.7:8000", False, "another machine"),
        ("https://vllm.internal", False, "allow_remote"),
        ("http://vllm.internal:8000", True, "expected https"),
        ("http://me:pass@127.0.0.1:8000", False, "without user"),
        ("http://:pass@127.0.0.1:8000", False, "without user"),
        ("http://127.0.0.1:8000/v1", False, "expected no path, found /v1"),
        ("ftp://127.0.0.1", False, "expected http://"),
        ("http://127.0.0.1:port", False, "url: "),
        ("unix:vllm.sock", False, "unix:/PATH"),
    ],
)
def test_an_address_that_will_not_do_is_refused(url: str, allow_remote: bool, says: str) -> None:
    """The message says what was expected."""
    with pytest.raises(ValidationError, match=says):
        ServerSection(url=url, allow_remote=allow_remote)


def test_another_machine_may_be_named_on_purpose() -> None:
    """Over https."""
    assert ServerSection(url="https://vllm.internal", allow_remote=True).url is not None


@pytest.mark.parametrize(("kind", "port"), [("vllm", 8000), ("sglang", 30000), ("ollama", 11434)])
def test_each_kind_has_its_usual_address(kind: OwnServer, port: int) -> None:
    """Nothing has to be written down for it."""
    assert ServerSection().url_of(kind) == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("kind", "key"), [("ollama", "from_model"), ("folder", "folder")])
def test_what_a_kind_cannot_do_without_is_asked_for(tmp_path: Path, kind: str, key: str) -> None:
    """At load, not at the first switch."""
    with pytest.raises(ValidationError, match=f"expected server.{key} to be set"):
        Config(scenario="airline", data_dir=tmp_path, apply={"kind": kind})
    Config(scenario="airline", data_dir=tmp_path, apply={"kind": kind}, server={key: "x"})


@pytest.mark.parametrize(
    "from_model", ["qwen3", "qwen3:latest", "qwen3:8", "Qwen3", "library/qwen3:latest"]
)
def test_the_base_model_in_ollama_keeps_its_name(tmp_path: Path, from_model: str) -> None:
    """Under the scenario's name, or as one of its versions, a switch would replace or delete it."""
    told: Any = {"apply": {"kind": "ollama"}, "data_dir": tmp_path}
    with pytest.raises(ValidationError, match="the base model would be lost"):
        Config(scenario="qwen3", server={"from_model": from_model}, **told)
    Config(scenario="airline", server={"from_model": from_model}, **told)
    Config(scenario="qwen3", server={"from_model": "qwen3:0.6b"}, **told)


@pytest.mark.feature("SE-152")
def test_nothing_goes_live_by_itself_unless_asked_for(tmp_path: Path) -> None:
    """The mode is manual and five adapters are remembered; without two there is no way back."""
    section = Config(scenario="airline", data_dir=tmp_path).apply
    assert (section.mode, section.max_history) == ("manual", 5)
    with pytest.raises(ValidationError, match="max_history"):
        Config(scenario="airline", data_dir=tmp_path, apply={"max_history": 1})
