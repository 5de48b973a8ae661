"""Base models on this machine: where their files are, what shape they have, what their card says.

Read without the training stack: `config.json`, the headers of the weights, the model card.
"""

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from honed.errors import ValidationError

_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HEADER_MAX: Final = 100 << 20
"""The format's own limit."""
_CARD_LICENCE: Final = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much memory a model needs."""

    num_parameters: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def layer_parameters(self) -> int:
        """Of the matrices in all layers, without embeddings and head."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return self.num_layers * h * (2 * q + 2 * kv + 3 * i)

    def lora_parameters(self, r: int) -> int:
        """Of an adapter on all linear layers but the head."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return r * self.num_layers * (2 * (h + q) + 2 * (h + kv) + 3 * (h + i))


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are here."""

    name: str
    """What `base_model` may say: a hub id, or the folder."""
    folder: Path
    architecture: str
    shape: Shape | None
    """None when `config.json` does not say it in the usual words."""
    licence: str | None


class IncompleteError(Exception):
    """Files of a model are missing or cut short."""


def find(base_model: str) -> Path | None:
    """The folder of a model that is named by folder or hub id; None when it is not on this machine."""
    folder = Path(base_model).expanduser()
    if folder.is_dir():
        return folder.absolute()
    repository = hub_cache() / f"models--{base_model.replace('/', '--')}"
    with contextlib.suppress(OSError):
        snapshot = repository / "snapshots" / (repository / "refs/main").read_text().strip()
        if (snapshot / "config.json").is_file():
            return snapshot
    return None


def check_named(base_model: str) -> None:
    """See that the name can be a base model's: a folder that holds one, one of the hub's cache, or a hub id.

    Raises:
        ValidationError: it is none of these. A hub id is not looked up: that takes a network.
    """
    path = Path(base_model).expanduser()
    advice = "name a folder with config.json, or a hub id (owner/name)"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValidationError(f"{path} has no config.json, so it holds no model", advice=advice)
    elif path.is_file():
        told = " (a GGUF belongs in serve.base_model_path)" if path.suffix == ".gguf" else ""
        raise ValidationError(f"{path} is a file{told}", advice=advice)
    elif base_model.startswith(("/", "~", ".")):
        raise ValidationError(f"{path} does not exist", advice=advice)
    elif not _HUB_ID.fullmatch(base_model) and find(base_model) is None:
        raise ValidationError(
            f"{base_model!r} is no folder here and no hub id (owner/name)", advice=advice
        )


def hub_cache() -> Path:
    """Where models of the hub are kept, as huggingface_hub finds it."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    return Path(home).expanduser() / "hub"


def list_models(folders: Iterable[Path] = ()) -> list[LocalModel]:
    """Chat models in the hub's cache, in `~/models` and in `folders`: themselves, or one level in."""
    found = {}
    for name, folder in _candidates(folders):
        with contextlib.suppress(OSError, ValueError, IncompleteError):
            config = read_config(folder)
            check_weights(folder)
            if has_chat_template(folder):
                found[folder.resolve()] = LocalModel(
                    name, folder, architecture(config), shape(folder, config), licence(folder)
                )
    return sorted(found.values(), key=lambda model: model.name)


def _candidates(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for repository in sorted(hub_cache().glob("models--*--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        if (folder := find(name)) is not None:
            yield name, folder
    for place in (Path("~/models"), *folders):
        top = place.expanduser().absolute()
        with contextlib.suppress(OSError):
            for folder in [top, *sorted(top.iterdir())] if top.is_dir() else []:
                if (folder / "config.json").is_file():
                    yield str(folder), folder


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`; raises OSError or ValueError."""
    found = json.loads((folder / "config.json").read_text())
    if not isinstance(found, dict):
        raise ValueError("config.json is not an object")
    return found


def architecture(config: dict[str, Any]) -> str:
    """Name of the model's class; empty when it is not told."""
    names = config.get("architectures") or [""]
    return str(names[0])


def shape(folder: Path, config: dict[str, Any]) -> Shape | None:
    """The model's sizes; None when the config has other words for them."""
    words: dict[str, Any] = config.get("text_config") or config
    try:
        heads, hidden = int(words["num_attention_heads"]), int(words["hidden_size"])
        return Shape(
            num_parameters=sum(count for _, count in _weights(folder)),
            hidden_size=hidden,
            num_layers=int(words["num_hidden_layers"]),
            intermediate_size=int(words["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(words.get("num_key_value_heads") or heads),
            head_dim=int(words.get("head_dim") or hidden // heads),
            vocab_size=int(words["vocab_size"]),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IncompleteError):
        return None


def check_weights(folder: Path) -> int:
    """Look whether all weights are here and whole; returns their bytes.

    Raises:
        IncompleteError: a file is missing, cut short, or not safetensors.
    """
    return sum(path.stat().st_size for path, _ in _weights(folder))


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer comes with a chat template."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        return bool(config.get("chat_template"))
    return False


def licence(folder: Path) -> str | None:
    """The licence as the model card or its licence file names it; None when neither does."""
    with contextlib.suppress(OSError):
        card = (folder / "README.md").read_text(errors="replace")[:16_384]
        if card.startswith("---"):
            head = card[3:].partition("\n---")[0]
            if match := _CARD_LICENCE.search(head):
                named = re.search(r"^license_name:\s*[\"']?([\w.+-]+)", head, re.MULTILINE)
                return named[1] if named and match[1] == "other" else match[1]
    with contextlib.suppress(OSError):
        text = (folder / "LICENSE").read_text(errors="replace")[:400]
        for words, name in (("Apache License", "apache-2.0"), ("MIT License", "mit")):
            if words in text:
                return name
    return None


def _weights(folder: Path) -> list[tuple[Path, int]]:
    """Each file of weights with the number of its values; raises IncompleteError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise IncompleteError("it has no *.safetensors")
    return [(folder / name, _count(folder / name)) for name in names]


def _count(path: Path) -> int:
    """Values in a safetensors file, from its header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_MAX:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        size = path.stat().st_size
        if size != 8 + length + end:
            raise IncompleteError(f"{path.name} has {size} bytes, expected {8 + length + end}")
        return sum(_product(entry["shape"]) for entry in header.values())
    except FileNotFoundError:
        raise IncompleteError(f"{path.name} is missing") from None
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise IncompleteError(f"{path.name} is not a safetensors file: {error}") from None


def _product(dimensions: list[int]) -> int:
    total = 1
    for size in dimensions:
        total *= size
    return total
