"""The obvious script: LoRA on conversations with TRL, as its own examples write it.

    python benchmarks/plain_trl.py FOLDER [CHANGES]

FOLDER holds `base/`, `train.jsonl` and `settings.json`; the adapter goes into `FOLDER/plain`, the seconds of the
training loop beside it.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

if len(sys.argv) < 2:
    sys.exit(print(__doc__))
folder, *changes = sys.argv[1:]
settings = json.loads((Path(folder) / "settings.json").read_text())
torch.set_num_threads(settings.pop("threads"))
lora = {name: settings.pop(name) for name in ("r", "lora_alpha", "lora_dropout")}
config = SFTConfig(
    output_dir=f"{folder}/plain",
    assistant_only_loss=True,
    report_to="none",
    save_strategy="no",
    use_cpu=not torch.cuda.is_available(),
    **settings,
    **json.loads(changes[0] if changes else "{}"),
)
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype=torch.float32),
    args=config,
    train_dataset=load_dataset("json", data_files=f"{folder}/train.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained(f"{folder}/base"),
    peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **lora),
)
trainer.train()
trainer.save_model()
seconds = trainer.state.log_history[-1]["train_runtime"]
(Path(folder) / "plain" / "seconds.json").write_text(json.dumps(seconds))
