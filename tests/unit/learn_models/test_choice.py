"""Learn models by name: built-in ones, classes of one's own, and pairs of either."""

from collections.abc import Callable

import pytest

from honed.config import Config
from honed.errors import ConfigError
from honed.learn_models import DpoConfig, LearnModel, LearnModelMixin, Options, create, create_all
from honed.learn_models.choice import BUILT_IN
from honed.rooms import learn_models_of
from tests.unit.learn_models.actions import act

OWN = "tests.unit.learn_models.own_model"
MISSING = (
    "it has no group_key, is_closing, is_complete, build_episodes, convert, left_out, objective"
)


@pytest.mark.feature("SE-084")
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_go_by_their_names(name: str) -> None:
    """Each, and the pairs of each."""
    made = create(name)
    assert made.name == name
    assert made.objective
    assert isinstance(made, LearnModelMixin)
    assert create(f"dpo({name})").name == f"dpo({name})"


@pytest.mark.feature("SE-084")
def test_a_class_of_ones_own_goes_by_module_and_class() -> None:
    """It groups by task, and takes the options that its constructor knows."""
    made = create(f"{OWN}:Haiku", Options(system_prompt="Be short.", min_actions=7))
    assert (made.name, made.system_prompt) == ("haiku", "Be short.")  # type: ignore[attr-defined]
    lines = [act(name) for name in ("old pond", "frog", "splash", "done")]
    assert {made.group_key(line) for line in lines} == {"task:t"}
    assert [made.is_closing(line) for line in lines] == [False, False, False, True]
    assert made.build_episodes(lines[:3], now_ms=1) == []
    (episode,) = made.build_episodes(lines, now_ms=1)
    assert episode.learn_model == "haiku"


@pytest.mark.feature("SE-084")
@pytest.mark.parametrize(
    ("name", "says", "advice"),
    [
        ("no_such_package.learning:Haiku", "ModuleNotFoundError: No module named 'no_such", "PYTHONPATH"),
        (f"{OWN}:Sonnet", "has no class Sonnet: expected one of Again, Broken, Clumsy, Haiku", None),
        (f"{OWN}:NOT_A_CLASS", "has no class NOT_A_CLASS", None),
        (f"{OWN}:Plain", MISSING, "LearnModelMixin"),
        (f"{OWN}:Older", "convert: got an unexpected keyword argument", "available_actions=())"),
        (f"{OWN}:Nameless", "is called '../haiku'", "a `name` of letters"),
        (f"{OWN}:Usurper", "is called 'chat'", "a `name` of letters"),
        (f"{OWN}:Broken", "cannot be made: FileNotFoundError: syllables.txt", "without arguments"),
        (f"dpo({OWN}:Haiku)", "has no method `extractor`", "extractor(self, available_actions=())"),
        ("chess", "there is no learn model 'chess': expected one of chat, worker_task", None),
        ("dpo", "there is no learn model 'dpo'", None),
        ("dpo(dpo(chat))", "there is no learn model", None),
        ("os; rm:Haiku", "there is no learn model", None),
    ],
)  # fmt: skip
def test_what_is_no_learn_model_is_told_with_what_to_do(
    name: str, says: str, advice: str | None
) -> None:
    """What was looked for, what was found, and how it should be."""
    with pytest.raises(ConfigError) as caught:
        create(name)
    assert says in str(caught.value)
    assert (advice or "") in (caught.value.advice or "")
    assert "learn.model" in str(caught.value)


def test_models_of_one_name_are_refused() -> None:
    """Their episodes could not be told apart."""
    with pytest.raises(ConfigError, match=r"Haiku and .*Again are both called haiku"):
        create_all([f"{OWN}:Haiku", f"{OWN}:Again"])
    assert [model.name for model in create_all(["chat", f"{OWN}:Haiku"])] == ["chat", "haiku"]


def test_options_that_no_model_takes_are_refused() -> None:
    """Silence would be a bug: the operator believes that they count."""
    with pytest.raises(ConfigError, match=r"learn\.min_actions is set, and no learn model of chat"):
        create_all(["chat"], Options(min_actions=3))
    with pytest.raises(ConfigError, match=r"learn\.dpo is set"):
        create_all(["worker_task"], Options(dpo=DpoConfig(max_pairs=3)))
    (pairs,) = create_all(["dpo(worker_task)"], Options(min_actions=3, dpo=DpoConfig(max_pairs=3)))
    assert pairs.build_episodes([act("a"), act("done")], now_ms=1) == []


def models(make: Callable[[], list[LearnModel]]) -> list[str]:
    return [model.name for model in make()]


def test_the_config_names_models_and_their_options() -> None:
    """A name, or a list; each option has a default of the model's own."""
    assert Config(scenario="a").learn.names == ("chat",)
    learn = {"model": "worker_task", "min_actions": 3, "system_events": ["beat"]}
    config = Config(scenario="a", learn=learn)  # type: ignore[arg-type]
    (model,) = learn_models_of(config)
    assert model.build_episodes([act("a"), act("beat"), act("done")], now_ms=1) == []
    assert model.build_episodes([act("a"), act("b"), act("done")], now_ms=1)
    with pytest.raises(ValueError, match="there is no learn model 'chess'"):
        Config(scenario="a", learn={"model": ["chat", "chess"]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it is empty"):
        Config(scenario="a", learn={"model": []})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("learn", "method", "says"),
    [
        ({"model": "tests.unit.learn_models.own_model:Haiku"}, "kto", "does not say what of its"),
        ({"model": "dpo(chat)"}, "sft", "makes pairs, which are not imitated one by one"),
        ({}, "grpo", "learns from rollouts: this version makes none"),
        ({"unlabelled": "judge"}, "auto", "no judge is configured"),
    ],
)
def test_what_could_not_be_learned_from_is_refused_at_the_start(
    learn: dict[str, str], method: str, says: str
) -> None:
    """A method gets the rows that it reads, or none, and nobody waits for a judge that is not there."""
    config = Config(scenario="a", base_model="tiny", learn=learn, train={"method": method})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says) as caught:
        learn_models_of(config)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("model", "method"),
    [("dpo(chat)", "auto"), ("chat", "dpo"), ("chat", "kto"), ("dpo(chat)", "kto")],
)
def test_comparisons_are_trained_on(model: str, method: str) -> None:
    """Pairs and labelled answers of one learn model are as good as rows to imitate."""
    config = Config(
        scenario="a",
        base_model="tiny",
        learn={"model": model},  # type: ignore[arg-type]
        train={"method": method},  # type: ignore[arg-type]
    )
    assert models(lambda: learn_models_of(config)) == [model]


def test_pairs_can_be_kept_where_nothing_trains() -> None:
    """Without a base model `dpo(...)` only builds its episodes."""
    config = Config(scenario="a", learn={"model": "dpo(worker_task)"})  # type: ignore[arg-type]
    assert models(lambda: learn_models_of(config)) == ["dpo(worker_task)"]
