"""Do daemon and gateway run, and do they answer? That they do not is no fault."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import honed
from honed.doctor.finding import Found, fail, ok, together, warn
from honed.doctor.patient import Patient
from honed.domain.serving import captured_problems
from honed.machine import neighbours


def daemon(patient: Patient) -> Found:
    """Its version and troubles, where it runs."""
    config = patient.config
    answer = patient.daemon()
    if answer is None:
        lock = config.data_dir / "daemon.lock"
        if lock.exists() and _is_locked(lock):
            return warn(
                f"one holds {lock}, but nobody listens on {config.control_socket}",
                "it starts, stops or hangs: wait, then look at its log; or it was started with "
                "another runtime_dir than this config says",
            )
        return ok("not running (`honed up` or `honed run`)")
    return together(_troubles(answer, config.scenario))


def _troubles(answer: dict[str, Any], scenario: str) -> Iterator[Found]:
    yield ok(f"running, pid {answer.get('pid')}, {answer.get('episodes')} episodes")
    if answer.get("scenario") != scenario:
        yield fail(
            f"it learns {answer.get('scenario')}, not {scenario}",
            "another scenario has this data_dir: give each its own",
        )
    if answer.get("version") != honed.__version__:
        yield warn(
            f"it is honed {answer.get('version')}, this is {honed.__version__}",
            "restart it to finish the upgrade; no request through the gateway is lost",
        )
    if problem := answer.get("gateway_problem"):
        yield warn(str(problem), "see the lines of gateway and llama-server")
    for learn_model, outdated in ((answer.get("rewards") or {}).get("outdated") or {}).items():
        if outdated["num"]:
            yield warn(
                f"{outdated['num']} of the {outdated['of']} newest judged episodes of {learn_model} have an outcome"
                " that a former rule of [rewards] has made",
                "a changed rule holds for what is said from then on; an episode stands anew when a source speaks of it"
                " again (`honed feedback`)",
            )
    yield from _traces(answer.get("sources", {}).get("http", {}))


def _traces(counts: dict[str, Any]) -> Iterator[Found]:
    """Traces that nothing can be learned from; instrumentations leave the messages out by default."""
    if bare := counts.get("without_content", 0):
        yield warn(
            f"{bare} model calls were traced without their messages, and nothing can be learned from them",
            "instrumentations leave messages out until they are told to keep them: set "
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true where the agents run, or your "
            "instrumentation's own switch (docs/sources.md)",
        )
    if unreadable := counts.get("unreadable", 0):
        yield warn(
            f"{unreadable} spans could not be read as events",
            "the daemon's log names the first of each batch",
        )


def gateway(patient: Patient) -> Found:
    """Whether it is this config's, and what it serves for this scenario; else whether its address is free."""
    section = patient.config.serve
    if (kind := patient.config.own_server) is not None:
        return ok(f"none is needed: apply.kind is {kind}")
    answer = patient.gateway()
    if answer is None:
        if other := neighbours.on_address(patient.config):
            told = f"nobody listens on {patient.config.serve_socket}, but {other.found}"
            return fail(told, other.advice)
        if section.port and _is_taken(section.host, section.port):
            return fail(
                f"not running, and another program listens on {section.host}:{section.port}",
                "choose another serve.port, or end that program",
            )
        return ok("not running (`honed up` or `honed serve`)")
    lane = answer.get("scenarios", {}).get(patient.config.scenario)
    where = f"running on {answer.get('address')}"
    other = neighbours.on_socket(patient.config, answer)
    if lane is None and other:
        return warn(f"{other.found}, and does not know {patient.config.scenario}", other.advice)
    if lane is None:
        return warn(
            f"{where}, does not know {patient.config.scenario}",
            "start the daemon of the scenario: it registers it",
        )
    if other:
        where += f", shared: it works in {answer.get('folder')}"
    return together([ok(where), *lane_findings(lane, has_own_base=section.lora_server is not None)])


def lane_findings(lane: dict[str, Any], *, has_own_base: bool = False) -> Iterator[Found]:
    """What the gateway says of one scenario; a former version says less.

    `has_own_base`: the server brings its base model, and is compared with nothing.
    """
    model_id = lane.get("model_id") or "the base model"
    if lane.get("is_parked"):
        yield ok(f"parked: the next request brings {model_id} back (serve.max_adapters)")
    else:
        yield ok(f"{lane.get('state')}, serves {model_id}")
    if problem := lane.get("base_problem"):
        yield fail(
            f"what is served is not the model that is trained on: {problem}",
            "name the GGUF of the same checkpoint in serve.base_model_path, or leave the key out",
        )
    elif lane.get("is_compared"):
        yield ok("agrees with the base model that is trained on")
    elif lane.get("is_serving") and has_own_base:
        yield ok(
            "the base model is the server's own: whether it is the one that is trained on shows in the proofs"
        )
    elif lane.get("is_serving") and "is_compared" in lane:
        yield warn(
            "not compared with the base model that is trained on",
            "set base_model to the folder of the GGUF's checkpoint, and start daemon and gateway again",
        )
    captured = lane.get("captured") or {}
    if waiting := captured.get("spooled"):
        yield ok(f"captured calls that wait on disk for the daemon: {waiting}")
    for lost in captured_problems(captured):
        yield warn(
            lost,
            "calls that are lost teach nothing: see that the daemon runs and the disk has room",
        )
    if error := lane.get("error"):
        yield warn(str(error), "see llama/*.log in data_dir; the gateway tries again by itself")


def _is_locked(path: Path) -> bool:
    """Whether a process holds the file's lock; read, not tried, so that nobody is turned away."""
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "FLOCK" and f":{inode} " in line for line in lines)


def _is_taken(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
