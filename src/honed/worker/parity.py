"""Is a GGUF file the base model in a Hugging Face folder? Compared piece by piece, cheapest first.

Architecture, hyperparameters, vocabulary, special tokens, names and shapes of the tensors, and
their values: whole vectors, and rows of every matrix (`weights`). The chat template is not compared
as text: the gateway compares what the server makes of it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import gguf

from honed.domain.job import CompareBaseJob, CompareBaseResult
from honed.errors import ParityError
from honed.worker.base_facts import write_facts
from honed.worker.base_model import base_folder
from honed.worker.gguf_file import GgufFile
from honed.worker.gguf_reference import Expected, expected_of
from honed.worker.weights import difference

_ADVICE: Final = (
    "serve the model that is trained on: name its GGUF in serve.base_model_path, or leave the key "
    "out to have base_model converted"
)
_TOKENIZER: Final = "tokenizer.ggml."
_DERIVED: Final = ("rope.dimension_count", "attention.key_length", "attention.value_length")
"""Sizes of a head; where they are left out llama.cpp divides the width by the number of heads."""
_FREE_KEYS: Final = frozenset({"context_length"})
"""Says how long a context may be, not what the model computes; converters differ."""
_FREE_TENSORS: Final = frozenset({"rope_factors_long.weight", "rope_factors_short.weight"})
"""For contexts beyond the original length, where honed does not go (`honed.worker.rope`)."""
_LOOK_SPECIAL: Final = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
"""Added tokens that llama.cpp's converter marks as control tokens whatever the tokenizer says."""


def compare_base(job: CompareBaseJob) -> CompareBaseResult:
    """Do a CompareBaseJob: the facts are written if file and folder are the same model.

    Raises:
        ParityError: they are not; the message has the first difference.
        UnsupportedError: the folder's architecture or tokenizer is not known to honed.
        TrainingError: the folder is not there, or not whole.
    """
    folder, path = base_folder(job.base_model), Path(job.gguf_path)
    found, expected = GgufFile(path), expected_of(folder)
    check_same(found, expected)
    write_facts(
        Path(job.facts_path),
        folder,
        path,
        architecture=expected.architecture.gguf_name,
        quantisation=found.quantisation,
    )
    return CompareBaseResult(quantisation=found.quantisation)


def check_same(found: GgufFile, expected: Expected) -> None:
    """See that a file is the model that it should be; raises ParityError."""
    for what, wanted, got in _metadata(found, expected):
        _refuse(found, expected, what, wanted, got)
    _check_tensors(found, expected)
    for name, tensor in expected.tensors.items():
        if name not in found.tensors or name in _FREE_TENSORS:
            continue
        if told := difference(found.tensors[name], tensor.read()):
            raise ParityError(f"{_pair(found, expected)}: {name}{told}", advice=_ADVICE)


def _pair(found: GgufFile, expected: Expected) -> str:
    return f"{found.path} is not the model in {expected.folder}"


def _refuse(found: GgufFile, expected: Expected, what: str, wanted: Any, got: Any) -> NoReturn:
    raise ParityError(
        f"{_pair(found, expected)}: {what}: expected {_short(wanted)}, found {_short(got)}",
        advice=_ADVICE,
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Difference = tuple[str, Any, Any]
"""What differs, expected, found."""


def _metadata(found: GgufFile, expected: Expected) -> Iterator[Difference]:
    architecture = found.value("general.architecture")
    if architecture != expected.architecture.gguf_name:
        yield "architecture", expected.architecture.gguf_name, architecture
    yield from _hyperparameters(found, expected)
    yield from _vocabulary(found, expected)
    yield from _special_tokens(found, expected)


def _hyperparameters(found: GgufFile, expected: Expected) -> Iterator[Difference]:
    prefix = f"{expected.architecture.gguf_name}."
    wanted = {key: value for key, value in expected.metadata.items() if key.startswith(prefix)}
    heads = wanted.get(f"{prefix}attention.head_count")
    width = wanted[f"{prefix}embedding_length"]
    for key, value in sorted(wanted.items()):
        if key.removeprefix(prefix) in _FREE_KEYS:
            continue
        got = found.value(key)
        if got is None and key.removeprefix(prefix) in _DERIVED and isinstance(heads, int):
            got = width // heads
        if got is None and key == f"{prefix}vocab_size":
            got = len(found.value(f"{_TOKENIZER}tokens") or ())
        if not _is_same(value, got):
            yield key, value, got
    for key in sorted(found.keys(f"{prefix}rope.scaling.") - set(wanted)):
        if found.value(key) != "none":
            yield key, None, found.value(key)


def _is_same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, float) and isinstance(got, int | float):
        return math.isclose(wanted, got, rel_tol=1e-6)  # GGUF has float32
    if isinstance(wanted, list | tuple) and isinstance(got, list | tuple):
        return len(wanted) == len(got) and all(map(_is_same, wanted, got))
    return bool(wanted == got)


