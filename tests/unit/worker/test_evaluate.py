"""What a model foretells of a test set: counted as by hand, whatever the batches."""

import json
from pathlib import Path

import pytest

from honed.domain.evaluating import EvaluateJob, EvaluateResult, TokeniseJob
from tests.tiny_models import conversations

torch = pytest.importorskip("torch")


def _written(path: Path, count: int = 12) -> Path:
    rows = conversations(count)
    rows[3]["messages"] = rows[3]["messages"][:3]  # lengths differ
    rows.append({"messages": [{"role": "user", "content": "nobody answers"}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _evaluated(base: Path, data: Path, adapter: Path | None = None) -> EvaluateResult:
    from honed.worker.evaluate import evaluate

    job = EvaluateJob(
        base_model=str(base),
        adapter_path=str(adapter) if adapter else None,
        data_path=str(data),
        result_path="",
        device="cpu",
        threads=1,
    )
    return evaluate(job, lambda progress: None)


def test_foretold_tokens_are_those_of_a_count_by_hand(tmp_path: Path, tiny_base: Path) -> None:
    """First choices and log-probabilities of the whole logits of each row alone, position by position."""
    from honed.worker.base_model import load_model, load_tokenizer
    from honed.worker.examples import read_examples
    from honed.worker.rows import IGNORED, rows_of

    data = _written(tmp_path / "test.jsonl")
    found = _evaluated(tiny_base, data).rows
    assert len(found) == 13
    assert found[-1].num_tokens == 0
    tokenizer, model = load_tokenizer(tiny_base), load_model(tiny_base, "cpu")
    for row in rows_of(read_examples(data), tokenizer, max_length=2048):
        with torch.inference_mode():
            log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        counted = [i for i, label in enumerate(row.labels) if i and label != IGNORED]
        right = [int(log_probs[i - 1].argmax()) == row.input_ids[i] for i in counted]
        by_hand = sum(float(log_probs[i - 1, row.input_ids[i]]) for i in counted)
        assert found[row.example].num_tokens == len(counted)
        assert found[row.example].num_correct == sum(right)
        assert found[row.example].log_prob == pytest.approx(by_hand, abs=1e-3)


def test_a_row_counts_the_same_alone_and_in_a_batch(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory allows decides how rows are put together, not what is counted."""
    data = _written(tmp_path / "test.jsonl")
    together = _evaluated(tiny_base, data).rows
    monkeypatch.setattr("honed.worker.foretelling.MAX_LOGITS", 1)
    for one, other in zip(together, _evaluated(tiny_base, data).rows, strict=True):
        assert (one.num_tokens, one.num_correct) == (other.num_tokens, other.num_correct)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)


def test_an_adapter_answers_otherwise_than_the_base(
    tmp_path: Path, tiny_base: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The same tokens are asked, by another model."""
    data = _written(tmp_path / "test.jsonl")
    base = _evaluated(tiny_base, data).rows
    adapter = _evaluated(tiny_base, data, tiny_adapters[0]).rows
    assert [row.num_tokens for row in base] == [row.num_tokens for row in adapter]
    assert sum(row.log_prob for row in base) != sum(row.log_prob for row in adapter)


def test_tokens_are_given_until_there_are_enough(tmp_path: Path, tiny_base: Path) -> None:
    """Whole rows, and as many as are needed for the tokens that were asked for."""
    from honed.worker.base_model import load_tokenizer
    from honed.worker.evaluate import tokenise

    data = _written(tmp_path / "test.jsonl")

    def rows(num_targets: int) -> int:
        job = TokeniseJob(
            base_model=str(tiny_base),
            data_path=str(data),
            result_path="",
            max_length=256,
            num_targets=num_targets,
        )
        found = tokenise(job).rows
        assert sum(len(row.targets) for row in found[:-1]) < num_targets
        return len(found)

    assert (rows(1), rows(10_000)) == (1, 12)
    job = TokeniseJob(
        base_model=str(tiny_base),
        data_path=str(data),
        result_path="",
        max_length=256,
        num_targets=1,
    )
    (row,) = tokenise(job).rows
    said = load_tokenizer(tiny_base).decode([row.input_ids[i] for i in row.targets])
    assert said == "disk: inspect<|im_end|>disk: restart<|im_end|>"


def test_a_named_template_is_what_rows_are_read_by(tmp_path: Path, tiny_base: Path) -> None:
    """As the run has it that trained with one: the text round the turns is another."""
    from honed.worker.base_model import load_tokenizer
    from honed.worker.evaluate import tokenise

    job = TokeniseJob(
        base_model=str(tiny_base),
        data_path=str(_written(tmp_path / "test.jsonl")),
        result_path="",
        max_length=512,
        num_targets=1,
        chat_template="zephyr",
    )
    (row,) = tokenise(job).rows
    text = load_tokenizer(tiny_base).decode(row.input_ids)
    assert text.startswith("<|system|>\nYou operate services.")
