"""A run as a script of its own: torch, transformers, peft and trl, without honed.

It trains on the same rows with the same masks and settings, one batch at a time; it has no status file, no GGUF, and
no way to go on.
"""

import json
from pathlib import Path

import msgspec

from honed.config.run_file import RunFile
from honed.domain.chat_templates import TEMPLATES
from honed.errors import ValidationError

_HEAD = '''"""LoRA training of @NAME@, written by `honed train --export`.

    pip install torch transformers peft trl
    python @FILE@
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback, set_seed
from trl import SFTConfig, SFTTrainer

CONFIG = json.loads(r"""
@CONFIG@
""")
'''

_BODY = r'''
SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool", "function": "tool"}


def messages_of(row):
    """The turns of a row, in the form of chat templates."""
    for key in ("messages", "conversations"):
        if isinstance(row.get(key), list):
            return [
                {
                    **{k: v for k, v in turn.items() if k not in ("from", "value")},
                    "role": SPEAKERS.get(turn.get("role", turn.get("from")), turn.get("role", turn.get("from"))),
                    "content": turn.get("content", turn.get("value")),
                }
                for turn in row[key]
            ]
    if "instruction" in row:
        answer = {"role": "assistant", "content": row.get("output", row.get("response"))}
        if (row.get("input") or "").strip():
            return [
                {"role": "system", "content": row["instruction"]},
                {"role": "user", "content": row["input"]},
                answer,
            ]
        return [{"role": "user", "content": row["instruction"]}, answer]
    if "prompt" in row and "completion" in row:
        sides = [row["prompt"], row["completion"]]
        roles = ["user", "assistant"]
        return [
            turn
            for role, side in zip(roles, sides)
            for turn in ([{"role": role, "content": side}] if isinstance(side, str) else side)
        ]
    raise SystemExit(f"this script cannot read a row with the fields {sorted(row)}")


def encoded(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def with_one_bos(tokenizer, ids, labels):
    """Exactly one token that begins the text, where the tokenizer puts one before every text."""
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][:1] != [bos]:
        return ids, labels
    first = next((i for i, token in enumerate(ids) if token != bos), 0)
    return [bos, *ids[first:]], [-100, *labels[first:]]


def text_row(tokenizer, text):
    """A whole text: all of it counts."""
    ids = encoded(tokenizer, text)
    ends = tokenizer.decode(ids).rstrip()
    if tokenizer.eos_token_id is not None and not ends.endswith(tuple(tokenizer.all_special_tokens)):
        ids = [*ids, tokenizer.eos_token_id]
    return with_one_bos(tokenizer, ids, list(ids))


def chat_row(tokenizer, row):
    """A conversation: the assistant's own tokens count, up to the token that ends the reply."""
    messages = messages_of(row)
    tools = row.get("tools") or None
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    labels = [-100] * len(ids)
    chosen = row.get("trained_turns")
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i == 0 or (chosen is not None and i not in chosen):
            continue
        before = tokenizer.apply_chat_template(messages[:i], tools=tools, tokenize=False, add_generation_prompt=True)
        after = tokenizer.apply_chat_template(messages[: i + 1], tools=tools, tokenize=False)
        if not text.startswith(before) or not text.startswith(after):
            continue  # the template shows this turn otherwise in the whole conversation
        end = len(after.rstrip())
        for at, (start, stop) in enumerate(offsets):
            if len(before) <= start and stop <= end:
                labels[at] = ids[at]
    return with_one_bos(tokenizer, ids, labels)


def read(path, tokenizer, length):
    """The rows of a file as tokens and labels; those without a token that counts are left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        row = json.loads(line)
        field = CONFIG["dataset"]["text_field"]
        is_text = isinstance(row.get(field), str) and not {"messages", "conversations", "instruction"} & row.keys()
        ids, labels = text_row(tokenizer, row[field]) if is_text else chat_row(tokenizer, row)
        ids, labels = ids[:length], labels[:length]
        if any(label != -100 for label in labels[1:]):
            rows.append({"input_ids": ids, "labels": labels})
    if not rows:
        raise SystemExit(f"{path} has no row with a token to learn from")
    return datasets.Dataset.from_list(rows)


def main():
    model_of, lora, training = CONFIG["model"], CONFIG["lora"], CONFIG["training"]
    data, save = CONFIG["dataset"], CONFIG["save"]
    on_cuda = torch.cuda.is_available()
    half = torch.float16 if training["fp16"] or model_of["dtype"] == "float16" else torch.bfloat16
    quantization = None
    if model_of["load_in_4bit"] and on_cuda:
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
    tokenizer = AutoTokenizer.from_pretrained(model_of["name"])
    if CONFIG["template"] is not None:
        tokenizer.chat_template = CONFIG["template"]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        model_of["name"], dtype=half if on_cuda else torch.float32, quantization_config=quantization
    )
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = [name for name in CONFIG["target_modules"] if name in present]
    set_seed(lora["random_state"])
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["r"],
        lora_alpha=lora["lora_alpha"],
        lora_dropout=lora["lora_dropout"],
        bias=lora["bias"],
        use_rslora=lora["use_rslora"],
        target_modules=targets or "all-linear",
    )
    train = read(data["path"], tokenizer, model_of["max_seq_length"])
    validation = CONFIG["validation_path"]
    held = read(validation, tokenizer, model_of["max_seq_length"]) if validation else None
    checkpointing = lora["use_gradient_checkpointing"]
    optim = training["optim"]
    arguments = SFTConfig(
        output_dir=training["output_dir"],
        max_length=model_of["max_seq_length"],
        per_device_train_batch_size=training["per_device_train_batch_size"],
        per_device_eval_batch_size=training["per_device_train_batch_size"],
        gradient_accumulation_steps=training["gradient_accumulation_steps"],
        warmup_steps=training["warmup_steps"],
        max_steps=training["max_steps"] or -1,
        num_train_epochs=training["num_train_epochs"],
        learning_rate=training["learning_rate"],
        lr_scheduler_type=training["lr_scheduler_type"],
        optim="adamw_torch" if optim == "adamw_8bit" and not on_cuda else optim,
        weight_decay=training["weight_decay"],
        seed=training["seed"],
        logging_steps=training["logging_steps"],
        save_steps=training["save_steps"],
        save_strategy="epoch" if held else "steps",
        save_total_limit=2,
        eval_strategy="epoch" if held else "no",
        load_best_model_at_end=held is not None,
        metric_for_best_model="eval_loss" if held else None,
        use_cpu=not on_cuda,
        fp16=on_cuda and half is torch.float16,
        bf16=on_cuda and half is torch.bfloat16,
        activation_checkpointing=on_cuda if checkpointing == "unsloth" else checkpointing,
        report_to=CONFIG["trackers"] or "none",
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held,
        processing_class=tokenizer,
        peft_config=config,
    )
    if held and training["early_stopping_patience"]:
        trainer.add_callback(EarlyStoppingCallback(training["early_stopping_patience"]))
    trainer.model.print_trainable_parameters()
    trainer.train()
    trainer.save_model(save["lora_path"])
    tokenizer.save_pretrained(save["lora_path"])
    if save["merged_path"]:
        merged = trainer.model.merge_and_unload()
        merged.to(half).save_pretrained(save["merged_path"])
        tokenizer.save_pretrained(save["merged_path"])


if __name__ == "__main__":
    main()
'''


