"""Real DPO and KTO runs on a tiny model, and what decides between the methods."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from honed.domain.job import Progress, TrainJob, TrainResult, TrainSettings
from honed.errors import EmptyDataError, TrainingError, UnsupportedError
from tests.tiny_models import SUBJECTS, make_tiny_adapter
from tests.unit.worker.test_train import job, run

SETTINGS = TrainSettings(
    r=8,
    lora_alpha=16,
    num_train_epochs=3,
    gradient_accumulation_steps=1,
    learning_rate=5e-3,
    threads=1,
    logging_steps=2,
    device="cpu",
    validation_fraction=0.0,
)
GOOD, BAD = "restart", "scale"


def prompt(i: int) -> list[dict[str, str]]:
    subject = SUBJECTS[i % 8]
    return [
        {"role": "system", "content": "You operate services."},
        {"role": "user", "content": f"alert {i}: what is wrong?"},
        {"role": "assistant", "content": f"{subject}: inspect"},
        {"role": "user", "content": f"the {subject} is at {50 + i} percent"},
    ]


def answer(i: int, action: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f"{SUBJECTS[i % 8]}: {action}"}]


def pairs(count: int = 32) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt(i), "chosen": answer(i, GOOD), "rejected": answer(i, BAD)}
        for i in range(count)
    ]


def labelled(count: int = 32) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt(i),
            "completion": answer(i, BAD if i % 2 else GOOD),
            "label": i % 2 == 0,
        }
        for i in range(count)
    ]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(folder: Path, action: str) -> Path:
    """Held-out conversations in which the last reply, with that action, is what is scored."""
    rows = [
        {"messages": prompt(i) + answer(i, action), "trained_turns": [4]}
        for i in range(101, 117, 2)
    ]
    return written(folder, rows, f"{action}.jsonl")


def trained(
    base: Path, folder: Path, rows: list[dict[str, Any]], settings: TrainSettings = SETTINGS
) -> tuple[TrainResult, list[Progress]]:
    folder.mkdir(exist_ok=True)
    return run(
        job(
            base,
            written(folder, rows),
            folder,
            settings=settings,
            held_out_path=str(answers(folder, GOOD)),
        )
    )


def gain(base: Path, folder: Path, action: str) -> float:
    """What an answer has gained over the base, nats per token."""
    from honed.domain.job import ScoreJob
    from honed.worker.scores import score

    scores = score(
        ScoreJob(
            base_model=str(base),
            held_out_path=str(answers(folder, action)),
            candidate_path=str(folder / "adapter"),
            incumbent_path=None,
            result_path="",
            device="cpu",
            threads=1,
        ),
        lambda progress: None,
    ).scores
    return sum(each.candidate - each.incumbent for each in scores) / len(scores)


@pytest.mark.feature("SE-112")
def test_pairs_are_learned_by_dpo(tiny_base: Path, tmp_path: Path) -> None:
    """The preference loss falls from log 2, margins rise, and the better answer gains on the worse one."""
    result, progress = trained(tiny_base, tmp_path / "run", pairs())
    assert result.method == "dpo"
    assert result.method_reason == "the data are 32 pairs of answers"
    logged = [line for line in progress if line.loss is not None]
    assert logged[0].loss == pytest.approx(0.6931, abs=0.05)
    assert logged[-1].loss is not None
    assert logged[-1].loss < 0.2
    assert logged[-1].reward_margin is not None
    assert logged[-1].reward_margin > 1
    assert logged[-1].reward_accuracy == 1.0
    assert result.metrics.extra["reward_accuracy"] == 1.0
    assert gain(tiny_base, tmp_path / "run", GOOD) > gain(tiny_base, tmp_path / "run", BAD) + 0.5
    manifest = json.loads((tmp_path / "run/adapter/manifest.json").read_text())
    assert manifest["method"] == "dpo"
    assert manifest["num_rows"] == 32


def test_labelled_answers_are_learned_by_kto(tiny_base: Path, tmp_path: Path) -> None:
    """Good answers gain on bad ones, though no two were ever compared under one prompt."""
    result, progress = trained(tiny_base, tmp_path / "run", labelled())
    assert result.method == "kto"
    logged = [line for line in progress if line.loss is not None]
    assert logged[0].loss == pytest.approx(0.5, abs=0.1)
    assert logged[-1].loss is not None
    assert logged[-1].loss < 0.35
    assert gain(tiny_base, tmp_path / "run", GOOD) > gain(tiny_base, tmp_path / "run", BAD) + 0.5


def test_failures_teach_what_successes_do_not(tiny_base: Path, tmp_path: Path) -> None:
    """Where a subject has failures alone, KTO turns from what failed; imitating the successes of others does not."""
    failed, untried = "scale", "drain"
    rows = [
        {
            "prompt": prompt(i),
            "completion": answer(i, failed if i % 2 else GOOD),
            "label": not i % 2,
        }
        for i in range(48)
    ]
    found = {}
    for method in ("sft", "kto"):
        settings = replace(SETTINGS, method=method, num_train_epochs=100, max_steps=24)
        trained(tiny_base, tmp_path / method, rows, settings)
        found[method] = [gain(tiny_base, tmp_path / method, action) for action in (failed, untried)]
    turned = {method: there - away for method, (away, there) in found.items()}
    assert turned["kto"] > turned["sft"] + 0.3, found


def test_prompt_and_other_voices_are_not_learned(tiny_base: Path) -> None:
    """What counts of an answer are the assistant's own tokens behind the prompt; tools and users say the rest."""
    from honed.worker.base_model import load_tokenizer
    from honed.worker.examples import Preference, _lesson
    from honed.worker.preferences import prepare_pairs
    from honed.worker.rows import IGNORED

    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "disk"}}}
    acted = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "99 percent"},
        *answer(0, GOOD),
    ]
    lesson = _lesson({"prompt": prompt(0), "chosen": acted, "rejected": answer(0, BAD)})
    assert isinstance(lesson, Preference)
    tokenizer = load_tokenizer(tiny_base)
    (pair,) = prepare_pairs([lesson], tokenizer, max_length=512).rows
    (text,) = pair.chosen  # type: ignore[union-attr]
    chosen = [label for label in text.labels if label != IGNORED]
    said = tokenizer.decode(chosen)
    assert "look" in said
    assert f"{SUBJECTS[0]}: {GOOD}<|im_end|>" in said
    for word in ("percent", "inspect", "alert", "operate"):
        assert word not in said


