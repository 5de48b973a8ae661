"""A GGUF file is the model that is trained on, or it is refused with the first difference."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from honed.domain.base_facts import BaseDigests, BaseFacts, FileFacts, dated, read_facts
from honed.domain.job import CompareBaseJob
from honed.errors import ParityError
from honed.worker.base_facts import STRINGS, write_facts
from honed.worker.base_model import load_tokenizer
from honed.worker.home import digests_of
from honed.worker.parity import compare_base
from tests.gguf_files import rewrite, value_of
from tests.tiny_models import make_tiny_base, make_tiny_gguf

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0]
TOKENS = "tokenizer.ggml.tokens"
KINDS = "tokenizer.ggml.token_type"
Array = np.ndarray[Any, Any]


def compared(base: Path, gguf: Path, folder: Path) -> BaseFacts:
    """The facts that a comparison writes."""
    path = folder / "facts.json"
    job = CompareBaseJob(
        base_model=str(base), gguf_path=str(gguf), facts_path=str(path), result_path=""
    )
    compare_base(job)
    facts = read_facts(path)
    assert facts is not None
    return facts


@pytest.fixture(scope="module")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of the same architecture with the same tokenizer."""
    folder = tmp_path_factory.mktemp("other")
    return make_tiny_gguf(make_tiny_base(folder / "base", seed=7), folder / "base.gguf")


@pytest.mark.parametrize("matrices", TYPES, ids=lambda kind: kind.name)
def test_quantised_file_is_its_model(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, matrices: Type
) -> None:
    """What a type rounds away is no difference."""
    facts = compared(
        tiny_base, rewrite(tiny_gguf, tmp_path / "q.gguf", matrices=matrices), tmp_path
    )
    assert facts.quantisation == matrices.name
    assert facts.architecture == "qwen3"
    assert facts.gguf.is_unchanged(tmp_path / "q.gguf")


@pytest.mark.parametrize("matrices", TYPES, ids=lambda kind: kind.name)
def test_another_checkpoint_is_refused(
    tiny_base: Path, other_gguf: Path, tmp_path: Path, matrices: Type
) -> None:
    """The same architecture and tokenizer with other weights: the first tensor that differs is named."""
    file = rewrite(other_gguf, tmp_path / "q.gguf", matrices=matrices)
    with pytest.raises(ParityError, match=r"q\.gguf is not the model in .*token_embd\.weight"):
        compared(tiny_base, file, tmp_path)
    assert not (tmp_path / "facts.json").exists()


