"""The commented file that `honed init` writes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from honed.errors import ConfigError

_TEXT: Final = """\
# honed: settings of one scenario. `honed config reference` shows every key; each can also come from the environment
# as HONED__SECTION__KEY. `honed doctor` checks what is written here.

# The kind of work that is learned; names the adapters ({scenario}@1, {scenario}@2, ...).
scenario = {scenario_text}

# Folder or hub id of the model that is trained and served, in Hugging Face's format.
{base_model}

# When to learn: count(n), every("1h"), quality(below=0.6, window=50, min_samples=10), manual(), always(),
# never(), joined by & (and), | (or) and ~ (not).
trigger = 'count(100) | every("1h")'

# Where everything is kept: database, adapters, runs, sockets.
{data_dir}

[redact]
# Secrets and personal data go out of events before they are stored. Beside what is looked for by default: addresses
# of hosts with "ip"; "-phone" would leave a kind out; docs/redaction.md names them all.
kinds = ["default"]

[learn]
# chat: captured conversations; worker_task: the actions of a task; others: docs/learn-models.md.
model = "chat"
# Episodes without an outcome: wait for one, or train as if they were successes.
unlabelled = "wait"

[train]
# TRL's and PEFT's own names.
r = 16
lora_alpha = 32
learning_rate = 2e-4
num_train_epochs = 3
# Tokens of a row, and rows at a time: what memory is spent on.
max_length = {max_length}
per_device_train_batch_size = {batch_size}
gradient_accumulation_steps = {gradient_accumulation_steps}

[gate]
# Share of the tasks that is never trained on and decides whether an adapter is better.
held_out_fraction = 0.2

[apply]
# auto: an adapter that the gate has passed goes live by itself; manual (the default without this line): `honed apply`.
mode = "{mode}"

[serve]
# The stable address that agents talk to.
host = "127.0.0.1"
port = 8080
# Tokens of context per slot, and slots (requests answered at a time).
ctx_size = 4096
parallel = 4
# Executable of llama.cpp's server; without it the one bundled with `honed[serve]` (CPU) is used.
{llama_server}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """What the file says."""

    scenario: str
    base_model: str | None
    """None: nothing is trained until one is named."""
    licence: str = ""
    data_dir: Path | None = None
    """None: the user's data folder."""
    llama_server: Path | None = None
    """None: the bundled one."""
    mode: str = "auto"
    max_length: int = 2048
    batch_size: int = 4
    gradient_accumulation_steps: int = 4

    def text(self) -> str:
        """The file."""
        return _TEXT.format(
            scenario=self.scenario,
            scenario_text=json.dumps(self.scenario),
            base_model=self._base_model(),
            data_dir=f"data_dir = {_path(self.data_dir)}"
            if self.data_dir
            else "# data_dir = ...   (without it: the user's data folder / honed / SCENARIO)",
            max_length=self.max_length,
            batch_size=self.batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            mode=self.mode,
            llama_server=f"llama_server = {_path(self.llama_server)}"
            if self.llama_server
            else '# llama_server = "/usr/local/bin/llama-server"',
        )

    def _base_model(self) -> str:
        if self.base_model is None:
            return '# base_model = "Qwen/Qwen3-0.6B"   # Apache-2.0; without a base model nothing trains'
        named = f"base_model = {json.dumps(self.base_model, ensure_ascii=False)}"
        return f"# Its licence: {self.licence}\n{named}" if self.licence else named


def exists_already(file: Path) -> ConfigError:
    """What is said where a file must not be replaced."""
    return ConfigError(f"{file} exists already", advice="--force replaces it; or choose --file")


def write_file(file: Path, text: str, *, force: bool) -> None:
    """Write a config file, whole or not at all.

    Raises:
        ConfigError: it exists and is not to be replaced, or cannot be written.
    """
    # As root it is written for a service's own user, who must read it; it holds no secrets.
    mode = 0o644 if os.geteuid() == 0 else 0o600
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if force:
            aside.replace(file)
        else:
            file.hardlink_to(aside)  # fails where a file is, whoever made it meanwhile
    except FileExistsError:
        raise exists_already(file) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _path(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
