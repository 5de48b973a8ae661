"""A base model in Hugging Face's format to GGUF.

Tensors are streamed one by one, so memory stays at one tensor.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantization

from honed.domain.job import ExportBaseJob, ExportBaseResult
from honed.errors import TrainingError, UnsupportedError
from honed.worker.architectures import HAND_CONVERSION, Architecture, Array
from honed.worker.base_facts import write_facts
from honed.worker.base_model import base_folder, load_config, load_tokenizer
from honed.worker.files import whole_file
from honed.worker.gguf_tokenizer import llama_cpp_name, write_tokenizer
from honed.worker.rope import rope_tensors

OutType = Literal["f32", "f16", "bf16", "q8_0"]

_FORMATS: Final = {
    "f32": (gguf.LlamaFileType.ALL_F32, Quantization.F32),
    "f16": (gguf.LlamaFileType.MOSTLY_F16, Quantization.F16),
    "bf16": (gguf.LlamaFileType.MOSTLY_BF16, Quantization.BF16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, Quantization.Q8_0),
}
_ALWAYS_F32: Final = (".shortconv.conv.weight",)
"""llama.cpp reads these as float32, whatever the rest is."""


def export_base(job: ExportBaseJob) -> ExportBaseResult:
    """Do an ExportBaseJob.

    Raises:
        UnsupportedError: the model's architecture or tokenizer cannot be written to GGUF.
    """
    folder = base_folder(job.base_model)
    output = Path(job.output_path)
    architecture = write_base(folder, output, outtype=job.outtype)
    if job.facts_path is not None:
        write_facts(
            Path(job.facts_path),
            folder,
            output,
            architecture=architecture.gguf_name,
            quantisation=job.outtype.upper(),
        )
    with output.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportBaseResult(
        architecture=architecture.gguf_name, size_bytes=output.stat().st_size, digest=digest
    )


def write_base(folder: Path, output: Path, *, outtype: OutType = "f32") -> Architecture:
    """Write the model in `folder` as the GGUF file `output`; whole or not at all."""
    config, architecture = load_config(folder)
    tokenizer = load_tokenizer(folder)
    file_type, quantization = _FORMATS[outtype]
    plan = list(_plan(folder, config, architecture, quantization))
    with whole_file(output) as aside:
        writer = gguf.GGUFWriter(aside, architecture.gguf_name)
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(llama_cpp_name(tokenizer))
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        architecture.write_metadata(writer, config)
        write_tokenizer(writer, tokenizer, config.vocab_size, folder)
        _write_tensors(writer, plan, config, architecture)
        writer.close()
    return architecture


class _Planned(NamedTuple):
    """One tensor of the output, and where its values come from."""

    name: str
    shape: tuple[int, ...]
    quantization: Quantization
    source: Path | Array
    source_name: str = ""


def _plan(
    folder: Path, config: Any, architecture: Architecture, quantization: Quantization
) -> Iterator[_Planned]:
    from safetensors import safe_open

    for name, values in rope_tensors(config):
        yield _Planned(name, values.shape, Quantization.F32, values)
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file object is no mapping
                if _is_left_out(name, config):
                    continue
                target = architecture.tensor_name(name, config)
                if target is None:
                    raise UnsupportedError(
                        f"tensor {name} of {folder} has no name in {architecture.gguf_name}'s GGUF",
                        advice=HAND_CONVERSION,
                    )
                # A view without memory: the transformation tells the shape.
                view = np.broadcast_to(np.float32(0), file.get_slice(name).get_shape())
                shape = architecture.transform(name, view, config).shape
                yield _Planned(target, shape, _stored_as(target, shape, quantization), path, name)


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads: some folders hold the weights a second time in another form."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        files = [folder / name for name in sorted(names)]
    else:
        files = [single]
        if next(folder.glob("*.safetensors"), None) is None:
            raise UnsupportedError(
                f"base model {folder} has no safetensors files: other formats are not read",
                advice="download the model again, with its safetensors files",
            )
    for path in files:
        if not path.is_file():
            raise TrainingError(
                f"base model {folder} has no {path.name}",
                advice="download the model again; only safetensors files are read",
            )
    return files


def _is_left_out(name: str, config: Any) -> bool:
    """A tied head is not stored twice; old checkpoints hold a buffer that is computed."""
    tied = name == "lm_head.weight" and config.tie_word_embeddings
    return tied or name.endswith(".rotary_emb.inv_freq")


def _stored_as(name: str, shape: tuple[int, ...], wanted: Quantization) -> Quantization:
    """Norms and biases stay float32; what does not fall into blocks of 32 is not quantised."""
    if len(shape) < 2 or name.endswith(_ALWAYS_F32):
        return Quantization.F32
    block_size, _ = gguf.constants.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block_size == 0 else Quantization.F16


def _write_tensors(
    writer: gguf.GGUFWriter, plan: list[_Planned], config: Any, architecture: Architecture
) -> None:
    for tensor in plan:
        size = int(np.prod(gguf.quant_shape_to_byte_shape(tensor.shape, tensor.quantization)))
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), size, tensor.quantization
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in plan:
        values = _read_tensor(tensor, config, architecture)
        writer.write_tensor_data(gguf.quants.quantize(values, tensor.quantization))


def _read_tensor(tensor: _Planned, config: Any, architecture: Architecture) -> Array:
    import torch
    from safetensors import safe_open

    if not isinstance(tensor.source, Path):
        return tensor.source
    with safe_open(tensor.source, framework="pt") as file:
        values: Array = file.get_tensor(tensor.source_name).to(torch.float32).numpy()
    values = np.ascontiguousarray(architecture.transform(tensor.source_name, values, config))
    if tensor.quantization is Quantization.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise TrainingError(
            f"tensor {tensor.source_name} holds values beyond float16",
            advice="export as f32 or bf16",
        )
    return values
