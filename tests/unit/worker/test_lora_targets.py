"""A LoRA that could not be served is refused before anything is trained."""

from pathlib import Path

import pytest

from honed.domain.job import TrainJob, TrainSettings
from honed.errors import TrainingError
from honed.worker.base_model import load_config
from honed.worker.gguf_base import write_base
from honed.worker.lora_targets import check_targets
from honed.worker.train import train
from tests.unit.worker.families import FAMILIES, log_probabilities, make_adapter, make_model
from tests.unit.worker.llama import llama_server, next_token_logprobs


@pytest.mark.parametrize(
    ("family", "target", "said"),
    [
        ("llama, tied", "lm_head", "ties it to its embeddings"),
        ("llama, tied", "embed_tokens", "ties it to its embeddings"),
        ("llama", "embed_tokens", "of type Embedding"),
        ("llama", "input_layernorm", "of type LlamaRMSNorm"),
        ("lfm2", "conv.conv", "of type Conv1d"),
        ("phi3", "q_proj", "no such module"),
    ],
)
def test_target_that_llama_cpp_cannot_apply_is_refused(
    tmp_path: Path, family: str, target: str, said: str
) -> None:
    """The refusal names the module and the ones that can be taken."""
    base = make_model(FAMILIES[family], tmp_path / "base")
    with pytest.raises(TrainingError, match=said) as raised:
        check_targets(*load_config(base), ["down_proj" if family != "lfm2" else "w1", target])
    assert target in str(raised.value)
    assert "train.target_modules" in (raised.value.advice or "")


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_head_of_its_own_is_served_with_its_lora(tmp_path: Path) -> None:
    """An untied output layer is a linear layer like any other."""
    base = make_model(FAMILIES["llama"], tmp_path / "base")
    targets = ["lm_head", "q_proj"]
    check_targets(*load_config(base), targets)
    write_base(base, tmp_path / "base.gguf")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=targets)
    prompt_ids = list(range(5, 30))
    expected = log_probabilities(base, adapter, prompt_ids)
    of_base = log_probabilities(base, None, prompt_ids)
    log = tmp_path / "log"
    with llama_server(tmp_path / "base.gguf", adapter / "adapter.gguf", log=log) as client:
        served = next_token_logprobs(client, prompt_ids, len(expected))
    assert max(abs(s - e) for s, e in zip(served, expected, strict=True)) < 1e-4
    assert max(abs(b - e) for b, e in zip(of_base, expected, strict=True)) > 0.5


@pytest.mark.parametrize("outcome", ["target", "architecture"])
def test_train_job_is_refused_before_its_data_are_read(tmp_path: Path, outcome: str) -> None:
    """A run that could not be served costs nothing: there are no data here to read."""
    base = make_model(FAMILIES["llama, tied"], tmp_path / "base")
    if outcome == "architecture":
        path = base / "config.json"
        path.write_text(path.read_text().replace("LlamaForCausalLM", "MixtralForCausalLM"))
    targets = ("embed_tokens",) if outcome == "target" else None
    job = TrainJob(
        run_id="r",
        model_id="tiny@1",
        scenario="tiny",
        learn_model="chat",
        base_model=str(base),
        data_path=str(tmp_path / "none.jsonl"),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(tmp_path / "out"),
        result_path="",
        settings=TrainSettings(target_modules=targets, device="cpu", threads=1),
    )
    with pytest.raises(TrainingError, match=r"embed_tokens|MixtralForCausalLM") as raised:
        train(job, lambda progress: None)
    assert raised.value.advice
    assert not (tmp_path / "out").exists()