def _vocabulary(found: GgufFile, expected: Expected) -> Iterator[Difference]:
    # How text is split beforehand (`pre`) is not compared by its name: the gateway compares tokens.
    key = f"{_TOKENIZER}model"
    if expected.metadata[key] != found.value(key):
        yield key, expected.metadata[key], found.value(key)
    tokens, types = (expected.metadata[f"{_TOKENIZER}{name}"] for name in ("tokens", "token_type"))
    got, got_types = (found.value(f"{_TOKENIZER}{name}") for name in ("tokens", "token_type"))
    if got is None or len(tokens) != len(got):
        yield "number of tokens", len(tokens), len(got or ())
        return
    for i, (token, other) in enumerate(zip(map(_text, tokens), got, strict=True)):
        if token != other:
            yield f"token {i}", token, other
    for i, (kind, other) in enumerate(zip(map(int, types), got_types or (), strict=True)):
        if kind != other and not _is_marked_control(_text(tokens[i]), kind, other):
            yield f"type of token {i} {tokens[i]!r}", _type(kind), _type(other)
    merges = expected.metadata.get(f"{_TOKENIZER}merges")
    got_merges = found.value(f"{_TOKENIZER}merges")
    if merges is not None and got_merges is not None:
        for i, (merge, other) in enumerate(zip(merges, got_merges, strict=False)):
            if merge != other:
                yield f"merge {i}", merge, other
        if len(merges) != len(got_merges):
            yield "number of merges", len(merges), len(got_merges)


def _text(token: Any) -> str:
    return token.decode(errors="replace") if isinstance(token, bytes | bytearray) else str(token)


def _is_marked_control(token: str, wanted: int, got: int) -> bool:
    looks = any(token.startswith(start) and token.endswith(end) for start, end in _LOOK_SPECIAL)
    return looks and {wanted, got} == {gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL}


def _type(value: int) -> str:
    try:
        return str(gguf.TokenType(value).name)
    except ValueError:
        return str(value)


def _special_tokens(found: GgufFile, expected: Expected) -> Iterator[Difference]:
    # Padding is not among them: nothing is padded when it is served, and converters choose freely.
    for name in ("bos_token_id", "eos_token_id"):
        key = f"{_TOKENIZER}{name}"
        if key in expected.metadata and expected.metadata[key] != found.value(key):
            yield key, expected.metadata[key], found.value(key)


def _check_tensors(found: GgufFile, expected: Expected) -> None:
    is_tied = bool(expected.config.tie_word_embeddings)
    if is_tied != ("output.weight" not in found.tensors):
        _refuse(
            found,
            expected,
            "output layer",
            "tied to the embeddings" if is_tied else "a tensor of its own",
            "tied to the embeddings" if not is_tied else "a tensor of its own",
        )
    missing = sorted(expected.tensors.keys() - found.tensors.keys() - _FREE_TENSORS)
    if missing:
        _refuse(found, expected, "tensors", missing[0], None)
    unknown = sorted(found.tensors.keys() - expected.tensors.keys() - _FREE_TENSORS)
    if unknown:
        _refuse(found, expected, "tensors", None, unknown[0])
    for name, tensor in expected.tensors.items():
        if name in found.tensors and name not in _FREE_TENSORS:
            shape = tuple(int(size) for size in reversed(found.tensors[name].shape))
            if shape != tensor.shape:
                _refuse(found, expected, f"shape of {name}", tensor.shape, shape)
