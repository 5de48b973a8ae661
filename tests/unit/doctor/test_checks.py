"""Each check tells what is there, and what to do about what is wrong."""

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.config import Config, load_config
from honed.doctor import base, clock, folders, processes, room, server, settings, stack, store
from honed.doctor.finding import Found, together
from honed.doctor.patient import Patient
from honed.doctor.table import Check, examine
from honed.errors import HonedError, ServerStartError
from honed.listen import claim_unix_path
from honed.stores import open_store
from honed.stores.migrations import NEWEST
from tests.unit.machine.folders import make_model, make_program

Make = Callable[..., Patient]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its folders, variables and GPUs play no part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (
        "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HONED_CONFIG", raising=False)


@pytest.fixture
def patient(tmp_path: Path) -> Make:
    """Makes a patient with a data folder, from keys of the config."""
    (tmp_path / "d").mkdir(mode=0o700)

    def make(**keys: Any) -> Patient:
        return Patient(_config(tmp_path, **keys))

    return make


def _config(folder: Path, **keys: Any) -> Config:
    file = folder / "made.toml"
    file.touch()
    serve = {"socket": folder / "s.sock", "port": 0} | keys.pop("serve", {})
    return load_config(file, scenario="a", data_dir=folder / "d", serve=serve, **keys)


def _is(found: Found, status: str, *words: str) -> None:
    """The finding has this status and says these words; whatever is not ok comes with advice."""
    assert found.status == status, found
    for word in words:
        assert word in f"{found.text} | {found.advice}"
    assert (found.advice is None) == (status == "ok"), found


# ------------------------------------------------------------ config


def test_a_config_that_can_be_used_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the file and of the environment; a variable with one underscore is told."""
    Path("honed.toml").write_text('scenario = "a"\n[train]\nr = 4\n')
    monkeypatch.setenv("HONED__TRAIN__SEED", "1")
    (found,), config = settings.config(None)
    _is(found, "ok", "honed.toml, 3 keys set, 1 of them by the environment")
    assert config is not None
    monkeypatch.setenv("HONED_TRAIN_R", "8")
    _is(settings.config(None)[0][0], "warn", "HONED_TRAIN_R is not read", "HONED__TRAIN__R?")
    Path("honed.toml").chmod(0o666)
    _is(settings.config(None)[0][0], "warn", "others may write", "chmod go-w")


def test_a_config_that_cannot_be_used_is_told_fault_by_fault() -> None:
    """Without any file, where one was looked for."""
    (found,), config = settings.config(None)
    assert config is None
    _is(found, "fail", "no config file", "honed.toml", "`honed init`")
    Path("honed.toml").write_text('triger = "x"\n')
    faults, config = settings.config(None)
    assert config is None
    _is(faults[0], "fail", "scenario: required")
    _is(faults[1], "fail", "did you mean trigger?")


# ------------------------------------------------------------ folders


def test_a_data_folder_of_our_own_is_fine(patient: Make, tmp_path: Path) -> None:
    """Or one that can be made; looking makes nothing."""
    _is(folders.data_folder(patient()), "ok", "ours alone")
    (tmp_path / "d").rmdir()
    _is(folders.data_folder(patient()), "ok", "will be made")
    assert not (tmp_path / "d").exists()


def test_a_data_folder_that_others_can_read_is_a_warning(patient: Make, tmp_path: Path) -> None:
    """It holds conversations, and the secret that keeps the held-out split."""
    (tmp_path / "d").chmod(0o755)
    _is(folders.data_folder(patient()), "warn", "mode 0755", "chmod 700")
    (tmp_path / "d").chmod(0o700)
    (tmp_path / "d/secret.key").touch(mode=0o644)
    _is(folders.data_folder(patient()), "warn", "chmod 600")


def test_a_file_in_the_place_of_the_data_folder_fails(patient: Make, tmp_path: Path) -> None:
    """Nothing can be stored there."""
    (tmp_path / "d").rmdir()
    (tmp_path / "d").touch()
    _is(folders.data_folder(patient()), "fail", "is not a folder")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_of_another_user_fails() -> None:
    """It is told whose it is, and every check that may not look says so."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own are closed to other users
        folder = Path(made)
        folder.chmod(0o755)
        found = Patient(_config(folder))
        (folder / "d").mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            words = ("cannot be written", "belongs to user 0")
            _is(folders.data_folder(found), "fail", *words)
            checks = (Check("store", store.store), Check("daemon", processes.daemon))
            told = list(examine(found.config, checks))
        finally:
            os.seteuid(0)
    assert [each.status for each in told] == ["fail", "fail"]
    assert "user 65534 may not look at" in told[0].found


