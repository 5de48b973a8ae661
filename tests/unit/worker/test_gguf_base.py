"""A base model in GGUF is the model that transformers loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest

from honed.domain.job import ExportBaseJob
from honed.errors import TrainingError
from honed.worker.gguf_base import OutType, export_base, write_base
from tests.unit.worker.families import FAMILIES, log_probabilities, make_model, rope
from tests.unit.worker.llama import llama_server, next_token_logprobs


def test_unknown_architecture_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """A model of another architecture is refused by name, and the message says what converts it."""
    other = shutil.copytree(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    (other / "config.json").write_text(json.dumps(config))
    job = ExportBaseJob(base_model=str(other), output_path=str(tmp_path / "x.gguf"), result_path="")
    with pytest.raises(TrainingError, match="Qwen3MoeForCausalLM") as raised:
        export_base(job)
    assert "convert_hf_to_gguf.py" in (raised.value.advice or "")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def refusal(base: Path, tmp_path: Path) -> str:
    """What the conversion says; nothing is left behind."""
    job = ExportBaseJob(base_model=str(base), output_path=str(tmp_path / "x.gguf"), result_path="")
    with pytest.raises(TrainingError) as raised:
        export_base(job)
    assert not list(tmp_path.glob("*.gguf"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("family", "changed", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("granite", {"head_dim": 32}, "head_dim 32 instead of 16"),
        ("gemma2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar 64"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types"),
        ("smollm3", {"no_rope_layers": [1] * 5}, "no_rope_layers"),
        ("lfm2", {"conv_bias": True}, "biases in its convolutions"),
        ("olmo2", rope("yarn", factor=4.0, original_max_position_embeddings=32), "'yarn'"),
        ("qwen3", rope("dynamic", factor=4.0), "'dynamic'"),
        (
            "qwen3",
            rope("yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=1.5),
            "attention_factor",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_beyond_llama_cpp_is_refused(
    tmp_path: Path, family: str, changed: dict[str, Any], said: str
) -> None:
    """What llama.cpp would compute otherwise in silence is refused by its name."""
    base = make_model(FAMILIES[family], tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert said in refusal(base, tmp_path)


def test_context_ends_with_the_window_that_llama_cpp_lacks(tmp_path: Path) -> None:
    """A Mistral with a sliding window is served as far as the window does nothing, and no farther."""
    family = FAMILIES["mistral"]._replace(settings={"sliding_window": 48})
    base = make_model(family, tmp_path / "base")
    write_base(base, tmp_path / "base.gguf")
    with llama_server(tmp_path / "base.gguf", log=tmp_path / "log") as client:
        inside = client.post("/completion", json={"prompt": [5] * 40, "n_predict": 1})
        beyond = client.post("/completion", json={"prompt": [5] * 50, "n_predict": 1})
    assert inside.status_code == 200
    assert beyond.status_code == 400
    assert "context" in beyond.text


@pytest.mark.parametrize(("outtype", "tolerance"), [("f16", 0.02), ("bf16", 0.2), ("q8_0", 0.3)])
@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_smaller_formats_stay_near(
    tmp_path: Path, name: str, outtype: OutType, tolerance: float
) -> None:
    """Half precision and 8 bits differ by their rounding alone."""
    base = make_model(FAMILIES[name], tmp_path / "base")
    write_base(base, tmp_path / "base.gguf", outtype=outtype)
    prompt_ids = [(7 * i * i + 3) % 300 + 3 for i in range(60)]
    expected = log_probabilities(base, None, prompt_ids)
    with llama_server(tmp_path / "base.gguf", log=tmp_path / "log") as client:
        served = next_token_logprobs(client, prompt_ids, len(expected))
    error = max(abs(s - e) for s, e in zip(served, expected, strict=True))
    assert 1e-5 < error < tolerance


def test_sharded_weights_are_read_by_their_index(tmp_path: Path) -> None:
    """Shards give the tensors of the single file; a second copy in another form is not read."""
    whole = make_model(FAMILIES["qwen2"], tmp_path / "whole")
    shards = make_model(FAMILIES["qwen2"], tmp_path / "shards", max_shard_size="100KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    shutil.copy(whole / "model.safetensors", shards / "consolidated.safetensors")
    for base in (whole, shards):
        write_base(base, base / "base.gguf")
    one, other = (
        {t.name: t.data.tobytes() for t in gguf.GGUFReader(base / "base.gguf").tensors}
        for base in (whole, shards)
    )
    assert one == other
    next(shards.glob("model-*.safetensors")).unlink()
    (shards / "base.gguf").unlink()
    assert "has no model-" in refusal(shards, shards)


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
