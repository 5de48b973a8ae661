"""Real LoRA runs on a tiny model, in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from honed.domain.fingerprint import Fingerprint
from honed.domain.job import Progress, ScoreJob, TrainJob, TrainResult, TrainSettings
from honed.errors import EmptyDataError, TrainingError
from tests.tiny_models import conversations, make_tiny_adapter, offline

SETTINGS = TrainSettings(
    r=8,
    lora_alpha=16,
    lora_dropout=0.05,
    num_train_epochs=2,
    gradient_accumulation_steps=1,
    learning_rate=5e-3,
    threads=1,
    logging_steps=2,
    device="cpu",
    validation_fraction=0.0,
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(48)))
    return path


def job(base: Path, data: Path, folder: Path, **changed: Any) -> TrainJob:
    fields: dict[str, Any] = {
        "run_id": "chat-tiny-1",
        "model_id": "ops@1",
        "scenario": "ops",
        "learn_model": "chat",
        "base_model": str(base),
        "data_path": str(data),
        "held_out_path": str(data),
        "incumbent_path": None,
        "output_path": str(folder / "adapter"),
        "result_path": str(folder / "result.json"),
        "settings": SETTINGS,
        "episode_ids": ("e1", "e2"),
    }
    return TrainJob(**fields | changed)


def run(job: TrainJob) -> tuple[TrainResult, list[Progress]]:
    offline()
    from honed.worker.train import train

    progress: list[Progress] = []
    Path(job.output_path).parent.mkdir(parents=True, exist_ok=True)
    return train(job, progress.append), progress


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult, list[Progress]]:
    """One run that several tests look at."""
    folder = tmp_path_factory.mktemp("run")
    result, progress = run(job(tiny_base, data, folder))
    return folder / "adapter", result, progress


def test_training_lowers_the_loss(trained: tuple[Path, TrainResult, list[Progress]]) -> None:
    """Loss falls, and the trained replies become likelier under the adapter than under the base."""
    _, result, progress = trained
    losses = [line.loss for line in progress if line.loss is not None]
    assert losses[-1] < losses[0] / 2
    assert result.metrics.final_loss == losses[-1]
    assert len(result.scores) == 48
    assert all(score.candidate > score.incumbent + 1 for score in result.scores)


def test_progress_tells_how_far_the_run_is(
    trained: tuple[Path, TrainResult, list[Progress]],
) -> None:
    """Phases come in order, steps rise to the total."""
    _, result, progress = trained
    phases = list(dict.fromkeys(line.phase for line in progress))
    assert phases == ["training", "exporting", "scoring"]
    last = [line for line in progress if line.loss is not None][-1]
    assert last.step == last.total_steps == result.metrics.num_steps == 24
    assert last.tokens_per_second is not None
    assert last.tokens_per_second > 0


def test_adapter_folder_holds_what_is_promised(
    trained: tuple[Path, TrainResult, list[Progress]], tiny_base: Path
) -> None:
    """Five files, no pickle; PEFT loads them; the manifest explains them."""
    from peft import PeftModel

    from honed.worker.base_model import load_model

    folder, result, _ = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
        "fingerprint.json",
        "manifest.json",
    ]
    PeftModel.from_pretrained(load_model(tiny_base, "cpu"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["digests"]["adapter"] == result.digest
    assert manifest["episode_ids"] == ["e1", "e2"]
    assert manifest["settings"]["learning_rate"] == 5e-3
    assert manifest["num_trainable"] > 0


def test_fingerprint_tells_adapter_from_base(
    trained: tuple[Path, TrainResult, list[Progress]],
) -> None:
    """Of a small vocabulary every token is there, and base and adapter differ."""
    import msgspec

    folder, _, _ = trained
    found = msgspec.json.decode((folder / "fingerprint.json").read_bytes(), type=Fingerprint)
    for prompt in found.prompts:
        assert prompt.token_ids == tuple(range(found.vocab_size))
        assert max(abs(a - b) for a, b in zip(prompt.base, prompt.adapter, strict=True)) > 1


def test_large_vocabulary_is_compared_where_the_base_is_likely(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Beyond 4096 tokens, the 256 that the base finds likeliest are kept, the likeliest first."""
    from honed.worker.adapted import AdaptedModel
    from honed.worker.base_model import load_tokenizer
    from honed.worker.fingerprint import fingerprint_of
    from honed.worker.pretrain import make_model, save_base

    tokenizer = load_tokenizer(tiny_base)
    save_base(make_model(5000, hidden_size=64, num_layers=1), tokenizer, tmp_path / "base")
    adapter = make_tiny_adapter(tmp_path / "base", tmp_path / "adapter")
    model = AdaptedModel(tmp_path / "base", "cpu", {"adapter": adapter})
    found = fingerprint_of(model, tokenizer, adapter="adapter")
    assert found.vocab_size == 5000
    for prompt in found.prompts:
        assert len(prompt.token_ids) == 256
        assert list(prompt.base) == sorted(prompt.base, reverse=True)