def test_a_folder_that_cannot_be_written_fails() -> None:
    """Mounted read-only, or closed to us. Root may write everywhere, so it looks as somebody else."""
    before = os.geteuid()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found = Patient(_config(folder))
        (folder / "d").mkdir()
        if before == 0:
            folder.chmod(0o755)
            os.chown(folder / "d", 65534, -1)
        (folder / "d").chmod(0o500)
        os.seteuid(65534 if before == 0 else before)
        try:
            _is(folders.data_folder(found), "fail", "cannot be written")
        finally:
            os.seteuid(before)


def test_a_folder_on_a_network_drive_is_known_by_the_kernels_word() -> None:
    """What is mounted deepest counts."""
    assert folders._file_system(Path("/proc")) == "proc"


def test_sockets_are_told_apart(patient: Make, tmp_path: Path) -> None:
    """Not there, left behind, answering, in the way."""
    found = patient().config
    _is(folders.sockets(patient()), "ok", "feed.sock not made yet")
    left = claim_unix_path(found.control_socket)
    left.close()
    with claim_unix_path(found.feed_socket):
        _is(folders.sockets(patient()), "ok", "feed.sock answers", "control.sock left by a process")
    found.serve_socket.write_text("x")
    _is(folders.sockets(patient()), "fail", "is in the way")


def test_a_socket_path_that_is_too_long_fails(patient: Make, tmp_path: Path) -> None:
    """Linux allows 107 bytes."""
    long = patient(serve={"socket": tmp_path / ("x" * 120)})
    _is(folders.sockets(long), "fail", "Linux allows 107", "shorter")


def test_a_door_that_is_open_to_other_machines_is_told(
    patient: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the daemon refuses to start; with a token, or on this machine alone, it is fine."""
    monkeypatch.delenv("HONED_HTTP_TOKEN", raising=False)
    opened = patient(events={"http": "0.0.0.0:8772"})
    _is(folders.sockets(opened), "warn", "without a token", "78", "HONED_HTTP_TOKEN")
    _is(folders.sockets(patient(events={"http": "[::1]:8772"})), "ok", "not made yet")
    monkeypatch.setenv("HONED_HTTP_TOKEN", "s3cret")
    _is(folders.sockets(opened), "ok", "not made yet")


# ------------------------------------------------------------ store


@pytest.fixture
def database(patient: Make) -> Iterator[sqlite3.Connection]:
    """A database as the daemon makes it, and a connection to it."""
    config = patient().config

    async def make() -> None:
        async with open_store(config.database):
            pass

    anyio.run(make)
    db = sqlite3.connect(config.data_dir / "honed.db", isolation_level=None)
    yield db
    db.close()


def test_a_database_is_read_beside_a_writer(patient: Make, database: sqlite3.Connection) -> None:
    """An open write transaction neither stops the check nor is disturbed by it."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE totals SET num_duplicates = 7")
    _is(store.store(patient()), "ok", f"schema {NEWEST}, 0 records", "whole")
    database.execute("COMMIT")
    assert database.execute("SELECT num_duplicates FROM totals").fetchone() == (7,)


