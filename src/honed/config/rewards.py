"""The sections `rewards` and `judge`: whose word counts, and who is asked for one."""

import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from honed.config.sections import Section
from honed.config.values import Duration, check_host, url_parts
from honed.domain.composition import Composition, Weight, parse_weight
from honed.errors import ValidationError

_NAME: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9_.-]{0,39})(@(?P<version>[A-Za-z0-9._-]{1,20}))?"
)


def _weight(value: object) -> Weight:
    if isinstance(value, Weight):
        return value
    try:
        return parse_weight(value if isinstance(value, str) else repr(value))
    except ValidationError as error:
        raise ValueError(str(error)) from None


SourceWeight = Annotated[
    Weight,
    BeforeValidator(_weight),
    WithJsonSchema({"type": "string", "examples": ["judge:*=0.5"]}),
]


class RewardsSection(Section):
    """How what several sources say of an attempt becomes its outcome, and which programs are asked for theirs."""

    compose: Literal["newest", "first", "weighted"] = "newest"
    """newest: the newest verdict counts, a model's only while there is no other; first: that of the first of `sources`
    that has said anything; weighted: every source has a vote, and more than half of the weight makes a success."""
    sources: tuple[SourceWeight, ...] = Field((), examples=[["user:*=2", "judge:*=0.5", "-=0"]])
    """Sources with their weights, `NAME=WEIGHT`; a name may hold `*` and `?`, `-` is who gives none. Weight 0 leaves a
    source out; one that is not named has the weight 1."""
    judged: Literal["train", "exclude"] = "train"
    """Whether episodes whose outcome is only a model's opinion (`judge:*`) are learned from."""
    verifiers: dict[str, str] = Field(
        {}, examples=[{"tests@1": "python3 /srv/check.py", "exact": "my.checks:exact"}]
    )
    """Programs that are asked about every new episode, by name (and `@VERSION`): a command, which gets the episode as
    JSON and answers with its outcome; or a Python function, `package.module:function`, in a process of its own."""
    verifier_timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0))
    """How long a verifier may take for one episode; then it is ended with all that it has started."""
    alarms: bool = True
    """Whether successes that rise while the work behind them vanishes are reported (docs/rewards.md)."""

    @model_validator(mode="after")
    def _verifiers_have_names_and_commands(self) -> Self:
        names = [split_name(name)[0] for name in self.verifiers]
        if len(set(names)) < len(names):
            raise ValueError("verifiers: a name is there twice")
        for name, command in self.verifiers.items():
            try:
                words = shlex.split(command)
            except ValueError as error:
                raise ValueError(f"verifiers.{name}: {error}: expected a command line") from None
            if not words:
                raise ValueError(
                    f"verifiers.{name} is empty: expected a command or module:function"
                )
        return self

    def composition(self) -> Composition:
        """The rule as the store takes it."""
        return Composition(rule=self.compose, weights=self.sources)


def split_name(text: str) -> tuple[str, str | None]:
    """Name and version of a verifier; raises ValueError."""
    found = _NAME.fullmatch(text)
    if found is None:
        raise ValueError(
            f"verifiers: {text!r} is no name: expected lower-case letters, digits, `_`, `.`, `-`, and @VERSION if any"
        )
    return found["name"], found["version"]


class JudgeSection(Section):
    """A model that is asked how good an attempt was, at any endpoint with OpenAI's chat completions."""

    url: str | None = Field(None, examples=["http://127.0.0.1:8080/v1"])
    """Where it answers, up to `/v1`; without it there is no judge. A key, if it needs one, is in the environment
    variable HONED_JUDGE_KEY or the systemd credential judge-key."""
    allow_remote: bool = False
    """Another machine than this one may be asked, over https only: attempts leave this machine then."""
    model: str = "default"
    """Name of the model there."""
    name: str = "model"
    """Its verdicts come from the source `judge:NAME`."""
    version: str = "1"
    """Version of its verdicts; raise it when rubric or model change, so that older ones count no more."""
    rubric: str = "Did the agent do what the user asked for, completely and correctly?"
    """What makes an attempt good."""
    rubric_file: Path | None = Field(None, examples=["/etc/honed/rubric.md"])
    """The same in a file; wins over `rubric`."""
    which: Literal["unlabelled", "all"] = "unlabelled"
    """Episodes that nobody has judged yet, or all of them, which tells how well it agrees with the others."""
    sample: float = Field(1.0, gt=0.0, le=1.0)
    """Share of those that it is asked about, drawn by their ids."""
    wait: Duration = timedelta(0)
    """How long an episode waits for the verdict of somebody else first."""
    group_size: int = Field(0, ge=0, le=16)
    """So many attempts of one `group_id` are ranked against each other instead; 0: each is judged by itself."""
    votes: int = Field(1, ge=1, le=15)
    """How often it is asked about the same; more than half must agree."""
    max_concurrent: int = Field(2, ge=1, le=64)
    """Requests at a time."""
    timeout: Duration = Field(timedelta(seconds=60), gt=timedelta(0))
    """How long one answer may take."""
    attempts: int = Field(3, ge=1, le=10)
    """How often one request is made before it is given up."""
    max_content: int = Field(24_000, ge=1_000)
    """Characters of an attempt that it is shown; of a longer one the middle is left out."""

    @model_validator(mode="after")
    def _asks_this_machine_or_may_ask_others(self) -> Self:
        if self.url is not None:
            parts = url_parts(self.url, expected="http://HOST:PORT/v1 or https://HOST/v1")
            check_host(parts, allow_remote=self.allow_remote, risk="attempts would leave this one")
        split_name(self.name)
        if self.group_size == 1:
            raise ValueError("group_size: one attempt cannot be ranked: expected 0, or 2 to 16")
        return self
