"""The demo's numbers: sizes, sampling and settings, each with what it was measured for."""

import json
from pathlib import Path
from typing import Final

from honed.demo.swarm import Manner

SCENARIO: Final = "incidents"
EPISODES: Final = 1_200
"""Work that is collected before the trigger fires. About a fifth of it succeeds, and a fifth of that is
held out: about 190 successes to train on and 50 to judge by. (138 and 31 were enough too.)"""
PRETRAINING_STEPS: Final = 120
"""Reading is right from step 50 on; 15 s on one core."""
NUM_JUDGED: Final = 200
"""Incidents in each measurement."""
TEMPERATURE: Final = 0.7
"""Of the measurement that counts, fixed beforehand. At 0 a weak model may repeat one wrong change."""

COLLECTING: Final = Manner("work", "work", temperature=1.0, exploration=0.2)
LOAD: Final = Manner("load", "evaluation", TEMPERATURE, num_agents=2, pause_s=0.05)
"""What goes on while the daemon trains and swaps. Marked as evaluation, because the control must be drawn
from the same episodes as the adapter, and not from what the adapter did later."""

CONFIG_FILE: Final = "honed.toml"

_CONFIG: Final = """\
# What `honed demo` ran with.
scenario = "{scenario}"
data_dir = {data_dir}
base_model = {base_model}
trigger = "count({episodes})"
check_interval = "1s"

[events]
settle = "1s"
episode_idle = 0

[train]
r = 16
lora_alpha = 32
lora_dropout = 0.0
learning_rate = 5e-3
lr_scheduler_type = "cosine"
warmup_steps = 5
num_train_epochs = 6
per_device_train_batch_size = 4
gradient_accumulation_steps = 1
max_length = 512
device = "cpu"
threads = 1
seed = {seed}

[apply]
mode = "auto"

[serve]
port = 0
ctx_size = 512
parallel = 8
threads = 1
"""


def measuring(stream: str, temperature: float) -> Manner:
    """How the swarm works when it is measured: no exploration, and nothing of it is learned from."""
    return Manner(f"{stream}-{temperature:g}", "evaluation", temperature)


def write_config(folder: Path, *, base_model: Path, seed: int) -> Path:
    """Write the config of daemon and gateway; returns the file."""
    path = folder / CONFIG_FILE
    text = _CONFIG.format(
        scenario=SCENARIO,
        data_dir=json.dumps(str(folder / "data")),
        base_model=json.dumps(str(base_model)),
        episodes=EPISODES,
        seed=seed,
    )
    path.write_text(text, encoding="utf-8")
    return path