@pytest.mark.parametrize(
    ("matrices", "change"),
    [(Type.F32, 1e-6), (Type.F16, 1e-2), (Type.BF16, 2e-2), (Type.Q8_0, 1e-2), (Type.Q4_0, 0.3)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_fine_tuned_checkpoint_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, matrices: Type, change: float
) -> None:
    """A change of one projection, relative to its values, that the type does not hide."""
    noise = np.random.default_rng(0)

    def tuned(name: str, values: Array) -> Array:
        if name != "blk.1.attn_q.weight":
            return values
        return values + noise.normal(0, change * values.std(), values.shape).astype(np.float32)

    file = rewrite(tiny_gguf, tmp_path / "q.gguf", change=tuned, matrices=matrices)
    with pytest.raises(ParityError, match=r"blk\.1\.attn_q\.weight"):
        compared(tiny_base, file, tmp_path)


def test_norms_are_compared_exactly(tiny_base: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    """They are never quantised, so one of them tells two checkpoints apart whatever the matrices are."""

    def nudged(name: str, values: Array) -> Array:
        if name == "blk.0.ffn_norm.weight":
            values = values.copy()
            values[5] += np.float32(1e-3)
        return values

    file = rewrite(tiny_gguf, tmp_path / "q.gguf", change=nudged, matrices=Type.Q4_0)
    with pytest.raises(ParityError, match=r"blk\.0\.ffn_norm\.weight\[0, 5\]: expected 1, found 1"):
        compared(tiny_base, file, tmp_path)


def metadata_of(gguf: Path) -> list[tuple[str, dict[str, Any], str]]:
    """What is changed, to what, and how the refusal begins."""
    tokens, kinds = value_of(gguf, TOKENS), value_of(gguf, KINDS)
    swapped = [*tokens[:300], tokens[301], tokens[300], *tokens[302:]]
    merges = value_of(gguf, "tokenizer.ggml.merges")
    return [
        ("token", {TOKENS: swapped}, "token 300: expected"),
        ("fewer tokens", {TOKENS: tokens[:-1], KINDS: kinds[:-1]}, "number of tokens: expected"),
        ("type", {KINDS: [*kinds[:300], 3, *kinds[301:]]}, "type of token 300 .*NORMAL.*CONTROL"),
        ("merges", {"tokenizer.ggml.merges": merges[::-1]}, "merge 0: expected"),
        ("tokenizer", {"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: expected 'gpt2'"),
        ("eos", {"tokenizer.ggml.eos_token_id": 5}, "eos_token_id: expected .*found 5"),
        ("rope", {"qwen3.rope.freq_base": 5e5}, "qwen3.rope.freq_base: expected"),
        ("eps", {"qwen3.attention.layer_norm_rms_epsilon": 1e-5}, "epsilon: expected 1e-06, found"),
        ("missing", {"qwen3.feed_forward_length": None}, "feed_forward_length: .*found nothing"),
        ("architecture", {"general.architecture": "qwen2"}, "architecture: expected 'qwen3'"),
    ]


@pytest.mark.parametrize("number", range(10))
def test_other_metadata_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, number: int
) -> None:
    """Vocabulary, special tokens and hyperparameters: the message says what was expected and found."""
    _, metadata, told = metadata_of(tiny_gguf)[number]
    file = rewrite(tiny_gguf, tmp_path / "q.gguf", metadata=metadata)
    with pytest.raises(ParityError, match=told):
        compared(tiny_base, file, tmp_path)


def test_head_sizes_may_be_left_out_where_they_follow(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Converters differ in what they write; what llama.cpp computes for itself is no difference."""
    config = json.loads((tiny_base / "config.json").read_text())
    assert config["head_dim"] == config["hidden_size"] // config["num_attention_heads"]
    left_out = {"qwen3.attention.key_length": None, "qwen3.attention.value_length": None}
    compared(tiny_base, rewrite(tiny_gguf, tmp_path / "q.gguf", metadata=left_out), tmp_path)


@pytest.mark.parametrize("missing", ["blk.1.ffn_up.weight", "blk.0.attn_q_norm.weight"])
def test_missing_tensor_is_named(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, missing: str
) -> None:
    """A file without one of the model's tensors is another model, or half of it."""
    file = rewrite(
        tiny_gguf,
        tmp_path / "q.gguf",
        change=lambda name, values: None if name == missing else values,
    )
    with pytest.raises(ParityError, match=f"tensors: expected '{missing}', found nothing"):
        compared(tiny_base, file, tmp_path)


def test_output_layer_of_its_own_is_not_a_tied_one(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A tied model has no output.weight in its file."""
    untied = tmp_path / "base"
    shutil.copytree(tiny_base, untied)
    config = json.loads((untied / "config.json").read_text())
    assert config["tie_word_embeddings"]
    (untied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ParityError, match=r"output layer: expected 'a tensor of its own', found"):
        compared(untied, tiny_gguf, tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, 40_000])
def test_truncated_file_is_refused(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, keep: int
) -> None:
    """A copy that was cut short is not read as if it were whole."""
    cut = tmp_path / "q.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:keep])
    with pytest.raises(ParityError, match="cannot be read as GGUF"):
        compared(tiny_base, cut, tmp_path)


# ---------------------------------------------------------------- the facts


def test_strings_do_not_depend_on_normalisation() -> None:
    """Some tokenizers normalise to NFC and llama.cpp never does: that would refuse every such model."""
    assert [text for text in STRINGS if unicodedata.normalize("NFC", text) != text] == []


def facts_of(base: Path, gguf: Path, folder: Path) -> BaseFacts:
    return write_facts(folder / "facts.json", base, gguf, architecture="qwen3", quantisation="F32")


def test_facts_cover_tools_and_generation_prompt(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Each conversation is rendered with and without a generation prompt, half of them with tools."""
    facts = facts_of(tiny_base, tiny_gguf, tmp_path)
    kinds = {(each.add_generation_prompt, each.tools is not None) for each in facts.conversations}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    called = next(each for each in facts.conversations if each.name == "tool call and result")
    assert '"book_flight", "arguments": {"seats": 2, "to": "ZRH"}' in called.text
    assert called.token_ids


def with_template(base: Path, folder: Path, template: str) -> Path:
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_what_the_template_refuses_is_left_out(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A template without a system role, or without a place for tools, is asked for neither."""
    template = (
        "{%- for message in messages -%}{%- if message.role == 'assistant' and "
        "message.tool_calls -%}{{- raise_exception('no tools') -}}{%- endif -%}"
        "{{- message.role + ': ' + message.content + '\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
    )
    base = with_template(tiny_base, tmp_path / "base", template)
    facts = facts_of(base, tiny_gguf, tmp_path)
    assert {each.name.removesuffix(" and generation prompt") for each in facts.conversations} == {
        "one turn",
        "system prompt",
        "several turns",
        "system prompt and several turns",
    }


def test_dates_are_kept_as_their_format(tiny_base: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    """What a template says of today is compared with the day on which the server is asked."""
    template = (
        "{{- 'Today is ' + strftime_now('%d %b %Y') + '\\n' -}}{%- for message in messages -%}"
        "{{- message.role + ': ' + (message.content or '') + '\\n' -}}{%- endfor -%}"
    )
    base = with_template(tiny_base, tmp_path / "base", template)
    first = facts_of(base, tiny_gguf, tmp_path).conversations[0]
    assert "%d %b %Y" in first.text
    assert first.token_ids is None

    from datetime import UTC, datetime

    assert dated(first.text, datetime(2026, 2, 3, tzinfo=UTC)).startswith("Today is 03 Feb 2026\n")


def test_unchanged_files_are_not_read_again(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """The digest of tens of gigabytes is taken once for each content."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    facts = facts_of(base, tiny_gguf, tmp_path)
    weights = next(file for file in facts.files if file.path.endswith("model.safetensors"))
    known = [
        FileFacts(file.path, file.size_bytes, file.mtime_ns, "0" * 64) if file == weights else file
        for file in facts.files
    ]
    from msgspec import json as facts_json
    from msgspec.structs import replace

    (tmp_path / "facts.json").write_bytes(facts_json.encode(replace(facts, files=tuple(known))))
    again = facts_of(base, tiny_gguf, tmp_path)
    assert next(f for f in again.files if f.path == weights.path).digest == "0" * 64
    Path(weights.path).touch()
    assert facts_of(base, tiny_gguf, tmp_path).digests == facts.digests


# ---------------------------------------------------------------- before training


def asked(base: Path, facts: Path | None, incumbent: Path | None = None) -> BaseDigests:
    return digests_of(
        base,
        load_tokenizer(base),
        facts_path=str(facts) if facts else None,
        incumbent_path=str(incumbent) if incumbent else None,
    )


def test_another_base_than_the_served_one_is_not_trained_on(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """One changed setting is another model; the digests say so before anything is loaded."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    facts = facts_of(base, tiny_gguf, tmp_path)
    assert asked(base, tmp_path / "facts.json") == facts.digests
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"initializer_range": 0.03}))
    with pytest.raises(ParityError, match="not the one that is served: another base model"):
        asked(base, tmp_path / "facts.json")


def test_adapter_of_another_base_is_no_incumbent(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """A candidate cannot be measured against an adapter that was trained on another template."""
    digests = facts_of(tiny_base, tiny_gguf, tmp_path).digests
    incumbent = tmp_path / "tiny@4"
    incumbent.mkdir()
    assert asked(tiny_base, None, incumbent) == digests
    for template, is_same in ((digests.chat_template, True), ("0" * 64, False)):
        told = {
            "base_model": digests.base_model,
            "tokenizer": digests.tokenizer,
            "chat_template": template,
        }
        (incumbent / "manifest.json").write_text(json.dumps({"digests": told}))
        if is_same:
            assert asked(tiny_base, None, incumbent) == digests
        else:
            with pytest.raises(ParityError, match="tiny@4, was trained on another chat template"):
                asked(tiny_base, None, incumbent)
