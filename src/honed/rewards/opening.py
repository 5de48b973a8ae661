"""The jury that a config asks for."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict

from honed.config import Config, read_secret
from honed.config.rewards import split_name
from honed.domain.times import now_ms
from honed.errors import ConfigError
from honed.learn_models.learn_model import LearnModel
from honed.ports import DataSink, Store
from honed.rewards.asking import Asking
from honed.rewards.jury import Closes, Jury
from honed.rewards.verifiers import FunctionVerifier, verifier_of

if TYPE_CHECKING:
    from honed.rewards.judge import Judge

_COMMANDS_AT_A_TIME: Final = 2
"""Programs of one verifier that run at once, beside a swarm and a training."""


class _Mine(TypedDict):
    """Whose episodes are asked about."""

    scenario: str
    learn_model: str
    now_ms: Callable[[], int]


def jury_of(
    config: Config,
    learn_models: Sequence[LearnModel],
    store: Store,
    sink: DataSink,
    announce: Callable[[str, dict[str, Any]], None],
) -> Jury:
    """All that the sections `rewards` and `judge` name.

    Raises:
        ConfigError: the rubric cannot be read, or the key is empty.
    """
    asking: list[Asking] = []
    closes: list[Closes] = []
    judge = judge_of(config) if config.judge.url is not None else None
    for learn_model in [model.name for model in learn_models]:
        mine: _Mine = {"scenario": config.scenario, "learn_model": learn_model, "now_ms": now_ms}
        for entry, command in config.rewards.verifiers.items():
            name, version = split_name(entry)
            timeout = config.rewards.verifier_timeout
            verifier = verifier_of(name, version, command, timeout=timeout)
            if isinstance(verifier, FunctionVerifier):
                closes.append(verifier)
            at_a_time = _COMMANDS_AT_A_TIME
            asking.append(Asking(verifier, store.rewards, sink, at_a_time=at_a_time, **mine))
        if judge is not None:
            asking.append(_asking_of(config, judge, store, sink, mine))
    return Jury(
        store,
        asking,
        scenario=config.scenario,
        learn_models=[model.name for model in learn_models],
        watches=config.rewards.alarms,
        figures={judge.source: judge.figures} if judge is not None else {},
        closes=closes,
        announce=announce,
    )


def judge_of(config: Config, *, patience: timedelta | None = None) -> "Judge":
    """The judge of the section, which has to have a URL; `patience` limits its time and makes it ask once.

    Raises:
        ConfigError: the rubric cannot be read, or the key is empty.
    """
    # only a daemon with a judge has these in memory
    from honed.rewards.endpoint import Endpoint
    from honed.rewards.judge import Judge

    section = config.judge
    assert section.url is not None
    endpoint = Endpoint(
        section.url,
        model=section.model,
        key=read_secret("judge-key"),
        timeout=min(section.timeout, patience or section.timeout),
        attempts=1 if patience else section.attempts,
        max_concurrent=section.max_concurrent,
    )
    return Judge(
        endpoint,
        name=section.name,
        version=section.version,
        rubric=_rubric(config),
        votes=section.votes,
        attempts=section.attempts,
        max_chars=section.max_content,
    )


def _asking_of(config: Config, judge: "Judge", store: Store, sink: DataSink, mine: _Mine) -> Asking:
    section = config.judge
    return Asking(
        judge,
        store.rewards,
        sink,
        only_unlabelled=section.which == "unlabelled",
        sample=section.sample,
        wait=section.wait,
        at_a_time=section.max_concurrent,
        ranks=judge,
        group_size=section.group_size,
        probe=judge.probe,
        **mine,
    )


def _rubric(config: Config) -> str:
    path = config.judge.rubric_file
    if path is None:
        return config.judge.rubric
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.rubric_file {path} cannot be read: {error}") from error
