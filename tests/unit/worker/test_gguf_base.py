"""A base model in GGUF is the model that transformers loads."""

import json
import shutil
from pathlib import Path

import gguf
import pytest

from honed.domain.job import ExportBaseJob
from honed.errors import TrainingError
from honed.worker.gguf_base import export_base


def test_unknown_architecture_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """A model of another architecture is refused by name, and the message says what converts it."""
    other = shutil.copytree(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (other / "config.json").write_text(json.dumps(config))
    job = ExportBaseJob(base_model=str(other), output_path=str(tmp_path / "x.gguf"), result_path="")
    with pytest.raises(TrainingError, match="LlamaForCausalLM") as raised:
        export_base(job)
    assert "convert_hf_to_gguf.py" in (raised.value.advice or "")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_template_in_gguf_has_no_generation_markers(tiny_gguf: Path) -> None:
    """What only transformers understands stays out of the server's template."""
    field = gguf.GGUFReader(tiny_gguf).get_field("tokenizer.chat_template")
    assert field is not None
    assert "generation %}" not in field.contents()


def test_tied_head_is_left_out(tiny_gguf: Path) -> None:
    """llama.cpp takes the embeddings where there is no output tensor."""
    names = {tensor.name for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_unknown_pre_tokenizer_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """A tokenizer that llama.cpp would split otherwise, silently, is refused."""
    other = shutil.copytree(tiny_base, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "use_regex": True,
        "trim_offsets": True,
    }
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    job = ExportBaseJob(base_model=str(other), output_path=str(tmp_path / "x.gguf"), result_path="")
    with pytest.raises(TrainingError, match="pre-tokenizer"):
        export_base(job)
