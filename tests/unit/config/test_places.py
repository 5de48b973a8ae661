"""Where daemon, gateway and command line look for each other."""

from pathlib import Path

import pytest

from honed.config import Config, load_config, places


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for /etc/honed."""
    monkeypatch.setattr(places, "SYSTEM_CONFIG", tmp_path / "etc")
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def _places(config: Config) -> tuple[str, ...]:
    return tuple(
        map(str, (config.data_dir, config.feed_socket, config.control_socket, config.serve_socket))
    )


def test_a_config_of_the_system_keeps_things_in_the_systems_places(system: Path) -> None:
    """Two scenarios have folders of their own and one gateway."""
    for name in ("airline", "retail"):
        (system / f"{name}.toml").write_text(f'scenario = "{name}"\n[serve]\nport = 0\n')
        assert _places(load_config(system / f"{name}.toml")) == (
            f"/var/lib/honed/{name}",
            f"/run/honed/{name}/feed.sock",
            f"/run/honed/{name}/control.sock",
            "/run/honed-serve/serve.sock",
        )


def test_the_surroundings_of_a_process_move_no_socket(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit's variables are not seen by the command line, which must look in the same places."""
    (system / "a.toml").write_text('scenario = "a"')
    before = _places(load_config(system / "a.toml"))
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, "/elsewhere")
    assert _places(load_config(system / "a.toml")) == before


def test_what_the_file_or_a_variable_says_comes_first(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's places are defaults."""
    text = 'scenario = "a"\ndata_dir = "/d"\nruntime_dir = "/r"\n[serve]\nsocket = "/s.sock"'
    (system / "a.toml").write_text(text)
    assert _places(load_config(system / "a.toml")) == (
        "/d",
        "/r/feed.sock",
        "/r/control.sock",
        "/s.sock",
    )
    (system / "b.toml").write_text('scenario = "b"')
    monkeypatch.setenv("HONED__SCENARIO", "c")
    assert load_config(system / "b.toml").data_dir == Path("/var/lib/honed/c")


def test_a_file_elsewhere_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the daemon stand in its data folder, the gateway's in the runtime folder."""
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/runtime")
    (tmp_path / "honed.toml").write_text('scenario = "a"')
    assert _places(load_config(tmp_path / "honed.toml")) == (
        "/data/honed/a",
        "/data/honed/a/feed.sock",
        "/data/honed/a/control.sock",
        "/runtime/honed/serve.sock",
    )
