"""`honed service install`, and what is installed run as systemd would run it."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.supervision import NotifySocket, given, listening_unix
from tests.units import Unit, expanded, one, read_unit


def _honed(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`honed`, typed by the owner of a home folder."""
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments],
        env=_variables(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _variables(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}


def test_installing_twice_changes_nothing_and_uninstalling_leaves_nothing(tmp_path: Path) -> None:
    """Units for the system below another root, as an image is built."""
    root = tmp_path / "root"
    first = _honed(tmp_path, "service", "install", "--root", str(root), "--scenario", "airline")
    assert first.returncode == 0, first.stderr
    written = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert written == [
        "etc/systemd/system/honed-serve.service",
        "etc/systemd/system/honed-serve.socket",
        "etc/systemd/system/honed@.service",
        "etc/systemd/system/honed@.socket",
        "etc/sysusers.d/honed.conf",
    ]
    assert "systemctl enable --now honed-serve.service honed@airline.service" in first.stdout
    again = _honed(tmp_path, "service", "install", "--root", str(root), "--json")
    assert {row["state"] for row in json.loads(again.stdout)} == {"current"}
    assert _honed(tmp_path, "service", "uninstall", "--root", str(root)).returncode == 0
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_the_units_start_this_installation(tmp_path: Path) -> None:
    """The command in them is the one that wrote them."""
    done = _honed(tmp_path, "service", "install", "--dry-run")
    assert done.returncode == 0
    commands = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
    assert len(commands) == 2
    for line in commands:
        program = shlex.split(line.removeprefix("ExecStart="))[0]
        version = subprocess.run([program, "--version"], capture_output=True, timeout=30)
        assert version.returncode == 0
    assert not (tmp_path / ".config").exists()


def test_an_edited_unit_is_not_replaced_or_removed_unasked(tmp_path: Path) -> None:
    """An older version's is replaced; an edited one is named, and nothing is changed."""
    install = ("service", "install", "--user")
    assert _honed(tmp_path, *install).returncode == 0
    folder = tmp_path / ".config/systemd/user"
    path = folder / "honed@.service"
    ours = path.read_text()
    path.write_text(ours.replace("WatchdogSec=3min", "WatchdogSec=9min"))
    (folder / "honed-serve.service").unlink()
    for verb in ("install", "uninstall"):
        refused = _honed(tmp_path, "service", verb, "--user")
        assert refused.returncode == 1
        assert str(path) in refused.stderr
        assert "--force" in refused.stderr
    assert "9min" in path.read_text()
    assert not (folder / "honed-serve.service").exists()
    assert _honed(tmp_path, *install, "--force").returncode == 0
    assert path.read_text() == ours
    body = ours.partition("\n")[2] + "# of an older version\n"
    path.write_text(_marked(body))
    assert _honed(tmp_path, *install).returncode == 0
    assert path.read_text() == ours


def _marked(body: str) -> str:
    import hashlib

    return f"# honed service: sha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}"


class Manager:
    """A user's service manager, as far as the units need one."""

    def __init__(self, home: Path, closing: ExitStack) -> None:
        self._home = home
        self._closing = closing
        self._units = home / ".config/systemd/user"
        (home / "run").mkdir(mode=0o700)

    def start(self, name: str, instance: str = "") -> subprocess.Popen[bytes]:
        """Start a service with its sockets; returns once it is ready."""
        service = read_unit((self._units / f"{name}.service").read_text())
        command = shlex.split(self._of(service, "Service", "ExecStart", instance))
        notify = self._closing.enter_context(NotifySocket(None))
        sockets = {}
        if f"{name}.socket" in service["Unit"].get("Requires", [""])[0].replace(instance, ""):
            unit = read_unit((self._units / f"{name}.socket").read_text())
            path = Path(self._of(unit, "Socket", "ListenStream", instance))
            listener = self._closing.enter_context(listening_unix(path))
            sockets[one(unit, "Socket", "FileDescriptorName")] = listener
        before, fds = given(sockets) if sockets else ([], ())
        child = subprocess.Popen(
            [*before, *command],
            env=_variables(self._home) | {"NOTIFY_SOCKET": notify.address},
            cwd=ROOT,
            pass_fds=fds,
        )
        self._closing.callback(child.wait, 30)
        self._closing.callback(child.terminate)
        notify.until("READY=1")
        return child

    def _of(self, unit: Unit, section: str, key: str, instance: str) -> str:
        value = one(unit, section, key)
        config = self._home / ".config"
        return expanded(value, instance=instance, home=self._home, config=config)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A home folder with honed's units installed."""
    assert _honed(tmp_path, "service", "install", "--user").returncode == 0
    with ExitStack() as closing:
        yield Manager(tmp_path, closing)


def test_two_scenarios_and_the_gateway_find_each_other_as_units(
    tmp_path: Path, tiny_base: Path, tiny_gguf: Path, manager: Manager
) -> None:
    """Each in a unit of its own, with that unit's variables; a shell without any finds all of them."""
    folder = tmp_path / ".config/honed"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(
            f'scenario = "{name}"\nbase_model = "{tiny_base}"\n'
            f'[serve]\nport = 0\nthreads = 1\nctx_size = 512\nbase_model_path = "{tiny_gguf}"\n'
        )
    (folder / "config.toml").symlink_to("one.toml")
    manager.start("honed-serve")
    for name in ("one", "two"):
        manager.start("honed@", name)
    for name in ("one", "two"):
        config = str(folder / f"{name}.toml")
        status = _served(tmp_path, config, name)
        assert status["scenario"] == name
        assert set(status["gateway"]["scenarios"]) == {"one", "two"}
        assert status["data_dir"] == str(tmp_path / ".local/share/honed" / name)
    assert _served(tmp_path, None, "one")["scenario"] == "one"


def _served(home: Path, config: str | None, name: str) -> dict[str, object]:
    """The status, once the gateway knows both scenarios."""
    arguments = ["status", "--json", *(["--config", config] if config else [])]
    for _ in range(60):
        done = _honed(home, *arguments)
        assert done.returncode == 0, done.stderr
        status: dict[str, object] = json.loads(done.stdout)
        if len((status["gateway"] or {}).get("scenarios", ())) == 2:  # type: ignore[attr-defined]
            return status
    raise AssertionError(f"{name}: {status}")
