"""`honed status`: what the daemon does, why it trained or did not, and what is served."""

from datetime import UTC, datetime
from typing import Any

import typer

from honed.cli import canary, verdicts
from honed.cli.asking import (
    AsJson,
    ConfigFile,
    ask_daemon,
    ask_gateway,
    ask_if_running,
    ask_server,
    config_from,
    print_json,
)
from honed.cli.endings import ending
from honed.cli.figures import naming
from honed.cli.printing import say
from honed.config import Config
from honed.domain.processing import OFFLINE_IS_MISSING
from honed.domain.serving import captured_problems
from honed.domain.times import now_ms

_FAULTS = {
    "turned_away": "requests too many",
    "without_content": "model calls without their messages",
    "unreadable": "spans that could not be read",
    "rejected": "lines rejected",
    "lagged": "events lost for want of room",
}
"""What the counts of a source mean; its other numbers are no faults."""


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Looking")(status)


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what the daemon does, why it trained or did not, and what is served.

    Its totals count all that ever came, also what is cleared away or forgotten since.
    """
    found = config_from(config)
    answer = ask_if_running(found, "/v1/status")
    if answer is None:
        answer = _without_daemon(found, as_json)
    answer["gateway"] = ask_gateway(found) if found.own_server is None else None
    answer["server"] = ask_server(found) if answer["gateway"] else None
    if as_json:
        print_json(answer)
        return
    say(
        f"{answer['scenario']}  pid {answer['pid']}, {answer['rss_mb']:.0f} MiB resident, "
        f"since {answer['started_at'][:19]}Z"
    )
    lines = answer.get("lines") or ()  # a daemon from before there were several has none
    records = f"of {answer['records']} records"
    if lines:
        say(f"episodes    {answer['episodes']} made so far by all learn models together, {records}")
    else:
        say(f"episodes    {answer['episodes']} made so far, {records}, {_ended(answer)}")
    if unused := _unused(answer):
        say(f"not used    {unused}")
    say(f"redaction   {_redaction(answer['redacted'])}")
    for name, problem in (("feed", answer["feed_problem"]), ("store", answer["store_problem"])):
        if problem:
            say(f"{name:<12}{problem}")
    for told in verdicts.lines(answer.get("rewards")):  # a daemon from before has none
        say(told)
    say(f"in service  {answer['current_model'] or 'the base model'}")
    if answer.get("canary"):  # a daemon from before has none
        first, *more = canary.lines(answer["canary"])
        say(f"canary      {first}")
        for told in more:
            say(f"            {told}")
    if found.own_server is None:
        say(f"gateway     {_gateway(answer['gateway'], answer['scenario'])}")
    else:
        say(f"server      {_own_server(found)}")
    for told in captured_lines(answer["gateway"], answer["scenario"]):
        say(f"captured    {told}")
    if answer["server"]:
        say(f"server      {_server(answer['server'])}")
    if answer["gateway_problem"]:
        say(f"            {answer['gateway_problem']}")
    if answer["base_problem"]:
        say("base model  not the one that is served: nothing is trained")
        if answer["base_problem"] != answer["gateway_problem"]:
            say(f"            {answer['base_problem']}")
    say(f"training    {_training(answer['training'])}")
    if answer.get("processor_mode") == "offline" and not found.processor_mode:
        say("            no base_model is configured: nothing is trained")
    elif answer.get("processor_mode") == "offline":
        say(f"            processor_mode is offline: nothing is trained, and {OFFLINE_IS_MISSING}")
    for review in answer.get("reviews") or ():
        say(f"review      {_review(review, several=bool(lines))}")
    for run_id in answer.get("paused") or ():
        say(f"paused      {run_id}, until its rule allows it again; `honed cancel` ends it")
    if answer["backoff_until_ms"] and not answer["training"]:
        say(f"            next try at {_time(answer['backoff_until_ms'])} UTC, after a failure")
    run = answer["last_run"]
    say(f"last run    {ending(run, now_ms()) if run else 'none yet'}")
    for each in lines:
        is_first = each["learn_model"] == answer["learn_model"]
        ended = _ended(answer) if is_first else f"{each['unlabelled']} without an outcome"
        say(f"learn model {each['learn_model']}: {each['episodes']} episodes, {ended}")
        say(f"            newest adapter {each['current_model'] or 'none'}")
    for judged in lines or (answer,):
        say(f"trigger of {judged['learn_model']}" if lines else "trigger")
        for row in judged["trigger"]["explain"].splitlines():
            say(f"  {row}")


def _without_daemon(config: Config, as_json: bool) -> dict[str, Any]:
    """What the gateway does while the daemon is away; then leave, as nobody listens."""
    serving = ask_gateway(config) if config.own_server is None else None
    if as_json:
        print_json({"scenario": config.scenario, "gateway": serving})
    elif serving is not None:
        say(f"gateway     {_gateway(serving, config.scenario)}")
        for told in captured_lines(serving, config.scenario):
            say(f"captured    {told}")
    answer: dict[str, Any] = ask_daemon(config, "GET", "/v1/status")
    return answer


def _unused(answer: dict[str, Any]) -> str:
    """What came in and could not be used; empty when all of it could."""
    counts = {
        "lines rejected": answer["rejected"],
        "events withheld by rule": answer["withheld"],
        "groups that the learn model refused": answer["refused_groups"],
        "groups without an episode": answer["groups_without_episode"],
        "second reports of a model call": answer["joined_reports"],
        "connections too many": answer["refused_connections"],
        "connections of users who may not send": answer["forbidden_connections"],
    }
    for source, found in answer["sources"].items():
        counts |= {
            f"{_FAULTS[what]} at {source}": n for what, n in found.items() if what in _FAULTS
        }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _redaction(counts: dict[str, int] | None) -> str:
    """What was taken out of events, by kind."""
    if counts is None:
        return "off: events are stored as they were sent"
    told = sorted(counts.items(), key=lambda found: (-found[1], found[0]))
    return ", ".join(f"{count} {kind}" for kind, count in told) or "nothing taken out so far"


def _ended(answer: dict[str, Any]) -> str:
    rate = _percent(answer["success_rate"])
    return f"{answer['unlabelled']} without an outcome, success rate {rate}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _training(now: dict[str, Any] | None) -> str:
    if now is None:
        return "nothing"
    step = f", step {now['step']} of {now['total_steps']}" if now.get("total_steps") else ""
    loss = f", loss {now['loss']:.3f}" if now.get("loss") is not None else ""
    return f"{now['run_id']}: {now['phase']}{step}{loss}"


def _review(review: dict[str, Any], *, several: bool) -> str:
    run = f"run {review['run_id']} ({review['num_episodes']} episodes)"
    if review["approved_by"]:
        return f"{run} was approved by {review['approved_by']}"
    which = naming(review["learn_model"]) if several else ""
    return f"{run} waits since {_time(review['at_ms'])} UTC: `honed review{which}`"


def _gateway(serving: dict[str, Any] | None, scenario: str) -> str:
    if serving is None:
        return "not running"
    lane = serving["scenarios"].get(scenario)
    if lane is None:
        return "running, does not know this scenario"
    told = f"{lane['state']}, serves {lane['model_id'] or 'the base model'}"
    if lane.get("is_parked"):
        told = f"parked: the next request brings {lane['model_id']} back (serve.max_adapters)"
    if at_hand := lane.get("at_hand"):  # a gateway from before does not say
        told += f", from a shared server with {len(at_hand)} adapters"
    return told


def captured_lines(serving: dict[str, Any] | None, scenario: str) -> list[str]:
    """The calls that wait for the daemon, and what was lost of them; nothing where all is well."""
    lane = serving["scenarios"].get(scenario) if serving else None
    if lane is None:
        return []
    captured = lane["captured"]
    problems = captured_problems(captured)
    if not captured["spooled"]:
        return problems
    told = f"on disk until the daemon has them: {captured['spooled']}"
    if "spooled_bytes" in captured:  # a gateway from before does not tell
        told += f", {captured['spooled_bytes'] / 1e6:.1f} MB, since {_time(captured['spooled_since_ms'])} UTC"
    return [told, *problems]


def _own_server(config: Config) -> str:
    """What the operator runs, and where his agents look."""
    section, kind = config.server, config.own_server
    if kind is None or kind == "folder":
        return f"your own, adapters in {section.folder}"
    return (
        f"your own {kind} at {section.url_of(kind)}; {config.endpoint_path} says what to ask it for"
    )


def _server(vitals: dict[str, Any]) -> str:
    who = f"pid {vitals['pid']}" if vitals["pid"] else f"your own at {vitals['address']}"
    told = [who if vitals["is_healthy"] else f"{who}, does not answer its health check"]
    if vitals["slots"] is not None:
        told.append(
            f"{vitals['busy_slots']} of {vitals['slots']} slots busy, {vitals['ctx_size']} tokens each"
        )
    if vitals["deferred"]:
        wait = "wait" if vitals["slots"] is None else "wait for one"
        told.append(f"{vitals['deferred']} requests {wait}")
    if vitals["generated_tokens"] is not None:
        told.append(f"{vitals['generated_tokens']} tokens generated")
    if vitals["private_bytes"] is not None:
        told.append(f"{vitals['private_bytes'] / 2**20:.0f} MiB beside the weights")
    return ", ".join(told)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
