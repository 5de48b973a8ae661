"""Commands for a machine that runs honed for good: service install, service uninstall."""

from pathlib import Path
from typing import Annotated, Final

import typer

from honed.cli.asking import AsJson, leave, print_json
from honed.cli.printing import say
from honed.cli.units import Unit, executable, units
from honed.config.places import SYSTEM_CONFIG
from honed.domain.ids import check_scenario
from honed.errors import ConfigError, ValidationError

_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What ProtectHome= and PrivateTmp= of the system's units hide."""

User = Annotated[bool, typer.Option("--user", help="For this user's service manager.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")
]
Force = Annotated[bool, typer.Option("--force", help="Also files that somebody has edited.")]
Root = Annotated[
    Path, typer.Option(help="Another root folder, for images and packages.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    service = typer.Typer(
        help="Install or remove the systemd units: `service install`, `service uninstall`."
    )
    service.command()(install)
    service.command()(uninstall)
    app.add_typer(service, name="service", rich_help_panel="Processes", no_args_is_help=True)


def install(
    user: User = False,
    dry_run: DryRun = False,
    scenario: Annotated[
        str | None, typer.Option(help="Say how this scenario is started with them.")
    ] = None,
    force: Force = False,
    root: Root = Path("/"),
    as_json: AsJson = False,
) -> None:
    """Write the systemd units of daemon, feed and gateway, with the path of this installation."""
    found = list(units(user=user, root=root))
    edited = [unit for unit in found if unit.state == "edited"]
    if edited and not force and not dry_run:
        leave(_refusal(edited, "replaced"))
    if as_json:
        print_json([{"path": str(unit.path), "state": unit.state} for unit in found])
    for unit in found:
        if dry_run and not as_json:
            say(f"# {unit.path} ({unit.state})\n{unit.text}")
        elif not dry_run and unit.state != "current":
            _write(unit)
            if not as_json:
                say(f"wrote {unit.path}")
    if not as_json:
        for line in _next_steps(user=user, scenario=_checked(scenario)):
            say(line, err=dry_run)


def uninstall(
    user: User = False, dry_run: DryRun = False, force: Force = False, root: Root = Path("/")
) -> None:
    """Remove the units that `service install` wrote; data and config stay."""
    found = [unit for unit in units(user=user, root=root) if unit.state != "missing"]
    edited = [unit for unit in found if unit.state == "edited"]
    if edited and not force and not dry_run:
        leave(_refusal(edited, "removed"))
    for unit in found:
        if not dry_run:
            try:
                unit.path.unlink()
            except OSError as error:
                leave(ConfigError(f"{unit.path} cannot be removed: {error.strerror}"))
        say(f"{'would remove' if dry_run else 'removed'} {unit.path}")
    if found:
        say(f"stop what still runs, then: {_systemctl(user)} daemon-reload")
    else:
        say("nothing is installed")


def _refusal(edited: list[Unit], done: str) -> ConfigError:
    names = ", ".join(str(unit.path) for unit in edited)
    return ConfigError(
        f"edited by somebody, so not {done}: {names}; nothing was changed",
        advice="keep changes in drop-ins (`systemctl edit`), or use --force",
    )


def _write(unit: Unit) -> None:
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        aside = unit.path.with_name(f".{unit.path.name}.new")
        aside.write_text(unit.text)
        aside.chmod(0o644)
        aside.replace(unit.path)
    except OSError as error:
        leave(
            ConfigError(
                f"{unit.path} cannot be written: {error.strerror}",
                advice="run it as root, or use --user",
            )
        )


def _next_steps(*, user: bool, scenario: str) -> list[str]:
    folder = "~/.config/honed" if user else str(SYSTEM_CONFIG)
    lines = ["", "next:"]
    command = executable()[0]
    if not user:
        if any(Path(command).is_relative_to(hidden) for hidden in _HIDDEN):
            lines.append(
                f"  the units cannot see {command}: ProtectHome= and PrivateTmp= hide it. Install honed "
                "below /opt, or use --user"
            )
        lines.append("  systemd-sysusers")
    lines += [
        f"  {folder}/{scenario}.toml     write it with `honed init {scenario} --file ...`",
        f"  ln -s {scenario}.toml {folder}/config.toml     what the gateway reads",
        f"  {_systemctl(user)} daemon-reload",
        f"  {_systemctl(user)} enable --now honed-serve.service honed@{scenario}.service",
    ]
    if user:
        lines.append("  loginctl enable-linger     so that they run without a login")
    return lines


def _systemctl(user: bool) -> str:
    return "systemctl --user" if user else "systemctl"


def _checked(scenario: str | None) -> str:
    if scenario is None:
        return "SCENARIO"
    try:
        return check_scenario(scenario)
    except ValidationError as error:
        leave(error)
