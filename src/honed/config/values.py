"""Values that TOML has no type for: spans of time, sizes in bytes, rules."""

import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, WithJsonSchema

from honed.domain.composition import Weight
from honed.domain.consent import Rule, parse_rule
from honed.domain.processing import ProcessorMode, parse_mode
from honed.errors import ConfigError, TriggerSyntaxError, ValidationError
from honed.learn_models import BUILT_IN, check_name
from honed.triggers.duration import format_duration, parse_duration
from honed.triggers.text import from_table, parse
from honed.triggers.trigger import TrainTrigger

_SIZES: Final[Mapping[str, int]] = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


def parse_size(value: object) -> int:
    """Bytes from `64MiB`, `10 KiB` or a number; raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9]\d*)\s*(KiB|MiB|GiB)?", value)):
        return int(match[1]) * _SIZES.get(match[2] or "", 1)
    raise ValueError(f"{value!r} is not a size: expected for example 64MiB or bytes")


def format_size(size_bytes: int) -> str | int:
    """The form that is easiest to read and that `parse_size` reads back."""
    for unit, size in _SIZES.items():
        if size_bytes and size_bytes % size == 0:
            return f"{size_bytes // size}{unit}"
    return size_bytes


def parse_trigger(value: object) -> TrainTrigger:
    """A rule from its text or table; raises ValueError."""
    if isinstance(value, TrainTrigger):
        return value
    try:
        return parse(value) if isinstance(value, str) else from_table(value)
    except TriggerSyntaxError as error:
        raise ValueError(str(error)) from None


class SizeMark:
    """Marks a number as a size, so that it is shown as one."""


def check_mode(value: object) -> ProcessorMode:
    """A mode of runs from its name; raises ValueError."""
    try:
        return parse_mode(value)
    except ConfigError as error:
        raise ValueError(f"{error} ({error.advice})" if error.advice else str(error)) from None


Mode = Annotated[
    ProcessorMode,
    BeforeValidator(check_mode),
    WithJsonSchema({"type": "string", "examples": ["offline", "lora", "full"]}),
]

Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?[smhd])+$"},
                {"type": "number", "minimum": 0},
            ],
            "examples": ["30s", "1h30m", 90],
        }
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    SizeMark(),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[1-9][0-9]*\s*(KiB|MiB|GiB)?$"},
                {"type": "integer", "minimum": 1},
            ],
            "examples": ["64MiB", 65536],
        }
    ),
]
Trigger = Annotated[
    TrainTrigger,
    BeforeValidator(parse_trigger),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "object"}],
            "examples": ['count(100) | every("1h")'],
        }
    ),
]


def parse_consent_rule(value: object) -> Rule:
    """A rule of `consent`; raises ValueError."""
    if isinstance(value, Rule):
        return value
    try:
        return parse_rule(value if isinstance(value, str) else repr(value))
    except ValidationError as error:
        raise ValueError(str(error)) from None


ConsentRule = Annotated[
    Rule,
    BeforeValidator(parse_consent_rule),
    WithJsonSchema({"type": "string", "examples": ["user=guest-*"]}),
]


def check_learn_models(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """`learn.model` as it was given, if it names learn models; a class of one's own is not looked for."""
    names = (value,) if isinstance(value, str) else value
    if not names:
        raise ValueError("it is empty: expected a learn model, for example chat")
    try:
        for name in names:
            check_name(name)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("learn.model: ")) from None
    return value


LearnModels = Annotated[
    str | tuple[str, ...],
    AfterValidator(check_learn_models),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": [*BUILT_IN, "dpo(worker_task)", "my_swarm.learning:Haiku"],
        }
    ),
]


def check_address(value: str) -> str:
    """`host:port` as it was given; an IPv6 address stands in brackets."""
    host, _, port = value.rpartition(":")
    is_number = port.isdecimal() and int(port) <= 65535
    if not host or not is_number or (":" in host and not re.fullmatch(r"\[[0-9a-fA-F:.]+\]", host)):
        raise ValueError(f"{value!r} is no address: expected host:port, for example 127.0.0.1:8001")
    return value


Address = Annotated[str, AfterValidator(check_address)]


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine and no network."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_parts(url: str, *, expected: str) -> SplitResult:
    """A URL taken apart; raises ValueError where it is not `expected`, without user or query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc or parts.query:
        raise ValueError(f"url: expected {expected}, without user or query")
    return parts


def check_host(parts: SplitResult, *, allow_remote: bool, risk: str) -> None:
    """Raises ValueError where a URL names another machine and may not, which is a `risk`, or not by https."""
    host = parts.hostname or ""
    if is_loopback(host):
        return
    if not allow_remote:
        raise ValueError(f"url: {host} is another machine: {risk} (allow_remote)")
    if parts.scheme != "https":
        raise ValueError(f"url: {host} is another machine: expected https")


def check_no_pattern(value: Path) -> Path:
    """A file's path as it was given; raises ValueError where it is a pattern, and no file has that very name."""
    if has_magic(str(value)) and not os.path.lexists(value.expanduser()):
        raise ValueError(
            f"{str(value)!r} is a pattern, and files are followed by their names alone: name each of them, or set "
            "events.inbox to a folder, whose .jsonl files are all followed"
        )
    return value


PlainFile = Annotated[Path, AfterValidator(check_no_pattern)]


def plain(value: Any, *, is_size: bool = False) -> Any:
    """A value of the config as TOML and JSON can hold it; reading it back gives an equal one."""
    match value:
        case timedelta():
            return format_duration(value)
        case TrainTrigger() | Path() | Rule() | Weight():
            return str(value)
        case BaseModel():
            return value.model_dump(exclude_none=True)
        case tuple():
            return [plain(item) for item in value]
        case int() if is_size:
            return format_size(value)
    return value
