"""Triggers as text, `count(100) | every("1h")`, and as table, `{any = [{count = 100}, ...]}`.

The text is Python's own expression grammar, read with `ast` and never evaluated: calls of known
names with literal arguments, `&`, `|`, `~` and brackets. Two laws: `parse(str(t)) == t` and
`from_table(to_table(t)) == t`.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

from honed.errors import TriggerSyntaxError
from honed.triggers.calendar import Cron, Window, parse_window
from honed.triggers.conditions import Always, Count, Every, Manual, Quality, Quiet
from honed.triggers.drift import Drift
from honed.triggers.duration import format_duration, parse_duration
from honed.triggers.forecast import leaves
from honed.triggers.past_runs import Budget, Cooldown, Failures
from honed.triggers.trigger import AllOf, AnyOf, Never, Not, TrainTrigger, all_of, any_of

MAX_TEXT: Final = 1_000
"""Characters of a rule at most: the reader recurses, a very long chain exhausts the stack."""
MAX_DEPTH: Final = 50
"""Rules inside rules at most."""
MAX_CONDITIONS: Final = 200
"""Conditions of a rule at most: all of them are judged at every look."""
_EXPECTED: Final = "expected conditions such as count(100), joined by & | ~ and brackets"


def _every(interval: object) -> Every:
    return Every(parse_duration(interval))


def _quiet(span: object) -> Quiet:
    return Quiet(parse_duration(span))


def _cooldown(rest: object) -> Cooldown:
    return Cooldown(parse_duration(rest))


def _budget(*, runs: int | None = None, gpu_hours: float | None = None, per: object) -> Budget:
    return Budget(runs=runs, gpu_hours=gpu_hours, per=parse_duration(per))


CONDITIONS: Final[dict[str, Callable[..., TrainTrigger]]] = {
    "count": Count,
    "every": _every,
    "quality": Quality,
    "quiet": _quiet,
    "window": parse_window,
    "cron": Cron,
    "cooldown": _cooldown,
    "budget": _budget,
    "failures": Failures,
    "drift": Drift,
    "always": Always,
    "manual": Manual,
    "never": Never,
}


def default_watch() -> TrainTrigger:
    """The rule of a scenario that names none."""
    return parse('count(100) | every("1h")')


def parse(text: str) -> TrainTrigger:
    """Read a rule from its text.

    Raises:
        TriggerSyntaxError: the text is too long or no rule; the message names the part.
    """
    if len(text) > MAX_TEXT:
        raise TriggerSyntaxError(
            f"the trigger has {len(text)} characters: expected at most {MAX_TEXT}",
            advice="write it as a table",
        )
    if not text.strip():
        raise TriggerSyntaxError(f"the trigger is empty: {_EXPECTED}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        found = f"trigger {text!r} cannot be read: {error.msg}"
        raise TriggerSyntaxError(f"{found}: {_EXPECTED}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte; brackets without end
        raise TriggerSyntaxError(f"trigger {text!r} cannot be read: {error}") from None
    return _sized(_fold(tree.body, 0))


def from_table(table: object) -> TrainTrigger:
    """Read a rule from a table with one key: a condition, `any`, `all` or `not`.

    A text stands for its rule, here and in every part.

    Raises:
        TriggerSyntaxError: it is no such table; the message names the part.
    """
    return _sized(_from_table(table, 0))


def to_table(trigger: TrainTrigger) -> dict[str, Any]:
    """The rule as a table; `from_table` reads it back to an equal value."""
    match trigger:
        case AnyOf(parts):
            return {"any": [to_table(part) for part in parts]}
        case AllOf(parts):
            return {"all": [to_table(part) for part in parts]}
        case Not(part):
            return {"not": to_table(part)}
        case Count(count):
            return {"count": count}
        case Every(interval):
            return {"every": format_duration(interval)}
        case Quality(below, window, min_samples):
            return {"quality": {"below": below, "window": window, "min_samples": min_samples}}
        case Quiet(span):
            return {"quiet": format_duration(span)}
        case Window(tz=tz):
            return {"window": {"hours": trigger.hours, "tz": tz}}
        case Cron(expression, tz):
            return {"cron": {"expression": expression, "tz": tz}}
        case Cooldown(rest):
            return {"cooldown": format_duration(rest)}
        case Budget(runs=runs, gpu_hours=hours, per=per):
            limits = {"runs": runs, "gpu_hours": hours, "per": format_duration(per)}
            return {"budget": {key: value for key, value in limits.items() if value is not None}}
        case Failures(below):
            return {"failures": {"below": below}}
        case Drift(drop, false_alarms):
            return {"drift": {"drop": drop, "false_alarms": false_alarms}}
        case Always() | Manual() | Never():
            return {trigger.name: True}
        case _:
            raise TypeError(f"{type(trigger).__name__} has no table form")


def _sized(rule: TrainTrigger) -> TrainTrigger:
    num = sum(1 for _ in leaves(rule))
    if num > MAX_CONDITIONS:
        raise TriggerSyntaxError(
            f"the trigger has {num} conditions: expected at most {MAX_CONDITIONS}"
        )
    return rule


def _fold(node: ast.expr, depth: int) -> TrainTrigger:
    # a chain `a | b | c` nests on its left side only, so it costs depth although it is flat;
    # 1,000 characters hold at most 125 parts, well inside the interpreter's stack
    if depth > MAX_TEXT // len("always()"):
        raise TriggerSyntaxError("the trigger is nested too deep")
    match node:
        case ast.BinOp(left, ast.BitOr(), right):
            return any_of((_fold(left, depth + 1), _fold(right, depth + 1)))
        case ast.BinOp(left, ast.BitAnd(), right):
            return all_of((_fold(left, depth + 1), _fold(right, depth + 1)))
        case ast.UnaryOp(ast.Invert(), operand):
            return Not(_fold(operand, depth + 1))
        case ast.Call(ast.Name(name), args, keywords):
            return _condition(
                name, map(_literal, args), {_key(k): _literal(k.value) for k in keywords}
            )
        case ast.Name(name):
            _check_name(name)
            raise TriggerSyntaxError(f"{name} lacks its brackets: expected {name}(...)")
        case _:
            raise TriggerSyntaxError(f"{ast.unparse(node)!r} is not part of a trigger: {_EXPECTED}")


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return node.value
    raise TriggerSyntaxError(f"{ast.unparse(node)!r} is not a value: expected a number or a text")


def _key(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise TriggerSyntaxError(f"{ast.unparse(keyword)!r} is not a value: expected name=value")
    return keyword.arg


def _condition(name: str, args: Iterable[object], keywords: dict[str, object]) -> TrainTrigger:
    _check_name(name)
    make = CONDITIONS[name]
    try:
        bound = inspect.signature(make).bind(*args, **keywords)
    except TypeError as error:
        form = ", ".join(inspect.signature(make).parameters)
        raise TriggerSyntaxError(f"{name}: {error}: expected {name}({form})") from None
    try:
        return make(*bound.args, **bound.kwargs)
    except ValueError as error:
        raise TriggerSyntaxError(f"{name}: {error}") from None


def _check_name(name: str, known: Iterable[str] = CONDITIONS) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise TriggerSyntaxError(f"unknown condition {name}: {hint}")


def _from_table(table: object, depth: int) -> TrainTrigger:
    if depth > MAX_DEPTH:
        raise TriggerSyntaxError(f"the trigger is nested more than {MAX_DEPTH} deep")
    if isinstance(table, str):
        return parse(table)
    if not isinstance(table, dict) or len(table) != 1:
        raise TriggerSyntaxError(
            f"{table!r} is not a trigger: expected a table with one key, or a text"
        )
    ((name, value),) = table.items()
    match name, value:
        case "any", list():
            return any_of([_from_table(part, depth + 1) for part in value])
        case "all", list():
            return all_of([_from_table(part, depth + 1) for part in value])
        case "not", _:
            return Not(_from_table(value, depth + 1))
        case (("any" | "all"), _):
            raise TriggerSyntaxError(f"{name} is {value!r}: expected a list of triggers")
    _check_name(str(name), [*CONDITIONS, "any", "all", "not"])
    match value:
        case dict():
            return _condition(name, (), value)
        case True if name in ("always", "manual", "never"):
            return _condition(name, (), {})
        case _:
            return _condition(name, (value,), {})
