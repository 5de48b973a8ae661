"""The demo's config: a file that the daemon accepts, with the settings that were measured."""

from pathlib import Path

from honed.config import load_config
from honed.demo import recipe
from honed.demo.environment import SYSTEM
from honed.triggers import parse


def test_the_config_loads(tmp_path: Path) -> None:
    """Every key is known to the daemon, and paths with quotes in them survive."""
    folder = tmp_path / 'a "quoted" folder'
    folder.mkdir()
    config = load_config(recipe.write_config(folder, base_model=folder / "base", seed=11))
    assert config.scenario == recipe.SCENARIO
    assert config.data_dir == folder / "data"
    assert config.base_model == str(folder / "base")
    assert config.trigger == parse(f"count({recipe.EPISODES})")
    assert config.apply.mode == "auto"
    assert config.gate.enabled
    assert config.train.seed == 11
    assert config.train.learning_rate == 5e-3
    assert config.events.episode_idle.total_seconds() == 0


def test_what_is_measured_is_not_learned_from() -> None:
    """Only the collecting swarm does work; measuring and load are evaluation, without exploration."""
    assert recipe.COLLECTING.purpose == "work"
    for manner in (recipe.LOAD, recipe.measuring("before", 0.7), recipe.measuring("after", 0.0)):
        assert manner.purpose == "evaluation"
        assert manner.exploration == 0.0


def test_no_two_manners_share_incidents() -> None:
    """Before, after, collecting and load see different incidents."""
    manners = [recipe.measuring(when, t) for when in ("before", "after") for t in (0.7, 0.0)]
    streams = [manner.stream for manner in [*manners, recipe.COLLECTING, recipe.LOAD]]
    assert len(set(streams)) == len(streams)


def test_the_instruction_is_short() -> None:
    """It is in every request; the model's context holds a whole attempt many times over."""
    assert len(SYSTEM) < 80
