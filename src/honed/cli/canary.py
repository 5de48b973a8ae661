"""Commands about the model that is tried beside the one in service: canary, promote, withdraw."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from honed.cli.asking import AsJson, ConfigFile, ask_daemon, config_from, print_json
from honed.cli.printing import say
from honed.cli.review import me
from honed.triggers.duration import format_duration, whole_seconds

_PANEL: Final = "Learning"
By = Annotated[str | None, typer.Option("--by", help="Who says so; default: the user.")]
Meant = Annotated[
    str | None,
    typer.Argument(help="Adapter that is meant, refused if another one is tried; default: any."),
]
_STATES: Final = {
    "watching": "is tried",
    "held": "waits for you: `honed promote {0}` or `honed withdraw {0}`",
    "promoted": "was promoted",
    "rolled_back": "was rolled back",
    "withdrawn": "was withdrawn",
}


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel=_PANEL)(canary)
    app.command(rich_help_panel=_PANEL)(promote)
    app.command(rich_help_panel=_PANEL)(withdraw)


def canary(
    model: Annotated[
        str | None, typer.Argument(help="Adapter to try, SCENARIO@NUMBER; default: show what is.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    share: Annotated[
        float | None,
        typer.Option(help="Share of the tasks, 0 to 1; default: apply.canary.share, else 0.1."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Answer copies of them; nobody sees what it says.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Try it even if the gate has not passed it.")
    ] = False,
    by: By = None,
) -> None:
    """Show what is tried on a share of the tasks, and what became of others; or try an adapter.

    Exit status: 0 done, 1 refused, 3 no daemon runs.
    """
    found = config_from(config)
    if model is None:
        answer = ask_daemon(found, "GET", "/v1/canary")
        if as_json:
            print_json(answer)
            return
        now = answer["canary"]
        for row in lines(now) if now else ["nothing is tried now"]:
            say(row)
        for each in answer["canaries"]:
            if each["ended_at_ms"] is not None:
                who = f" by {each['decided_by']}" if each["decided_by"] else ""
                ended = f"{each['model_id']} {_STATES[each['state']]}{who}"
                say(f"{_time(each['ended_at_ms'])}  {ended}: {each['reason']}")
        return
    order = {"model_id": model, "share": share, "shadow": shadow, "force": force}
    answer = ask_daemon(found, "POST", "/v1/canary", order | {"said_by": by or me()})
    begun = answer["canary"]
    what = "copies of " if begun["is_shadow"] else ""
    _show(answer, f"{model} gets {what}{begun['share']:.0%} of the tasks", as_json)


def promote(
    model: Meant = None, config: ConfigFile = None, as_json: AsJson = False, by: By = None
) -> None:
    """Put the adapter that is tried into service, whatever it has done so far.

    Exit status: 0 done, 1 refused, 3 no daemon runs.
    """
    answer = _decide("promote", model, config, by)
    over = answer["canary"]
    if over["state"] == "promoted":
        _show(answer, f"{over['model_id']} is in service", as_json)
    else:
        _show(answer, f"{over['model_id']} was withdrawn: {over['reason']}", as_json)
        raise typer.Exit(1)


def withdraw(
    model: Meant = None, config: ConfigFile = None, as_json: AsJson = False, by: By = None
) -> None:
    """Stop the trial: what is in service answers everything again.

    Exit status: 0 done, 1 refused, 3 no daemon runs.
    """
    answer = _decide("withdraw", model, config, by)
    _show(answer, f"{answer['canary']['model_id']} is not tried any more", as_json)


def lines(now: dict[str, Any]) -> list[str]:
    """What is tried and how it does, in words."""
    what = "copies of " if now["is_shadow"] else ""
    against = now["incumbent_id"] or "the base model"
    where = f"beside {against}, since {_time(now['started_at_ms'])} UTC"
    how = f"{what}{now['share']:.0%} of the tasks"
    state = _STATES[now["state"]].format(now["model_id"])
    told = [f"{now['model_id']} {state}: {how}, {where}"]
    for name, numbers in ((now["model_id"], now["candidate"]), (against, now["live"])):
        known = f"{numbers['successes']} of {numbers['known']} tasks done"
        open_tasks = numbers["tasks"] - numbers["known"]
        more = f", {open_tasks} without an outcome" if open_tasks else ""
        failed = f"{numbers['failed']} of {numbers['requests']} requests failed"
        told.append(f"{name}: {failed if now['is_shadow'] else f'{known}{more}; {failed}'}")
    if now["next_look"] is not None and now["state"] == "watching":
        each = "copies" if now["is_shadow"] else f"tasks of each, now {now['tasks_per_arm']}"
        told.append(f"looked at next at {now['next_look']} {each}{_patience(now)}")
    if now["reason"]:
        told.append(now["reason"])
    if now.get("server_problem"):
        told.append(f"its server does not answer: {now['server_problem']}")
    if now["problem"]:
        told.append(f"cannot be looked at: {now['problem']}")
    return told


def _patience(now: dict[str, Any]) -> str:
    """How long that may take; a daemon from before does not say."""
    if now.get("max_age_s") is None:
        return ""
    most, gone = (
        format_duration(whole_seconds(timedelta(seconds=now[key])))
        for key in ("max_age_s", "waited_s")
    )
    return f"; held if it takes {most}, {gone} have gone"


def _decide(what: str, model: str | None, config: Any, by: str | None) -> Any:
    order = {"said_by": by or me()} | ({"model_id": model} if model else {})
    return ask_daemon(config_from(config), "POST", f"/v1/canary/{what}", order)


def _show(answer: object, text: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(text)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