def script_of(run: RunFile, folder: Path, file: Path) -> str:
    """The text of the script.

    Args:
        run: the run's config.
        folder: that its paths are relative to; the script is run there.
        file: its name, for its own docstring.

    Raises:
        ValidationError: the config holds what a script cannot.
    """
    if run.training.method not in ("auto", "sft"):
        raise ValidationError(
            f"training.method is {run.training.method}, and a script learns by sft alone",
            advice="leave training.method out, or train by `honed train`",
        )
    table = run.model_dump(mode="json")
    named = run.dataset.validation_path
    beside = Path(run.dataset.path).with_name("val.jsonl")
    validation = named or (str(beside) if (folder / beside).is_file() else None)
    table |= {
        "target_modules": list(run.target_modules),
        "validation_path": validation,
        "trackers": list(run.trackers),
        "template": None,
    }
    if run.dataset.chat_template is not None:
        table["template"] = TEMPLATES[run.dataset.chat_template]
    text = json.dumps(table, indent=2)
    if '"""' in text:
        raise ValidationError("the config holds three quotes in a row, which a script cannot hold")
    head = _HEAD.replace("@NAME@", msgspec.json.encode(run.model.name).decode().strip('"'))
    return head.replace("@FILE@", file.name).replace("@CONFIG@", text) + _BODY