@pytest.mark.parametrize(
    ("rows", "method", "error", "says"),
    [
        ([], "auto", EmptyDataError, "the data file is empty"),
        (labelled(8)[::2], "auto", EmptyDataError, "all 4 answers are good"),
        (labelled(8)[1::2], "auto", EmptyDataError, "all 4 answers are bad"),
        (labelled(8)[1::2], "sft", EmptyDataError, "none of the 4 answers is good"),
        (pairs(4) + labelled(2), "auto", TrainingError, "mixes 4 pairs of answers, 2 labelled"),
        (labelled(4), "dpo", TrainingError, "dpo needs pairs of answers, and the data are 4 label"),
        (
            [{"messages": prompt(0)}],
            "kto",
            TrainingError,
            "kto needs answers with a label, and the data are 1 conversations",
        ),
        (pairs(4), "grpo", UnsupportedError, "learns from rollouts, which this version cannot"),
        (
            [{"prompt": prompt(0), "chosen": answer(0, GOOD), "rejected": answer(0, GOOD)}],
            "auto",
            EmptyDataError,
            "none of the 1 pairs can be compared within 2048 tokens .*whose two answers are the same",
        ),
        (
            [{"prompt": prompt(0), "completion": [], "label": 1}],
            "auto",
            TrainingError,
            "label is 1",
        ),
    ],
)
def test_data_that_cannot_teach_are_refused_with_the_reason(
    tiny_base: Path,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    method: Any,
    error: type[Exception],
    says: str,
) -> None:
    """Nothing is trained on what says nothing, and what to do about it is said."""
    settings = TrainSettings(method=method, device="cpu", threads=1)
    with pytest.raises(error, match=says) as raised:
        trained(tiny_base, tmp_path / "run", rows, settings)
    assert raised.value.advice  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "rows", "lines", "found"),
    [
        ("auto", pairs(3), [0, 1, 2], "dpo"),
        ("auto", labelled(4), [0, 1, 2, 3], "kto"),
        ("sft", pairs(3), [0, 1, 2], "sft"),
        ("sft", labelled(4), [0, 2], "sft"),
        ("kto", pairs(2), [0, 0, 1, 1], "kto"),
    ],
    ids=["pairs", "labels", "better answers", "good answers", "pairs by their labels"],
)
def test_rows_are_brought_into_the_form_of_the_method(
    method: Any, rows: list[dict[str, Any]], lines: list[int], found: str
) -> None:
    """A method that somebody asks for takes what it can read of each row, and knows whose line it is."""
    from honed.worker.examples import _lesson
    from honed.worker.method import choose

    choice = choose(method, [_lesson(row) for row in rows])
    assert choice.method == found
    assert list(choice.lines) == lines
    assert ("asks for it" in choice.reason) is (method != "auto")


