"""A base model in Hugging Face's format to GGUF.

Tensors are streamed one by one, so memory stays at one tensor. The chat template loses its `{%
generation %}` markers.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import gguf
import numpy as np

from honed.domain.job import ExportBaseJob, ExportBaseResult
from honed.errors import TrainingError
from honed.worker.architectures import Architecture
from honed.worker.base_model import base_folder, load_config, load_tokenizer
from honed.worker.files import whole_file
from honed.worker.template import without_generation_markers

OutType = Literal["f32", "f16"]

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: Final = {None: "gpt-2", _QWEN2: "qwen2"}
"""Regex of the tokenizer's Split (None: ByteLevel's own) to llama.cpp's name. A wrong name is
silent and ruins text.
"""

_CONVERT = (
    "convert the model with llama.cpp's convert_hf_to_gguf.py "
    "and name the file as serve.base_model_path"
)


def export_base(job: ExportBaseJob) -> ExportBaseResult:
    """Do an ExportBaseJob.

    Raises:
        TrainingError: the model's architecture or tokenizer cannot be written to GGUF.
    """
    folder = base_folder(job.base_model)
    output = Path(job.output_path)
    architecture = write_base(folder, output, outtype=job.outtype)
    with output.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportBaseResult(
        architecture=architecture.gguf_name, size_bytes=output.stat().st_size, digest=digest
    )


def write_base(folder: Path, output: Path, *, outtype: OutType = "f32") -> Architecture:
    """Write the model in `folder` as the GGUF file `output`; whole or not at all."""
    config, architecture = load_config(folder)
    with whole_file(output) as aside:
        writer = gguf.GGUFWriter(aside, architecture.gguf_name)
        writer.add_type(gguf.GGUFType.MODEL)
        # llama.cpp matches names such as "phi3" to guess at vocabularies: keep it neutral.
        writer.add_name("base")
        writer.add_file_type(
            gguf.LlamaFileType.ALL_F32 if outtype == "f32" else gguf.LlamaFileType.MOSTLY_F16
        )
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        architecture.write_metadata(writer, config)
        _write_tokenizer(writer, folder, config.vocab_size)
        _write_tensors(writer, list(_plan(folder, config, architecture, outtype)))
        writer.close()
    return architecture


class _Planned(NamedTuple):
    """One tensor of the output, and where it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.float32 | np.float16]
    source: Path
    source_name: str


def _plan(
    folder: Path, config: Any, architecture: Architecture, outtype: OutType
) -> Iterator[_Planned]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise TrainingError(f"base model {folder} has no safetensors files", advice=_CONVERT)
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file object is no mapping
                if name == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                target = architecture.tensor_name(name, config)
                if target is None:
                    raise TrainingError(
                        f"tensor {name} of {folder} has no name in {architecture.gguf_name}'s GGUF",
                        advice=_CONVERT,
                    )
                shape = tuple(file.get_slice(name).get_shape())
                is_matrix = len(shape) > 1  # norms and biases stay F32
                dtype = np.float16 if outtype == "f16" and is_matrix else np.float32
                yield _Planned(target, shape, dtype, path, name)


def _write_tensors(writer: gguf.GGUFWriter, plan: list[_Planned]) -> None:
    for tensor in plan:
        size = int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(tensor.dtype), size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in plan:
        writer.write_tensor_data(_read_tensor(tensor))


def _read_tensor(tensor: _Planned) -> np.ndarray[Any, Any]:
    import torch
    from safetensors import safe_open

    with safe_open(tensor.source, framework="pt") as file:
        values = file.get_tensor(tensor.source_name).to(torch.float32).numpy()
    if tensor.dtype is np.float16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise TrainingError(
            f"tensor {tensor.source_name} holds values beyond float16", advice="export as f32"
        )
    array: np.ndarray[Any, Any] = values.astype(tensor.dtype)
    return array


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    tokenizer = load_tokenizer(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise TrainingError(
            f"the tokenizer of {folder} is {backend['model']['type']}: expected byte-level BPE",
            advice=_CONVERT,
        )
    tokens, types = _vocabulary(tokenizer, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(backend["pre_tokenizer"], folder))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = backend["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(without_generation_markers(tokenizer.chat_template))


def _vocabulary(tokenizer: Any, vocab_size: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Tokens in the order of their ids with their types; ids without a token are filled up."""
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for token_id in range(vocab_size):
        tokens.append(by_id.get(token_id, f"[PAD{token_id}]"))
        if token_id not in by_id:
            types.append(gguf.TokenType.UNUSED)
        elif token_id in added:
            special = added[token_id].special
            types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL)
    return tokens, types


def _pre_tokenizer(pre_tokenizer: Any, folder: Path) -> str:
    """llama.cpp's name of a tokenizer's pre-tokenizer."""
    steps = (
        pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    )
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return PRE_TOKENIZERS[None]
        case [
            {"type": "Split", "pattern": {"Regex": regex}},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if regex in PRE_TOKENIZERS:
            return PRE_TOKENIZERS[regex]
    raise TrainingError(
        f"the pre-tokenizer of {folder} is not known to be in llama.cpp: {pre_tokenizer}",
        advice=_CONVERT,
    )
