"""`honed train` as it is typed: with and without a config, looked at, stopped, and written as a script."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from honed.worker.base_model import load_tokenizer
from honed.worker.examples import Example
from honed.worker.rows import rows_of
from tests.tiny_models import conversations, offline
from tests.unit.standalone.parts import write_lines, write_splits

pytestmark = pytest.mark.timeout(600)
"""Workers with torch in them start here."""


def honed(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "honed", "train", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"COLUMNS": "120"} | environment,
    )


CONFIG = """
[model]
name = {base!r}
max_seq_length = 256
[lora]
r = 4
[training]
num_train_epochs = 1
learning_rate = 5e-3
[dataset]
"""


def write_config(folder: Path, base: Path, more: str = "") -> Path:
    path = folder / "run.toml"
    path.write_text(CONFIG.format(base=str(base)) + more)
    return path


@pytest.mark.feature("TR-100", "TR-032", "TR-077")
def test_without_a_config_the_defaults_hold_and_are_shown(tiny_base: Path, tmp_path: Path) -> None:
    """The base model is all that is named; status and log can be looked at, also without the status file."""
    write_splits(tmp_path, num_rows=8, held=0)
    done = honed(tmp_path, "--base-model", str(tiny_base))
    assert done.returncode == 0, done.stderr
    assert "lora.r = 8" in done.stderr
    assert "8 rows to a step (2 x 4)" in done.stderr
    assert "3 steps on 8 rows, final loss" in done.stdout
    status = json.loads(honed(tmp_path, "--status", "--json").stdout)
    assert (status["running"], status["step"], status["error"]) == (False, 3, None)
    (tmp_path / "training-status.json").unlink()
    by_log = json.loads(honed(tmp_path, "--status", "--json").stdout)
    assert by_log["step"] == 3
    assert by_log["completed_at"] == status["completed_at"]
    log = (tmp_path / "logs/training.log").read_text()
    assert honed(tmp_path, "--follow").stdout == log


WANDB = '''
"""Stands in for the real one, which needs a server: writes down what is logged."""
import json, os


class Config(dict):
    def update(self, values, **more):
        super().update(values)


class Run:
    name = id = url = "run"
    summary = {}

    def _label(self, **more):
        pass


run, config, summary = None, Config(), {}


def init(**told):
    global run
    run = Run()
    write({"init": {"project": os.environ["WANDB_PROJECT"], "name": told.get("name") or os.environ.get("WANDB_NAME")}})


def log(values, **more):
    write({"log": {name: value for name, value in values.items() if isinstance(value, (int, float))}})


def write(line):
    with open(os.environ["LOGGED"], "a") as file:
        file.write(json.dumps(line) + "\\n")


def define_metric(*given, **more):
    pass


watch = finish = termwarn = setup = define_metric
'''


@pytest.mark.feature("TR-055", "TR-047", "TR-100", "TR-034")
def test_figures_are_logged_to_wandb_when_it_is_on(tiny_base: Path, tmp_path: Path) -> None:
    """Under the project and name of the config; the rows are whole texts here."""
    write_lines(tmp_path / "texts.jsonl", [{"body": f"disk: inspect {i}"} for i in range(8)])
    path = write_config(
        tmp_path,
        tiny_base,
        'path = "texts.jsonl"\ntext_field = "body"\n[wandb]\nenabled = true\nproject = "p"\nrun_name = "n"\n',
    )
    path.write_text(path.read_text().replace("[training]", "[training]\nmax_steps = 2"))
    packages = tmp_path / "packages/wandb"
    (packages / "sdk/lib").mkdir(parents=True)
    (packages / "__init__.py").write_text(WANDB)
    (packages / "sdk/lib/config_util.py").write_text("class ConfigError(Exception): ...\n")
    logged = tmp_path / "logged"
    done = honed(
        tmp_path, "--config", "run.toml", PYTHONPATH=str(packages.parent), LOGGED=str(logged)
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    assert lines[0]["init"] == {"project": "p", "name": "n"}
    assert len([line for line in lines if "train/loss" in line.get("log", {})]) == 2


@pytest.mark.feature("TR-056", "TR-016", "TR-100")
def test_a_bad_config_ends_before_anything_is_loaded(tmp_path: Path) -> None:
    """Status 78 with all faults; without config and model it shows the defaults and says what is missing."""
    (tmp_path / "run.toml").write_text("[model]\nmax_seq_length = 1\n[lora]\nr = 3\n[dataset]\n")
    done = honed(tmp_path, "--config", "run.toml")
    assert done.returncode == 78
    for key in ("model.name: required", "model.max_seq_length:", "lora.r:", "training: required"):
        assert done.stderr.count(key) == 1
    assert done.stderr.endswith("honed: run.toml has 4 faults, all of them above\n")
    bare = honed(tmp_path)
    assert bare.returncode == 78
    assert "training.learning_rate = 0.0002" in bare.stderr
    assert "model.name: required" in bare.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["run.toml"]


WITHOUT = """
import sys


