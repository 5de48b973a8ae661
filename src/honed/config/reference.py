"""What can be configured, made from the sections: a file with every key, and the JSON schema.

`configs/full.toml` is this file, kept so by a test; editors read the schema.
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from honed.config.config import Config
from honed.config.values import SizeMark, plain

_HEAD: Final = """\
# Every key of honed with its default. A line that begins with `# key =` shows an example of a key that is not set by
# default. Each key can also come from the environment as HONED__SECTION__KEY, which wins over the file.
# Made by `honed config reference`; a short file to start from comes from `honed init`.
"""
_WIDTH: Final = 100


def reference() -> str:
    """A config file with every key, its default and its meaning."""
    return _HEAD + "".join(f"{line}\n" for line in _section(Config, ()))


def schema() -> dict[str, Any]:
    """The JSON schema of the config file."""
    made = Config.model_json_schema()
    models: list[type[BaseModel]] = [Config, *_all_sections(Config)]
    for model in models:
        properties = (made if model is Config else made["$defs"][model.__name__])["properties"]
        for name, field in model.model_fields.items():
            default = _default(field)
            properties[name].pop("title", None)
            properties[name].pop("default", None)
            if not isinstance(default, BaseModel) and default is not None:
                properties[name]["default"] = default
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "Settings of honed",
    }


def _all_sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The sections of a model, and those within them."""
    for _, field in _sections(model):
        section = field.annotation
        yield section
        yield from _all_sections(section)


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it."""
    match value:
        case str() if '"' in value and "'" not in value and value.isprintable():
            return f"'{value}'"
        case list():
            return f"[{', '.join(toml_value(item) for item in value)}]"
        case dict():
            pairs = (f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
    return json.dumps(value, ensure_ascii=False)


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field


def _section(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    sections = dict(_sections(model))
    for name, field in model.model_fields.items():
        if name in sections:
            continue
        yield ""
        yield from _comment(f"{field.description}{_choices(field)}")
        default = _default(field)
        # a required key has no default; its example makes the file one that loads
        value = field.examples[0] if field.is_required() and field.examples else default
        if value is None:
            yield f"# {name} = {toml_value(field.examples[0] if field.examples else None)}"
        else:
            yield f"{name} = {toml_value(value)}"
    for name, field in sections.items():
        yield ""
        yield from _comment(field.description)
        yield f"[{'.'.join((*path, name))}]"
        yield from _section(field.annotation, (*path, name))


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - 2, break_on_hyphens=False):
        yield f"# {line}"


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of: {', '.join(map(str, get_args(field.annotation)))}."


def _default(field: FieldInfo) -> Any:
    """The default as TOML can hold it; None when there is none, or when it depends on others."""
    if field.is_required():
        return None
    is_size = any(isinstance(mark, SizeMark) for mark in field.metadata)
    value = plain(field.get_default(call_default_factory=True, validated_data={}), is_size=is_size)
    return None if value in ("", ".") else value
