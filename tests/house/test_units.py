"""The systemd units: what they promise fits what the processes do, and systemd accepts them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from honed import daemon, serve
from honed.cli.units import units
from honed.config import load_config, places
from honed.process import EXIT_CONFIG
from tests.units import Unit, one, read_unit

FILES = Path(__file__).parents[2] / "src/honed/systemd"
NAMES = sorted(
    str(path.relative_to(FILES)) for path in FILES.rglob("*.*") if path.suffix != ".sysusers"
)
SERVICES = [name for name in NAMES if name.endswith(".service")]
KNOWN = {
    "Unit": "Description Requires After Wants StartLimitIntervalSec",
    "Install": "WantedBy Also",
    "Socket": """ListenStream FileDescriptorName SocketUser SocketGroup SocketMode DirectoryMode Backlog NoDelay
        TriggerLimitIntervalSec TriggerLimitBurst""",
    "Service": """Type User Group ExecStart ExecReload StateDirectory StateDirectoryMode RuntimeDirectory
        RuntimeDirectoryPreserve UMask Restart RestartSec RestartPreventExitStatus TimeoutStartSec TimeoutStopSec
        WatchdogSec KillMode OOMPolicy LimitNOFILE LimitCORE CPUWeight NoNewPrivileges CapabilityBoundingSet
        AmbientCapabilities ProtectSystem ProtectHome PrivateTmp RemoveIPC ProtectClock ProtectControlGroups
        ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc
        RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID LockPersonality KeyringMode
        SystemCallArchitectures SystemCallFilter SystemCallErrorNumber DevicePolicy DeviceAllow""",
}


def unit(name: str) -> Unit:
    """A unit as it comes with honed."""
    return read_unit((FILES / name).read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_has_only_settings_that_systemd_knows(name: str) -> None:
    """A mistyped one would be passed over in silence."""
    for section, settings in unit(name).items():
        assert set(settings) <= set(KNOWN[section].split())


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_supervised_as_the_processes_expect(name: str) -> None:
    """They say when they are ready, feed the watchdog, and are not started again with a bad config."""
    found = unit(name)
    assert one(found, "Service", "Type") == "notify"
    assert one(found, "Service", "Restart") == "on-failure"
    assert one(found, "Service", "RestartPreventExitStatus") == str(EXIT_CONFIG)
    assert one(found, "Service", "KillMode") == "mixed"  # the worker gets its time from the daemon
    assert one(found, "Service", "OOMPolicy") == "continue"
    assert found["Service"]["WatchdogSec"]
    assert "MemoryDenyWriteExecute" not in found["Service"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".socket")])
def test_a_socket_has_a_name_that_the_process_knows(name: str) -> None:
    """And its service is not stopped or restarted with it, nor it with its service."""
    found = unit(name)
    known = serve._SOCKETS if "serve" in name else daemon._SOCKETS
    assert one(found, "Socket", "FileDescriptorName") in known
    assert "PartOf" not in found["Unit"]


def test_daemons_gateway_and_command_line_look_where_the_units_put_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State and sockets of a file in /etc/honed are in folders that the units make for their user."""
    monkeypatch.setattr(places, "SYSTEM_CONFIG", tmp_path)
    (tmp_path / "airline.toml").write_text('scenario = "airline"')
    config = load_config(tmp_path / "airline.toml")
    service, gateway, feed = (
        unit("honed@.service"),
        unit("honed-serve.service"),
        unit("honed@.socket"),
    )
    assert one(service, "Service", "ExecStart").endswith(" run --config /etc/honed/%i.toml")
    assert one(feed, "Socket", "ListenStream").replace("%i", "airline") == str(config.feed_socket)
    runtime = Path("/run") / one(service, "Service", "RuntimeDirectory").replace("%i", "airline")
    assert config.control_socket.parent == config.feed_socket.parent == runtime
    assert one(service, "Service", "RuntimeDirectoryPreserve") == "yes"  # feed.sock is systemd's
    assert config.serve_socket.parent == Path("/run") / one(gateway, "Service", "RuntimeDirectory")
    for each in (service, gateway):  # the gateway reads the daemons' adapters
        assert config.data_dir.parent == Path("/var/lib") / one(each, "Service", "StateDirectory")
        assert one(each, "Service", "User") == one(feed, "Socket", "SocketUser") == "honed"
    assert str(config.data_dir.parent) in (FILES / "honed.sysusers").read_text()


def _installed(folder: Path, *, user: bool) -> Path:
    """The units as `honed service install` writes them, in one folder."""
    folder.mkdir()
    for each in units(user=user, root=Path("/")):
        if each.path.suffix in (".service", ".socket"):
            (folder / each.path.name).write_text(each.text)
    return folder


def _analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:", "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze"
)


@needs_systemd
@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_accepts_the_units(tmp_path: Path, user: bool) -> None:
    """Verified with the path of this installation: no unknown key, no command that is not there."""
    folder = _installed(tmp_path / "units", user=user)
    assert _complaints(folder, user=user) == ""
    broken = folder / "honed@.service"
    broken.write_text(broken.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in _complaints(folder, user=user)


def _complaints(folder: Path, *, user: bool) -> str:
    """What systemd says of the units in a folder; what it says of others is no business of ours."""
    names = [path.name.replace("@.", "@airline.") for path in sorted(folder.iterdir())]
    for name in names:
        if "@" in name and not (folder / name).exists():
            (folder / name).symlink_to(name.replace("airline", ""))
    manager = ["--user"] if user else []
    paths = [str(folder / name) for name in names]
    done = _analyze(*manager, "verify", "--man=no", *paths, folder=folder)
    return "\n".join(line for line in done.stderr.splitlines() if "honed" in line)


@needs_systemd
@pytest.mark.parametrize("name", ["honed@.service", "honed-serve.service"])
def test_the_systems_services_are_confined(tmp_path: Path, name: str) -> None:
    """systemd's own score of what an intruder could reach: under 2.0 of 10 is its best class but one."""
    folder = _installed(tmp_path / "units", user=False)
    done = _analyze(
        "security", "--offline=true", "--threshold=20", str(folder / name), folder=folder
    )
    assert done.returncode == 0, done.stdout[-300:]
