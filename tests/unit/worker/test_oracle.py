"""llama.cpp's own converters, from the source distribution of xllamacpp, write what honed writes.

Not part of the default run: the source is downloaded with pip (38 MB; pip also fetches its build tools to
read its metadata). Without a package index these tests fail.

The converters know a tokenizer by a digest of what it makes of a text, so they cannot know one that was
trained in a test: the name of the pre-tokenizer is given to them, and tests/unit/worker/test_tokenizers.py
asks the server instead.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest

from honed.worker.gguf_base import OutType, write_base
from tests.unit.worker.families import FAMILIES, make_adapter, make_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CONVERT_BASE: Final = """
import runpy, sys
sys.path.insert(0, sys.argv[1]); sys.path.insert(1, sys.argv[1] + "/gguf-py")
from conversion import TextModel, load_all_models
from conversion.base import ModelType
load_all_models()
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
for model in TextModel._model_classes[ModelType.TEXT].values():
    model.set_vocab = TextModel._set_vocab_gpt2
script, sys.argv = sys.argv[1] + "/convert_hf_to_gguf.py", sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""

EXPECTED_DIFFERENCES: Final = {
    "general.name": "neutral: llama.cpp guesses from it",
    "general.size_label": "for people alone",
    "tokenizer.chat_template": "without training's {% generation %} markers",
    "tokenizer.ggml.add_bos_token": "always said; llama.cpp's default depends on the pre-tokenizer",
    "tokenizer.ggml.add_eos_token": "always said",
    "tokenizer.ggml.pre": "given to the converter here",
    "tokenizer.ggml.unknown_token_id": "transformers' tokenizer class has one, the file has not",
    "attention.key_length": "always said; left out there where llama.cpp computes it",
    "attention.value_length": "always said",
}
"""Keys in which the two may differ, the architecture's prefix left out, and why."""
OF_FAMILY: Final = {
    "gemma2": {"rope.freq_base": "said, though it is llama.cpp's default"},
    "phi3": {"rope.scaling.original_context_length": "without a meaning where nothing is scaled"},
    "phi3, rope longrope": {
        "context_length": "ends where transformers changes to the long factors",
        "rope.scaling.type": "said, as for other architectures",
        "rope_factors_long.weight": "the short ones, see honed.worker.rope",
    },
}
"""Keys and tensors of one family alone."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of llama.cpp's converters, of the commit that the installed server was built from."""
    folder = tmp_path_factory.mktemp("reference")
    wanted = f"xllamacpp=={version('xllamacpp')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "xllamacpp", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{wanted} cannot be downloaded: {done.stderr[-2000:]}"
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (script,) = folder.rglob("convert_hf_to_gguf.py")
    return script.parent


def run(reference: Path, *arguments: str) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def converted_base(reference: Path, base: Path, output: Path, outtype: str) -> Path:
    arguments = (str(base), "--outfile", str(output), "--outtype", outtype)
    run(reference, "-c", CONVERT_BASE, str(reference), *arguments)
    return output


def converted_adapter(reference: Path, base: Path, adapter: Path, output: Path) -> Path:
    script = str(reference / "convert_lora_to_gguf.py")
    run(reference, script, "--base", str(base), "--outfile", str(output), str(adapter))
    return output


def metadata(path: Path) -> dict[str, Any]:
    """Values by key, the architecture's prefix cut off."""
    reader = gguf.GGUFReader(path)
    field = reader.get_field("general.architecture")
    assert field is not None
    prefix = f"{field.contents()}."
    return {
        key.removeprefix(prefix): field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(int(n) for n in tensor.shape),
            tensor.data.tobytes(),
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def different(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> dict[str, Any]:
    """Both values of what differs and should not."""
    allowed = EXPECTED_DIFFERENCES.keys() | OF_FAMILY.get(name, {}).keys()
    keys = (ours.keys() | theirs.keys()) - allowed
    return {k: (ours.get(k), theirs.get(k)) for k in keys if ours.get(k) != theirs.get(k)}


@pytest.mark.parametrize(
    ("name", "outtype"), [*((name, "f32") for name in FAMILIES), ("llama", "f16"), ("lfm2", "f16")]
)
def test_base_is_what_llama_cpp_writes(
    reference: Path, tmp_path: Path, name: str, outtype: OutType
) -> None:
    """Tensors are equal byte for byte, metadata but for the differences that are listed."""
    base, ours = make_model(FAMILIES[name], tmp_path / "base"), tmp_path / "ours.gguf"
    write_base(base, ours, outtype=outtype)
    theirs = converted_base(reference, base, tmp_path / "theirs.gguf", outtype)
    assert different(metadata(ours), metadata(theirs), name) == {}
    assert list(different(tensors(ours), tensors(theirs), name)) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_adapter_is_what_llama_cpp_writes(reference: Path, tmp_path: Path, name: str) -> None:
    """A is equal byte for byte; B carries the scale that is written as alpha there."""
    base = make_model(FAMILIES[name], tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", lora_alpha=8, r=4)
    theirs = tensors(converted_adapter(reference, base, adapter, tmp_path / "theirs.gguf"))
    ours = tensors(adapter / "adapter.gguf")
    assert ours.keys() == theirs.keys()
    for name, (kind, shape, data) in ours.items():
        scale = 2.0 if name.endswith(".lora_b") else 1.0
        expected = np.frombuffer(theirs[name][2], np.float32) * np.float32(scale)
        assert (kind, shape) == theirs[name][:2]
        assert data == expected.tobytes()
