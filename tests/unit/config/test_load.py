"""One TOML file and the environment make one frozen Config; every fault is named."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from honed.config import load_config
from honed.errors import ConfigError
from honed.triggers import parse


@pytest.fixture(autouse=True)
def no_config_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own files and variables play no part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("HONED_CONFIG", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file is needed: scenario and folder come from variables."""
    monkeypatch.setenv("HONED__SCENARIO", "airline")
    monkeypatch.setenv("HONED__DATA_DIR", str(tmp_path / "x"))
    monkeypatch.setenv("HONED__TRAIN__LEARNING_RATE", "5e-3")
    config = load_config()
    assert config.database == f"sqlite:///{tmp_path}/x/honed.db"
    assert config.train.settings().learning_rate == 5e-3


def test_a_missing_scenario_is_refused() -> None:
    """There is no default kind of work."""
    with pytest.raises(ConfigError, match=r"scenario: required .* HONED__SCENARIO"):
        load_config()


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    """A typing mistake never becomes a silent default."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "a"\n[train]\nlerning_rate = 1e-4\n')
    with pytest.raises(ConfigError, match=r"train\.lerning_rate.*learning_rate"):
        load_config(file)


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    """One look at the message is enough to mend the file."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "No Good"\ncheck_interval = "soon"\ntrigger = "count("\n')
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert len(caught.value.faults) == 3
    for name in ("scenario", "check_interval", "trigger"):
        assert name in str(caught.value)


@pytest.mark.feature("SE-134")
def test_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also for one key of a section that the file writes."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "a"\n[serve]\nport = 9000\nparallel = 2\n')
    monkeypatch.setenv("HONED__SERVE__PORT", "9001")
    config = load_config(file)
    assert (config.serve.port, config.serve.parallel) == (9001, 2)


def test_a_rate_out_of_range_is_a_config_error(tmp_path: Path) -> None:
    """The worker's limits are checked when the file is read, not when a run starts at night."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "a"\n[train]\nlearning_rate = 5\n')
    with pytest.raises(ConfigError, match="learning_rate"):
        load_config(file)


def test_durations_sizes_and_triggers_are_read(tmp_path: Path) -> None:
    """The forms that the spec names."""
    file = tmp_path / "honed.toml"
    file.write_text(
        'scenario = "a"\ncheck_interval = "1m30s"\ntrigger = { any = [ { count = 5 }, { every = "1d" } ] }\n'
        '[events]\nqueue_bytes = "1MiB"\n'
    )
    config = load_config(file)
    assert config.check_interval == timedelta(seconds=90)
    assert config.events.queue_bytes == 1 << 20
    assert config.trigger == parse('count(5) | every("1d")')


def test_the_default_trigger_is_a_hundred_episodes_or_an_hour() -> None:
    """As the docs say."""
    assert load_config(scenario="a").trigger == parse('count(100) | every("1h")')


def test_a_named_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """`--config` never falls back to something else."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("HONED__TRIGER", "x", "HONED__TRIGER: unknown key, did you mean HONED__TRIGGER"),
        ("HONED__GATES__ENABLED", "false", "HONED__GATES__ENABLED: unknown key"),
        ("HONED__GATE", "x", "gate"),
        ("HONED__TRAIN__LERNING_RATE", "1", "HONED__TRAIN__LEARNING_RATE"),
        ("honed__train__rr", "1", "honed__train__rr: unknown key"),
        ("HONED__SCENARIO__X", "1", "HONED__SCENARIO__X: unknown key"),
        ("HONED__TRIGGER__ANY", "[]", "HONED__TRIGGER__ANY: unknown key"),
        ("HONED__TRAIN_R", "8", r"HONED__TRAIN_R: unknown key, did you mean HONED__TRAIN__R\?"),
        ("HONED_TRAIN__R", "8", r"HONED_TRAIN__R: not read, did you mean HONED__TRAIN__R\?"),
        ("HONED_TRIAN__LERNING_RATE", "1", "did you mean HONED__TRAIN__LEARNING_RATE"),
        ("honed_serve__llama_server", "x", "did you mean HONED__SERVE__LLAMA_SERVER"),
        ("HONED__CHECK_INTERVAL", "0s", "check_interval"),
        ("HONED__EVENTS__LINE_MAX", "0", "line_max"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    """The environment is held to the same rules as the file."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=fault):
        load_config(scenario="a")


@pytest.mark.parametrize("name", ["HONED_SERVE_PORT", "HONED_CONFIG_DIR", "HONED_OTHER__THING"])
def test_a_variable_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kubernetes sets HONED_SERVE_PORT for a service called honed-serve; nothing is like the others."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    assert load_config(scenario="a").serve.port == 8080


def test_a_folder_with_odd_characters_holds_its_own_database(tmp_path: Path) -> None:
    """`?` and `%` are parts of a path, not of a URL."""
    folder = tmp_path / "a?b%20c"
    url = load_config(scenario="a", data_dir=folder).database
    assert make_url(url).database == str(folder / "honed.db")


def test_a_pattern_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """It would follow nothing; a file that has such a name is taken."""
    file = tmp_path / "honed.toml"
    named = tmp_path / "run[1].jsonl"
    file.write_text(f'scenario = "a"\n[events]\nfiles = ["{tmp_path}/*.jsonl", "{named}"]\n')
    with pytest.raises(ConfigError, match=r"events\.files.*events\.inbox") as caught:
        load_config(file)
    assert len(caught.value.faults) == 2
    named.touch()
    file.write_text(f'scenario = "a"\n[events]\nfiles = ["{named}"]\n')
    assert load_config(file).events.files == (named,)


def test_the_base_model_none_is_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The word that `honed init` takes means the same in the file, and in a variable that overrules it."""
    file = tmp_path / "honed.toml"
    file.write_text('scenario = "a"\nbase_model = "none"\n')
    assert load_config(file).base_model is None
    assert not load_config(file).mode.trains
    file.write_text('scenario = "a"\nbase_model = "org/model"\n')
    monkeypatch.setenv("HONED__BASE_MODEL", "none")
    assert load_config(file).base_model is None