def test_a_database_that_is_not_there_is_not_made(patient: Make, tmp_path: Path) -> None:
    """Looking leaves no file."""
    _is(store.store(patient()), "ok", "will be made")
    assert list((tmp_path / "d").iterdir()) == []
    _is(store.store(patient(database="sqlite://")), "warn", "in memory")


def test_a_newer_schema_fails(patient: Make, database: sqlite3.Connection) -> None:
    """As the daemon would."""
    database.execute("UPDATE schema_version SET version = 99")
    _is(store.store(patient()), "fail", "schema version 99", "upgrade honed")


def test_a_lost_secret_fails(patient: Make, database: sqlite3.Connection) -> None:
    """As soon as there are records."""
    database.execute("UPDATE totals SET num_records = 3")
    _is(store.store(patient()), "fail", "secret.key is missing", "backup")


def test_a_damaged_database_fails(patient: Make, database: sqlite3.Connection) -> None:
    """A page overwritten in the middle; a file that is no database at all."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = patient().config.data_dir / "honed.db"
    content = bytearray(path.read_bytes())
    content[3 * 8192 : 4 * 8192] = b"\xff" * 8192
    path.write_bytes(content)
    _is(store.store(patient()), "fail", "damaged")
    path.write_bytes(b"hello" * 5000)
    _is(store.store(patient()), "fail", "cannot be read")


def test_a_database_of_something_else_fails(patient: Make, tmp_path: Path) -> None:
    """It is not filled with our tables."""
    with sqlite3.connect(tmp_path / "d/honed.db") as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    _is(store.store(patient()), "fail", "is not a database of honed")


def test_records_from_the_future_are_told(patient: Make, database: sqlite3.Connection) -> None:
    """The clock went back, or was wrong when they came in."""
    columns = database.execute("PRAGMA table_info(records)").fetchall()
    names = [name for _, name, *_ in columns]
    values = [int((time.time() + 3600) * 1000) if name == "received_ms" else 1 for name in names]
    marks = ", ".join("?" * len(names))
    database.execute(f"INSERT INTO records ({', '.join(names)}) VALUES ({marks})", values)
    _is(store.store(patient()), "warn", "in the future")


# ------------------------------------------------------------ room


def test_space_is_compared_with_what_will_be_written(patient: Make, tmp_path: Path) -> None:
    """The base model as GGUF and the adapters; the GGUF counts no more once it is there."""
    base_model = str(make_model(tmp_path / "base"))
    _is(room.disk(patient(base_model=base_model)), "ok", "for the base model as GGUF")
    (tmp_path / "d/llama").mkdir()
    (tmp_path / "d/llama/base-1.gguf").write_bytes(b"GGUF")
    assert "as GGUF" not in room.disk(patient(base_model=base_model)).text
    huge = patient(base_model="Qwen/Qwen3-8B", apply={"max_history": 1_000_000})
    _is(room.disk(huge), "fail", "needed", "larger disk")


def test_server_of_the_operator_is_not_looked_for(patient: Make) -> None:
    """It is named, and nothing is started."""
    found = server.llama_server(patient(serve={"external_url": "http://127.0.0.1:8081"}))
    _is(found, "ok", "your own at http://127.0.0.1:8081")


def test_memory_is_compared_with_the_plan(patient: Make) -> None:
    """More than there is fails before anything is loaded; a small plan passes."""
    small = patient(
        base_model="Qwen/Qwen3-0.6B",
        serve={"ctx_size": 64, "parallel": 1},
        train={"max_length": 16, "per_device_train_batch_size": 1, "device": "cpu"},
    )
    found = room.memory(small)
    assert found.status in ("ok", "warn")
    assert "a swap would be " in found.text
    own = patient(base_model="Qwen/Qwen3-0.6B", serve={"external_url": "http://127.0.0.1:8081"})
    assert "serving" not in room.memory(own).text
    huge = patient(
        base_model="Qwen/Qwen3-0.6B",
        train={"max_length": 131072, "per_device_train_batch_size": 64, "device": "cpu"},
    )
    _is(room.memory(huge), "fail", "more than there is", "per_device_train_batch_size")
    _is(room.memory(patient()), "ok", "without a base model")


def test_memory_is_that_of_the_method_that_the_learn_model_is_for(patient: Make) -> None:
    """Pairs take more than conversations; a method that is named counts instead."""

    def needed(learn: str, **train: str) -> float:
        settings = {"max_length": 512, "per_device_train_batch_size": 1, "device": "cpu"}
        found = room.memory(
            patient(
                base_model="Qwen/Qwen3-0.6B", learn={"model": learn}, train={**settings, **train}
            )
        )
        words = found.text.split(" for training")[0]
        return float(words.split("about ")[-1].split()[0])

    assert needed("dpo(chat)") > needed("chat")
    assert needed("chat", method="dpo") == needed("dpo(chat)")


# ------------------------------------------------------------ training and serving


def test_packages_are_of_the_versions_that_the_wheel_asks_for() -> None:
    """Read from metadata; nothing is imported."""
    _is(stack.packages(Patient(None)), "ok", "torch 2.", "peft ")


def test_a_device_that_is_asked_for_and_not_there_fails(
    patient: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in a worker process, in which no GPU is visible."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _is(stack.accelerator(patient(train={"device": "cuda"})), "fail", "train.device is cuda")


def test_a_gpu_that_is_not_used_is_a_warning(
    patient: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the llama-server that serves; what else is on the card is told."""
    script = 'case $1 in *gpu=*) echo "L4, 23034, 34, 570";; *) echo "7, x, 5";; esac'
    make_program(tmp_path / "bin/nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    _is(server.llama_server(patient()), "warn", "does not use the GPU", "CUDA build")
    _is(server.llama_server(patient(serve={"n_gpu_layers": 0})), "ok")
    _is(stack.accelerator(patient(train={"device": "cpu"})), "ok", "also on it: x (pid 7")


def test_a_llama_server_that_cannot_run_fails(patient: Make, tmp_path: Path) -> None:
    """With the advice of whoever found it."""
    broken = make_program(tmp_path / "llama-server", "exit 3")
    with pytest.raises(ServerStartError, match="does not tell its version"):
        server.llama_server(patient(serve={"llama_server": broken}))


def test_a_large_model_without_a_gpu_is_a_warning(patient: Make) -> None:
    """It would train for days."""
    large = patient(base_model="Qwen/Qwen3-4B", train={"device": "cpu"})
    _is(stack.accelerator(large), "warn", "4.0 billion parameters")


# ------------------------------------------------------------ base model


def test_a_base_model_is_told_with_its_licence(
    patient: Make, tiny_base: Path, tmp_path: Path
) -> None:
    """And whether it can be trained and served, which the worker knows."""
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    words = ("Qwen3ForCausalLM", "licence mit", "trained and served as qwen3")
    _is(base.base_model(patient(base_model=str(folder))), "ok", *words)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    (folder / "config.json").write_text(json.dumps(config))
    _is(base.base_model(patient(base_model=str(folder))), "fail", "GPTNeoXForCausalLM")


def test_a_base_model_that_is_not_here(patient: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all, a folder that does not exist, a hub id that is not in the cache."""
    _is(base.base_model(patient()), "warn", "nothing is trained")
    _is(base.base_model(patient(base_model="./none")), "fail", "does not exist")
    _is(base.base_model(patient(base_model="org/name")), "warn", "hf download org/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _is(base.base_model(patient(base_model="org/name")), "fail", "HF_HUB_OFFLINE")


def test_a_base_model_that_is_not_whole_fails(patient: Make, tmp_path: Path) -> None:
    """Weights cut short, no template; a GGUF that is none."""
    folder = make_model(tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    _is(base.base_model(patient(base_model=str(folder))), "fail", "no chat template")
    (folder / "model.safetensors").write_bytes(b"short")
    _is(base.base_model(patient(base_model=str(folder))), "fail", "not a whole model")
    (tmp_path / "x.gguf").write_bytes(b"no")
    named = patient(serve={"base_model_path": tmp_path / "x.gguf"})
    _is(base.base_model(named), "fail", "is no GGUF file")
    named = patient(serve={"base_model_path": tmp_path / "y.gguf"})
    _is(base.base_model(named), "fail", "does not exist")


# ------------------------------------------------------------ processes and clock


def test_a_daemon_that_does_not_run_is_no_fault(patient: Make, tmp_path: Path) -> None:
    """One that holds its folder and does not listen is told; its lock is not tried."""
    _is(processes.daemon(patient()), "ok", "not running")
    with (tmp_path / "d/daemon.lock").open("w") as lock:
        _is(processes.daemon(patient()), "ok", "not running")
        fcntl.flock(lock, fcntl.LOCK_EX)
        _is(processes.daemon(patient()), "warn", "nobody listens")


def test_a_process_that_listens_and_says_nothing_fails(
    patient: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs; the check does not."""
    monkeypatch.setattr("honed.doctor.patient._ASK_LIMIT_S", 0.2)
    with claim_unix_path(patient().config.control_socket):
        with pytest.raises(HonedError, match="does not answer: ReadTimeout") as caught:
            processes.daemon(patient())
        assert caught.value.advice


def test_an_address_that_another_program_has_fails(patient: Make) -> None:
    """Before the gateway is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _is(processes.gateway(patient(serve={"port": port})), "fail", f"127.0.0.1:{port}")
    _is(processes.gateway(patient(serve={"port": port})), "ok", "not running")


@pytest.mark.parametrize(
    ("lane", "status", "words"),
    [
        ({}, "ok", "serves the base model"),
        ({"is_serving": True, "is_compared": True}, "ok", "agrees with the base model"),
        ({"is_serving": True, "is_compared": False}, "warn", "not compared"),
        ({"base_problem": "another vocabulary"}, "fail", "another vocabulary"),
        ({"is_compared": True, "error": "it died"}, "warn", "it died"),
        ({"captured": {"spooled": 7}}, "ok", "wait on disk for the daemon: 7"),
        ({"captured": {"spooled": 7, "spool_failing": 1}}, "warn", "no room on disk"),
        ({"captured": {"dropped": 2}}, "warn", "2 captured calls were dropped"),
    ],
)
def test_the_gateway_tells_what_it_serves_and_what_is_lost(
    lane: dict[str, Any], status: str, words: str
) -> None:
    """As far as its version knows."""
    found = together(processes.lane_findings({"state": "active", "model_id": None} | lane))
    _is(found, status, "active", words)


def test_a_parked_scenario_is_not_called_down() -> None:
    """Its adapter comes back with its next request."""
    lane = {"state": "down", "model_id": "s@1", "is_parked": True}
    _is(together(processes.lane_findings(lane)), "ok", "parked", "s@1")


def test_the_clock_is_looked_at() -> None:
    """A year that can be; whether somebody keeps it right is the machine's affair."""
    found = clock.clock(Patient(None))
    assert found.status in ("ok", "warn")
    assert time.strftime("%Y-") in found.text
    assert clock.is_synchronised() in (True, False, None)


def test_learn_models_are_made_and_told(patient: Make) -> None:
    """What they learn, in their own words; what the daemon would refuse fails, with what to do."""
    found = settings.learn_models(patient(learn={"model": "worker_task"}))
    assert found == Found("ok", "worker_task: choose the actions that complete a task, in order")
    missing = settings.learn_models(patient(learn={"model": "no_such.module:Haiku"}))
    assert (missing.status, "PYTHONPATH" in (missing.advice or "")) == ("fail", True)
    both = patient(learn={"model": ["chat", "worker_task"]}, base_model="tiny")
    assert "apply.kind" in (settings.learn_models(both).advice or "")
