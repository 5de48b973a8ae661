"""Which learn models a config names: built-in ones by name, others as `package.module:Class`.

`dpo(NAME)` compares the episodes of another one.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from honed.errors import ConfigError
from honed.learn_models.chat import ChatLearnModel
from honed.learn_models.decision_sequence import DecisionSequenceLearnModel
from honed.learn_models.dependency_graph import DependencyGraphLearnModel
from honed.learn_models.dpo import DpoConfig, DpoLearnModel
from honed.learn_models.learn_model import LearnModel
from honed.learn_models.worker_task import WorkerTaskLearnModel

BUILT_IN: Final[Mapping[str, Callable[..., LearnModel]]] = {
    "chat": ChatLearnModel,
    "worker_task": WorkerTaskLearnModel,
    "worker_decision_sequence": DecisionSequenceLearnModel,
    "dependency_graph": DependencyGraphLearnModel,
}

_WRAPPED: Final = re.compile(r"dpo\((.*)\)")
_CLASS: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CALLED: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "group_key": ("arrival", ("arrival",), ()),
    "is_closing": ("arrival", ("arrival",), ()),
    "is_complete": ("records", ("records",), ()),
    "build_episodes": ("records, *, now_ms, final=False", ("records",), ("now_ms", "final")),
    "evaluate": ("records", ("records",), ()),
    "convert": ("episode, *, available_actions=()", ("episode",), ("available_actions",)),
    "left_out": ("episode", ("episode",), ()),
}
"""How the methods are called: written out, by position, by name."""


class Options(Struct, frozen=True, kw_only=True):
    """What a config may say to learn models; None leaves a model's own default."""

    system_prompt: str | None = None
    min_actions: int | None = None
    available_actions: tuple[str, ...] | None = None
    system_events: tuple[str, ...] | None = None
    dpo: DpoConfig = DpoConfig()

    def given(self) -> dict[str, Any]:
        """Those that were said, for a model's constructor."""
        names = ("system_prompt", "min_actions", "available_actions", "system_events")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


_DEFAULTS: Final = Options()


def check_name(name: str) -> str:
    """`name` if it can name a learn model; no class is looked for.

    Raises:
        ConfigError: it cannot; the message lists those there are.
    """
    inner = name
    if match := _WRAPPED.fullmatch(name):
        inner = match[1]
    if inner not in BUILT_IN and not _CLASS.fullmatch(inner):
        known = ", ".join(BUILT_IN)
        raise ConfigError(
            f"learn.model: there is no learn model {name!r}: expected one of {known}, "
            "package.module:Class, or dpo(...) around one of them"
        )
    return name


def create(name: str, options: Options = _DEFAULTS) -> LearnModel:
    """The learn model of that name.

    Raises:
        ConfigError: there is none, or it cannot be made; the message lists those there are.
    """
    if match := _WRAPPED.fullmatch(check_name(name)):
        return DpoLearnModel.wrapping(create(match[1], options), options.dpo)
    make = BUILT_IN[name] if name in BUILT_IN else _class(name)
    try:
        made = make(**_taken(make, options))
    except Exception as error:
        raise ConfigError(
            f"learn.model: {name} cannot be made: {type(error).__name__}: {error}",
            advice="its class is called without arguments, but for the options of the section learn",
        ) from error
    if name not in BUILT_IN:
        _check(name, made)
    return made


def create_all(names: Sequence[str], options: Options = _DEFAULTS) -> list[LearnModel]:
    """The learn models of a config, in its order.

    Raises:
        ConfigError: one of them cannot be made, two have one name, or an option is for none of them.
    """
    models = [create(name, options) for name in names]
    seen: dict[str, str] = {}
    for model, name in zip(models, names, strict=True):
        if model.name in seen:
            raise ConfigError(
                f"learn.model: {seen[model.name]} and {name} are both called {model.name}: expected "
                "names that differ",
                advice="leave one of them out, or give the class another `name`",
            )
        seen[model.name] = name
    makers = [_maker(name) for name in names]
    for option in options.given():
        if not any(option in _taken(make, options) for make in makers):
            raise ConfigError(
                f"learn.{option} is set, and no learn model of {', '.join(names)} takes it",
                advice=f"take learn.{option} out, or choose a learn model that takes it",
            )
    if options.dpo != _DEFAULTS.dpo and not any(_WRAPPED.fullmatch(name) for name in names):
        raise ConfigError(
            f"learn.dpo is set, and no learn model of {', '.join(names)} makes pairs",
            advice="take the section learn.dpo out, or choose dpo(...) as learn.model",
        )
    return models


def _maker(name: str) -> Callable[..., LearnModel]:
    match = _WRAPPED.fullmatch(name)
    inner = match[1] if match else name
    return BUILT_IN[inner] if inner in BUILT_IN else _class(inner)


def _taken(make: Callable[..., LearnModel], options: Options) -> dict[str, Any]:
    """The given options that a constructor takes."""
    try:
        known = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    return {name: value for name, value in options.given().items() if takes_any or name in known}


def _class(path: str) -> Callable[..., LearnModel]:
    """The class that is written `package.module:Class`."""
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module does while it is imported
        raise ConfigError(
            f"learn.model: {path} cannot be imported: {type(error).__name__}: {error}",
            advice="install its package into the environment that honed runs in, or put its folder into PYTHONPATH "
            "of the daemon; `python -c 'import MODULE'` shows the whole error",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = sorted(
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module_name
        )
        raise ConfigError(
            f"learn.model: {module_name} has no class {class_name}: expected one of "
            f"{', '.join(classes) or 'its classes, and it has none'}"
        )
    return cast("Callable[..., LearnModel]", found)


def _check(path: str, made: object) -> None:
    """See that an object of somebody's class can be used as a learn model."""
    missing = [name for name in _CALLED if not callable(getattr(made, name, None))]
    missing += [n for n in ("name", "objective") if not isinstance(getattr(made, n, None), str)]
    if missing:
        raise ConfigError(
            f"learn.model: {path} is no learn model: it has no {', '.join(missing)}",
            advice="derive it from honed.learn_models.LearnModelMixin, which brings all but name, objective, "
            "build_episodes, evaluate and convert",
        )
    for name, (written, positional, named) in _CALLED.items():
        try:
            inspect.signature(getattr(made, name)).bind(*positional, **dict.fromkeys(named))
        except TypeError as error:
            raise ConfigError(
                f"learn.model: {path} cannot be called as a learn model is: {name}: {error}",
                advice=f"define it as `def {name}(self, {written})`",
            ) from None
        except ValueError:  # no signature to look at
            continue
    own: str = cast("LearnModel", made).name
    if own in BUILT_IN or not _NAME.fullmatch(own):
        raise ConfigError(
            f"learn.model: {path} is called {own!r}, which is a built-in model's name or cannot name a file",
            advice="give the class a `name` of letters, digits, '_', '-' and '.'",
        )