def test_same_seed_gives_the_same_bytes(
    trained: tuple[Path, TrainResult, list[Progress]], tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """Equal data, settings and threads give equal files; another seed gives others."""
    folder, result, _ = trained
    again, _ = run(job(tiny_base, data, tmp_path / "again"))
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter.gguf"):
        assert (folder / name).read_bytes() == (tmp_path / "again/adapter" / name).read_bytes()
    assert again.digest == result.digest
    assert again.scores == result.scores
    other = TrainSettings(**{**as_dict(SETTINGS), "seed": 1, "max_steps": 2})
    assert run(job(tiny_base, data, tmp_path / "other", settings=other))[0].digest != result.digest


def test_scores_against_itself_are_equal(
    trained: tuple[Path, TrainResult, list[Progress]], tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """A candidate that is the incumbent gains nothing, and scores as it did when it was trained."""
    from honed.worker.scores import score

    folder, result, _ = trained
    scores = score(
        ScoreJob(
            base_model=str(tiny_base),
            held_out_path=str(data),
            candidate_path=str(folder),
            incumbent_path=str(folder),
            result_path=str(tmp_path / "result.json"),
            device="cpu",
            threads=1,
        ),
        lambda progress: None,
    ).scores
    assert all(one.candidate == one.incumbent for one in scores)
    assert [one.candidate for one in scores] == [one.candidate for one in result.scores]


def test_score_is_the_mean_of_the_counted_tokens(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """The score of an episode is what the model says of each counted token, computed one by one."""
    import torch

    from honed.worker.base_model import load_model, load_tokenizer
    from honed.worker.examples import read_examples
    from honed.worker.rows import IGNORED, rows_of
    from honed.worker.scores import score

    job_ = ScoreJob(
        base_model=str(tiny_base),
        held_out_path=str(data),
        candidate_path=None,
        incumbent_path=None,
        result_path=str(tmp_path / "result.json"),
        device="cpu",
        threads=1,
    )
    first = score(job_, lambda progress: None).scores[0]
    tokenizer = load_tokenizer(tiny_base)
    row = rows_of(read_examples(data)[:1], tokenizer, max_length=2048)[0]
    with torch.inference_mode():
        logits = load_model(tiny_base, "cpu")(input_ids=torch.tensor([row.input_ids])).logits[0]
    log_probs = [
        torch.log_softmax(logits[i - 1], -1)[label].item()
        for i, label in enumerate(row.labels)
        if label != IGNORED
    ]
    assert first.num_tokens == len(log_probs)
    assert first.candidate == pytest.approx(sum(log_probs) / len(log_probs), abs=1e-4)


def test_nothing_to_learn_is_said(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    """When cutting leaves no reply in any row, the run says so instead of training on nothing."""
    short = TrainSettings(**{**as_dict(SETTINGS), "max_length": 16})
    with pytest.raises(EmptyDataError, match="none of the 48 conversations"):
        run(job(tiny_base, data, tmp_path, settings=short))


def test_nan_stops_the_run(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    """A loss that is no number ends the run at the first log line, with advice."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="step 2 is nan") as raised:
        run(job(broken, data, tmp_path))
    assert "learning_rate" in (raised.value.advice or "")


def test_unknown_architecture_is_refused_before_training(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """What could not be served is not trained."""
    other = shutil.copytree(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="GPT2LMHeadModel"):
        run(job(other, data, tmp_path))
    assert not (tmp_path / "adapter").exists()


def test_target_module_that_does_not_exist_is_named(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    """PEFT's complaint arrives as a TrainingError."""
    wrong = TrainSettings(**{**as_dict(SETTINGS), "target_modules": ("c_attn",)})
    with pytest.raises(TrainingError, match="c_attn"):
        run(job(tiny_base, data, tmp_path, settings=wrong))


def as_dict(settings: TrainSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