class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "trl", "peft", "datasets", "gguf", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Lacking())
"""


@pytest.mark.feature("TR-065", "TR-063")
def test_without_the_training_stack_it_says_what_to_install(
    tiny_base: Path, tmp_path: Path
) -> None:
    """The extra is named, in the status too; nothing is installed."""
    write_splits(tmp_path, num_rows=8, held=0)
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "sitecustomize.py").write_text(WITHOUT)
    write_config(tmp_path, tiny_base)
    done = honed(tmp_path, "--config", "run.toml", PYTHONPATH=str(packages))
    assert done.returncode == 1
    assert "pip install 'honed[train]'" in done.stderr
    status = json.loads((tmp_path / "training-status.json").read_text())
    assert not status["running"]
    assert "has no training stack: no module named" in status["error"]
    assert honed(tmp_path, "--status").returncode == 1


@pytest.mark.feature("TR-088")
def test_a_row_that_is_none_ends_the_run_with_its_line(tiny_base: Path, tmp_path: Path) -> None:
    """And with the format step."""
    write_splits(tmp_path, num_rows=8, held=0)
    path = tmp_path / "data/splits/train.jsonl"
    path.write_text(path.read_text() + '{"conversations": "?"}\n')
    write_config(tmp_path, tiny_base)
    done = honed(tmp_path, "--config", "run.toml")
    assert done.returncode == 1
    assert "line 9" in done.stderr
    assert "format step" in done.stderr


def test_a_signal_stops_it_in_good_order(tiny_base: Path, tmp_path: Path) -> None:
    """The status says so, and nothing of it runs on."""
    write_splits(tmp_path, num_rows=8, held=0)
    write_config(tmp_path, tiny_base)
    status = tmp_path / "training-status.json"
    with subprocess.Popen(
        [sys.executable, "-m", "honed", "train", "--config", "run.toml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        until = time.monotonic() + 120
        while not status.exists() and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        _, told = child.communicate(timeout=120)
    assert child.returncode == 143, told
    assert "--resume" in told
    found = json.loads(status.read_text())
    assert not found["running"]
    assert found["error"].startswith("stopped")


@pytest.fixture(scope="module")
def script(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `--export` writes, in the folder of its run."""
    folder = tmp_path_factory.mktemp("script")
    write_splits(folder, num_rows=12, held=4)
    write_config(folder, tiny_base, '[save]\nmerged_path = "merged"\n')
    done = honed(folder, "--config", "run.toml", "--export", "alone.py")
    assert done.returncode == 0, done.stderr
    return folder / "alone.py"


@pytest.mark.feature("TR-064")
def test_the_script_runs_without_honed(script: Path, tiny_base: Path) -> None:
    """On torch, transformers, peft and trl alone; its adapter loads."""
    offline()
    assert "import honed" not in script.read_text()
    assert "from honed" not in script.read_text()
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(base, script.parent / "models/checkpoints/lora")
    assert model.peft_config["default"].r == 4
    assert (script.parent / "merged/model.safetensors").is_file()


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("alone", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.feature("TR-064", "TR-061")
def test_the_script_has_the_masks_of_the_run(script: Path, tiny_base: Path) -> None:
    """Row for row the same tokens and labels."""
    offline()
    alone = _module(script)
    tokenizer = load_tokenizer(tiny_base)
    for row in conversations(4):
        (wanted,) = rows_of([Example(row["messages"])], tokenizer, max_length=512)
        assert alone.chat_row(tokenizer, row) == (wanted.input_ids, wanted.labels)
