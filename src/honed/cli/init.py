"""`honed init`: a commented config for this machine, from flags, from questions, or from defaults."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from platformdirs import user_data_path

from honed.cli.asking import EXIT_FAILED, EXIT_USAGE, leave
from honed.cli.printing import say
from honed.cli.starter import Starter, exists_already, write_file
from honed.config import load_config
from honed.doctor.finding import gib
from honed.domain.ids import check_scenario
from honed.errors import ConfigError, HonedError, ServerStartError, ValidationError
from honed.machine import model
from honed.machine.gpus import Gpus, gpus
from honed.machine.llama_server import bundled_version, on_path, program
from honed.machine.memory import Memory, memory
from honed.machine.proposals import Proposal, fitted, preferred, proposals

_NONE: Final = "none"
_BUNDLED: Final = "bundled"


class ApplyMode(StrEnum):
    """How adapters go live."""

    AUTO = "auto"
    MANUAL = "manual"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel="First steps")(init)


def init(
    scenario: Annotated[
        str | None, typer.Argument(help="The kind of work, for example airline.")
    ] = None,
    file: Annotated[Path, typer.Option("--file", help="Where to write it.")] = Path("honed.toml"),
    base_model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the base model; `none` only keeps episodes."),
    ] = None,
    llama_server: Annotated[
        Path | None, typer.Option(help="llama.cpp's server; default: the bundled one.")
    ] = None,
    apply: Annotated[
        ApplyMode | None, typer.Option(help="Adapters go live by themselves, or by hand.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    models_dir: Annotated[
        list[Path] | None, typer.Option(help="Also look for models there; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented starter config for this machine.

    What flags leave open is asked on a terminal; with scenario and base model given, nothing is. --yes takes the
    defaults that suit this machine.
    Exit status: 0 written, 1 the file exists or cannot be written, 2 what was named cannot be used.
    """
    wanted = _Wanted(scenario, base_model, llama_server, apply, data_dir)
    try:
        if file.exists() and not force:
            raise exists_already(file)
        if scenario is not None:
            check_scenario(scenario)
        if base_model is not None:
            _check_model(base_model)
        asks = not yes and not wanted.is_enough
        if (asks and not sys.stdin.isatty()) or (yes and scenario is None):
            raise wanted.too_little()
        machine = _Machine(models_dir or [])
        if asks:
            wanted = _asked(machine, wanted)
        _make_folder(file.parent)
        write_file(file, _starter(machine, wanted).text(), force=force)
        load_config(file)
    except ValidationError as error:
        leave(error, EXIT_USAGE)
    except HonedError as error:
        leave(error, EXIT_FAILED)
    say(f"wrote {file}")
    say(f"next: `honed doctor --config {file}` checks it, `honed up --config {file}` starts")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What flags or answers say; None where they say nothing."""

    scenario: str | None
    base_model: str | None
    llama_server: Path | None
    apply: ApplyMode | None
    data_dir: Path | None

    @property
    def is_enough(self) -> bool:
        """Whether nothing needs to be asked."""
        return self.scenario is not None and self.base_model is not None

    def too_little(self) -> ValidationError:
        missing = "the scenario" if self.scenario is None else "the base model"
        return ValidationError(
            f"{missing} is missing, and there is nobody to ask",
            advice="honed init SCENARIO --base-model MODEL; --yes takes what suits this machine",
        )


def _starter(machine: "_Machine", wanted: _Wanted) -> Starter:
    assert wanted.scenario is not None
    chosen = machine.proposal(wanted.base_model)
    starter = Starter(
        scenario=wanted.scenario,
        base_model=None,
        data_dir=wanted.data_dir.expanduser().absolute() if wanted.data_dir else None,
        llama_server=machine.server(wanted.llama_server),
        mode=(wanted.apply or ApplyMode.AUTO).value,
    )
    if chosen is None:
        return starter
    return replace(
        starter,
        base_model=chosen.name,
        licence=" - ".join(filter(None, [chosen.licence, chosen.remark])),
        max_length=chosen.max_length,
        batch_size=chosen.batch_size,
        gradient_accumulation_steps=chosen.gradient_accumulation_steps,
    )


class _Machine:
    """What was found here, and what follows from it."""

    def __init__(self, models_dirs: list[Path]) -> None:
        self.memory: Memory = memory()
        self.cards: Gpus = gpus()
        self.proposals = proposals(model.list_models(models_dirs), self.memory, self.cards)
        self.best = preferred(self.proposals)

    def proposal(self, name: str | None) -> Proposal | None:
        """The one that is meant; the best when nothing is said; None for `none`."""
        if name == _NONE:
            return None
        if name is None:
            return self.best
        for each in self.proposals:
            if each.name == name:
                return each
        folder = model.find(name)
        if folder is None:
            return Proposal(name, "", None, batch_size=1)
        if Path(name).expanduser().is_dir():
            name = str(folder.resolve())  # absolute: the daemon may start elsewhere
        shape = model.shape(folder, model.read_config(folder)) if _has_config(folder) else None
        return fitted(Proposal(name, model.licence(folder) or "", shape), self.memory, self.cards)

    def server(self, named: Path | None) -> Path | None:
        """The executable to name; None for the bundled one. Raises ServerStartError."""
        if named is not None:
            return program(named.expanduser().absolute()).path
        other = on_path()
        if other is None:
            return None
        try:
            found = program(other)
        except ServerStartError:
            return None
        # the bundled one is the version that honed was tested with, but it knows no GPU
        return other if found.devices or bundled_version() is None else None

    def describe(self) -> str:
        """One line for the person who is asked."""
        cards = ", ".join(f"{card.name} ({gib(card.total)})" for card in self.cards.cards)
        return f"{gib(self.memory.available)} of memory free, {cards or 'no GPU'}"


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _asked(machine: _Machine, wanted: _Wanted) -> _Wanted:
    """Ask for what is open, each with a default that suits this machine."""
    say(f"This machine: {machine.describe()}.")
    scenario = wanted.scenario or _ask("The kind of work (a short name)", None, check_scenario)
    return _Wanted(
        scenario,
        wanted.base_model or _ask_model(machine),
        wanted.llama_server or _ask_server(machine),
        wanted.apply or ApplyMode(_ask("Adapters go live: auto, manual", "auto", ApplyMode)),
        wanted.data_dir or _ask_place(scenario),
    )


def _ask_server(machine: _Machine) -> Path | None:
    if on_path() is None:
        return None
    default = str(machine.server(None) or _BUNDLED)
    answer = _ask(f"llama-server: a path, or `{_BUNDLED}`", default, str)
    return None if answer == _BUNDLED else Path(answer)


def _ask_place(scenario: str) -> Path | None:
    default = str(user_data_path("honed") / scenario)
    answer = _ask("Where everything is kept", default, str)
    return None if answer == default else Path(answer)


def _ask_model(machine: _Machine) -> str:
    for number, each in enumerate(machine.proposals, 1):
        words = [each.licence, "here" if each.is_here else "", "" if each.fits else "does not fit"]
        words.append(each.remark)
        say(f"  {number}  {each.name}  ({', '.join(filter(None, words))})")
    known = {str(number): each.name for number, each in enumerate(machine.proposals, 1)}
    default = next(number for number, name in known.items() if name == machine.best.name)

    def check(answer: str) -> None:
        if answer.isdecimal() and answer not in known and not Path(answer).is_dir():
            raise ValidationError(f"there is no model {answer}, the last is {len(known)}")
        if answer not in known:
            _check_model(answer)

    answer = _ask("Base model: a number, a folder, a hub id, or `none`", default, check)
    return known.get(answer, answer)


def _check_model(name: str) -> None:
    if name != _NONE:
        model.check_named(name)


def _ask(text: str, default: str | None, check: Callable[[str], object]) -> str:
    """An answer that the check takes; asked again otherwise. Ends with the input."""
    while True:
        answer: str = typer.prompt(text, default=default)
        try:
            check(answer)
        except ValidationError as error:
            say(f"  {error}{f': {error.advice}' if error.advice else ''}", err=True)
        except ValueError as error:
            say(f"  {error}", err=True)
        else:
            return answer