@pytest.mark.feature("TR-024")
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"bias": "lora_only"}, "trained biases"),
    ],
    ids=["dora", "all biases", "biases of the targets"],
)
def test_what_could_not_be_served_is_refused_first(
    tiny_base: Path, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    """An adapter that llama.cpp would apply in part only is not trained."""
    with pytest.raises(UnsupportedError, match=says):
        trained(tiny_base, tmp_path / "run", pairs(4), TrainSettings(**changed))
    assert not (tmp_path / "run/adapter").exists()


@pytest.mark.feature("TR-019", "TR-027")
def test_four_bits_are_told_and_left_out_without_cuda(tiny_base: Path, tmp_path: Path) -> None:
    """Where bitsandbytes cannot work the run goes on without it, and says so; rank-stabilised scale is kept."""
    settings = TrainSettings(
        load_in_4bit=True, use_rslora=True, max_steps=1, device="cpu", threads=1
    )
    result, _ = trained(tiny_base, tmp_path / "run", pairs(4), settings)
    assert (
        result.metrics.chosen_settings["load_in_4bit"] == "false: bitsandbytes needs CUDA, not cpu"
    )
    manifest = json.loads((tmp_path / "run/adapter/manifest.json").read_text())
    assert manifest["settings"]["load_in_4bit"] is False
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert config["use_rslora"] is True


def test_a_run_goes_on_from_the_adapter_in_service(tiny_base: Path, tmp_path: Path) -> None:
    """It begins with that adapter's weights, and prefers against that adapter, not against the base."""
    adapter = make_tiny_adapter(tiny_base, tmp_path / "ops@1", strength=0.05)
    settings = TrainSettings(
        start_from="adapter", r=8, lora_alpha=16, max_steps=1, learning_rate=1e-6, logging_steps=1,
        validation_fraction=0.0, device="cpu", threads=1,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    rows = written(tmp_path / "run", pairs(4))
    made = job(
        tiny_base,
        rows,
        tmp_path / "run",
        settings=settings,
        held_out_path=None,
        start_path=str(adapter),
    )
    result, progress = run(made)
    first = next(line.loss for line in progress if line.loss is not None)
    assert first == pytest.approx(0.693147, abs=1e-5)
    assert result.started_from == "ops@1"
    manifest = json.loads((tmp_path / "run/adapter/manifest.json").read_text())
    assert manifest["started_from"] == "ops@1"
    assert sorted(path.name for path in (tmp_path / "run/adapter").iterdir() if path.is_dir()) == []
    before, after = weights(adapter), weights(tmp_path / "run/adapter")
    assert before.keys() == after.keys()
    assert manifest["num_trainable"] == sum(values.numel() for values in after.values())
    assert all((before[name] - after[name]).abs().max() < 1e-4 for name in before)
    assert result.metrics.probe_kl is not None
    assert result.metrics.probe_kl > 1e-3


def test_an_adapter_of_another_shape_is_not_gone_on_from(tiny_base: Path, tmp_path: Path) -> None:
    """The run begins with the base then, and says why."""
    adapter = make_tiny_adapter(tiny_base, tmp_path / "ops@1")
    settings = TrainSettings(
        start_from="adapter", r=4, lora_alpha=16, max_steps=1, learning_rate=1e-6, device="cpu",
        threads=1,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    rows = written(tmp_path / "run", pairs(4))
    made = job(
        tiny_base,
        rows,
        tmp_path / "run",
        settings=settings,
        held_out_path=None,
        start_path=str(adapter),
    )
    result, _ = run(made)
    assert result.started_from is None
    told = result.metrics.chosen_settings["start_from"]
    assert told == "base: ops@1 has r 8, and the settings ask for 4"
    assert result.metrics.probe_kl == pytest.approx(0, abs=1e-4)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def test_divergence_is_that_of_the_two_models(tiny_base: Path, tmp_path: Path) -> None:
    """On a probe set of one's own: KL of candidate from base after each token of the reply, computed one by one."""
    import torch

    from honed.worker.adapted import AdaptedModel
    from honed.worker.base_model import load_tokenizer
    from honed.worker.examples import read_examples
    from honed.worker.probe import probe_kl
    from honed.worker.rows import IGNORED, rows_of

    adapter = make_tiny_adapter(tiny_base, tmp_path / "ops@1", strength=0.1)
    probe = written(tmp_path, [{"messages": [*prompt(0)[:2], *answer(0, GOOD)]}], "probe.jsonl")
    model = AdaptedModel(tiny_base, "cpu", {"it": adapter})
    tokenizer = load_tokenizer(tiny_base)
    found = probe_kl(model, tokenizer, adapter="it", path=probe)
    (row,) = rows_of(read_examples(probe), tokenizer, max_length=512)
    ids = torch.tensor([row.input_ids])
    with model.using("it") as asked:
        p = torch.log_softmax(asked(input_ids=ids).logits[0].double(), -1)
    with model.using(None) as asked:
        q = torch.log_softmax(asked(input_ids=ids).logits[0].double(), -1)
    each = [
        float((p[i - 1].exp() * (p[i - 1] - q[i - 1])).sum())
        for i, label in enumerate(row.labels)
        if label != IGNORED
    ]
    assert found == pytest.approx(sum(each) / len(each), rel=1e-4)
    assert found > 1e-3
    built_in = probe_kl(model, tokenizer, adapter="it")
    assert built_in is not None
    assert built_in > 1e-3


def test_the_probe_set_is_frozen() -> None:
    """Figures of adapters that were trained at different times compare only on the same texts."""
    from hashlib import sha256

    from honed.worker.probe import PROBE

    said = json.dumps([example.messages for example in PROBE], ensure_ascii=False)
    digest = sha256(said.encode()).hexdigest()
    assert digest == "2abfa7fe37b9c909df61bdf59c8e27d2a7cc043741e01ba26cfafca32292cb65"


def test_one_answer_at_a_time_is_raised_to_two(tiny_base: Path, tmp_path: Path) -> None:
    """KTO compares with a neighbour in the batch: where batches are of one row, they become two, steps stay."""
    settings = TrainSettings(
        per_device_train_batch_size=1, gradient_accumulation_steps=4, num_train_epochs=1,
        validation_fraction=0.0, device="cpu", threads=1,
    )  # fmt: skip
    result, _ = trained(tiny_base, tmp_path / "run", labelled(16), settings)
    assert result.metrics.num_steps == 4


@pytest.mark.parametrize("method", ["dpo", pytest.param("kto", marks=pytest.mark.long)])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    """Also one that began with an adapter, which stays its reference; a validation split is compared alike."""
    from honed.worker.stopping import StoppedError
    from tests.unit.worker.test_resume import run as run_until
    from tests.unit.worker.test_resume import weights as weights_of

    adapter = make_tiny_adapter(tiny_base, tmp_path / "ops@1", strength=0.05)
    settings = replace(
        SETTINGS, start_from="adapter", num_train_epochs=2, save_steps=2, validation_fraction=0.2
    )

    def order(name: str) -> TrainJob:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = written(folder, pairs(20) if method == "dpo" else labelled(20))
        return job(
            tiny_base,
            rows,
            folder,
            settings=settings,
            held_out_path=None,
            start_path=str(adapter),
            checkpoints_path=str(folder / "checkpoints"),
        )

    whole, _ = run_until(order("whole"))
    with pytest.raises(StoppedError):
        run_until(order("cut"), stop_after=4)
    again, told = run_until(order("cut"))
    assert any("goes on after step" in (line.note or "") for line in told)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")
    assert whole.method == again.method == method
    assert again.metrics.extra["num_evaluations"] == 2


def test_auto_settings_are_those_of_the_data(tiny_base: Path, tmp_path: Path) -> None:
    """Nobody has chosen anything: rows of 60 tokens get room for 64, and the manifest says why."""
    settings = TrainSettings(
        preset="auto", fixed=("max_steps", "device", "threads"), max_steps=1, device="cpu", threads=1
    )  # fmt: skip
    rows = [{"messages": prompt(i) + answer(i, GOOD)} for i in range(24)]
    result, _ = trained(tiny_base, tmp_path / "run", rows, settings)
    manifest = json.loads((tmp_path / "run/adapter/manifest.json").read_text())
    used, told = manifest["settings"], result.metrics.chosen_settings
    assert used["method"] == "sft"
    assert used["max_length"] % 64 == 0
    assert used["max_length"] < 256
    assert (used["r"], used["lora_alpha"], used["num_train_epochs"]) == (8, 32, 6)
    assert used["learning_rate"] == pytest.approx(15 * 5e-5 * (2000 / 64) ** 0.0775, rel=0.01)
    assert told["learning_rate"].endswith("hidden size 64, family qwen, 1 steps")
    assert manifest["metrics"]["chosen_settings"] == told


def test_texts_of_one_answer_are_labelled_each_and_paired_together(tiny_base: Path) -> None:
    """Where a template shows past replies otherwise than new ones, no text has the whole answer."""
    from honed.worker.examples import Labelled, Preference, _lesson
    from honed.worker.preferences import prepare_labelled, prepare_pairs
    from tests.unit.worker.test_rows import FORGETFUL, with_template

    tokenizer = with_template(tiny_base, FORGETFUL)
    told = [*answer(0, BAD), {"role": "user", "content": "and now?"}, *answer(0, GOOD)]
    judged = _lesson({"prompt": prompt(0), "completion": told, "label": True})
    assert isinstance(judged, Labelled)
    found = prepare_labelled([judged], tokenizer, max_length=512, seed=0)
    assert [row.is_good for row in found.rows] == [True, True]  # type: ignore[union-attr]
    assert {row.example for row in found.rows} == {0}
    compared = _lesson({"prompt": prompt(0), "chosen": told, "rejected": answer(0, BAD)})
    assert isinstance(compared, Preference)
    (pair,) = prepare_pairs([compared], tokenizer, max_length=512).rows
    assert (len(pair.chosen), len(pair.rejected)) == (2, 1)  # type: ignore[union-attr]
    assert pair.num_targets == sum(row.num_targets for row in (*found.rows, *pair.rejected))  # type: ignore[union-attr]


def test_an_answer_in_several_texts_is_compared_by_their_sum(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The loss is TRL's where each answer is one text; of several, it is that of the summed log-probabilities."""
    import torch

    from honed.worker.base_model import load_model, load_tokenizer
    from honed.worker.dpo import _summed, dpo_trainer
    from honed.worker.examples import Preference, _lesson
    from honed.worker.preferences import PairRow, prepare_pairs
    from honed.worker.split import Split

    tokenizer = load_tokenizer(tiny_base)
    lessons = [lesson for row in pairs(3) if isinstance(lesson := _lesson(row), Preference)]
    rows = prepare_pairs(lessons, tokenizer, max_length=512).rows
    trainer = dpo_trainer(
        load_model(tiny_base, "cpu"),
        tokenizer,
        Split(rows),
        SETTINGS,
        tmp_path,  # type: ignore[arg-type]
    )
    for name, weight in trainer.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    answers = batch["answers"]
    plain = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    inputs = {name: values for name, values in batch.items() if name != "answers"}
    assert trainer.loss_of_sums(trainer.model, inputs, answers).item() == pytest.approx(
        plain.item(), abs=1e-5
    )
    assert plain.item() != pytest.approx(0.6931, abs=1e-3)
    first = rows[0]
    assert isinstance(first, PairRow)
    twice = PairRow(first.chosen * 2, first.rejected)
    both = dpo_trainer(load_model(tiny_base, "cpu"), tokenizer, Split([twice]), SETTINGS, tmp_path)
    inputs = both.data_collator([both.train_dataset[0]])
    answers = inputs.pop("answers")
    assert answers.tolist() == [0, 0, 1]
    sums = _summed(both.model, inputs, answers)
    first_text, same_text, other = _summed(both.model, inputs, torch.tensor([0, 1, 2])).tolist()
    assert sums.tolist() == pytest.approx([first_text + same_text, other], abs=1e-4)


def test_pairs_of_several_turns_are_learned_where_the_template_forgets(
    tiny_base: Path, tmp_path: Path
) -> None:
    """As with Qwen3's, which shows past replies without their thoughts: the better way through a task gains."""
    from tests.unit.worker.test_rows import FORGETFUL

    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(FORGETFUL)
    asked = {"role": "user", "content": "and now?"}
    rows = [
        {
            "prompt": prompt(i),
            "chosen": [*answer(i, BAD), asked, *answer(i, GOOD)],
            "rejected": [*answer(i, BAD), asked, *answer(i, BAD)],
        }
        for i in range(16)
    ]
    _, progress = trained(base, tmp_path / "run", rows)
    logged = [line for line in progress if line.loss is not None]
    assert logged[0].loss == pytest.approx(0.6931, abs=0.05)
    assert logged[-1].loss is not None
    assert logged[-1].loss < 0.5
    assert logged[-1].reward_accuracy == 1.0
