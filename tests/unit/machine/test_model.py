"""Base models are found and described from their files alone."""

import json
import struct
from pathlib import Path

import pytest

from honed.machine.model import (
    IncompleteError,
    check_weights,
    find,
    has_chat_template,
    licence,
    list_models,
    read_config,
    shape,
)
from tests.unit.machine.folders import make_model


@pytest.fixture(autouse=True)
def an_empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Models of this machine play no part."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_the_shape_is_what_the_real_model_has(tiny_base: Path) -> None:
    """Parameters are counted from the headers of the weights; the adapter's from the shape."""
    from honed.worker.base_model import load_model

    found = shape(tiny_base, read_config(tiny_base))
    assert found is not None
    model = load_model(tiny_base, "cpu")
    assert found.num_parameters == sum(p.numel() for p in model.parameters())
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    )
    assert found.lora_parameters(4) == adapted.get_nb_trainable_parameters()[0]


def test_a_hub_id_is_found_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its main branch; half a download is not found, another place can be named."""
    hub = tmp_path / "home/.cache/huggingface/hub/models--org--name"
    assert find("org/name") is None
    (hub / "refs").mkdir(parents=True)
    (hub / "refs/main").write_text("abc")
    assert find("org/name") is None
    snapshot = make_model(hub / "snapshots/abc")
    assert find("org/name") == snapshot
    assert [each.name for each in list_models()] == ["org/name"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert find("org/name") is None


def test_models_are_listed_from_folders_and_what_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    """A folder may be a model or hold some; without chat template or weights none is proposed."""
    shelf = tmp_path / "home/models"
    good = make_model(shelf / "good")
    (make_model(shelf / "no-template") / "chat_template.jinja").unlink()
    (make_model(shelf / "no-weights") / "model.safetensors").unlink()
    (make_model(shelf / "no-config") / "config.json").write_text("{")
    other = make_model(tmp_path / "other")
    assert [each.folder for each in list_models([other, other])] == [good, other]


def test_weights_cut_short_are_noticed(tmp_path: Path) -> None:
    """A download that broke off, a shard that is missing, a file that is something else."""
    folder = make_model(tmp_path / "a")
    size = check_weights(folder)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    assert size == len(whole)
    for content in (whole[:-1], whole[:5], b"<html>" * 9, struct.pack("<Q", 1 << 60)):
        path.write_bytes(content)
        with pytest.raises(IncompleteError, match=r"model\.safetensors"):
            check_weights(folder)
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IncompleteError, match=r"model-1\.safetensors is missing"):
        check_weights(folder)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("README.md", "---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("README.md", '---\nlicense: "other"\nlicense_name: lfm1.0\n---\n', "lfm1.0"),
        ("README.md", "# A model\nlicense: mit", None),
        ("LICENSE", "                Apache License\n   Version 2.0", "apache-2.0"),
        ("NOTES", "mit", None),
    ],
)
def test_the_licence_is_read_from_card_or_file(
    tmp_path: Path, name: str, text: str, expected: str | None
) -> None:
    """Only where it is said; nothing is guessed."""
    (tmp_path / name).write_text(text)
    assert licence(tmp_path) == expected


def test_a_chat_template_may_be_in_two_places(tmp_path: Path) -> None:
    """A file of its own, or a key of the tokenizer's config."""
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert has_chat_template(tmp_path)


def test_an_unusual_config_has_no_shape(tmp_path: Path) -> None:
    """What is not known is not estimated."""
    folder = make_model(tmp_path / "a")
    assert shape(folder, {"d_model": 3}) is None
    assert shape(folder, read_config(folder)) is not None
