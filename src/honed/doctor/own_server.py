"""The server that the operator runs, where adapters go into one: does it answer, what does it serve?"""

import shutil

import anyio

from honed.appliers import chosen_applier
from honed.doctor.finding import Found, fail, ok
from honed.doctor.patient import Patient
from honed.errors import ApplyError


def own_server(patient: Patient) -> Found:
    """Asked for what it has; nothing is loaded, and no hook is run."""
    config = patient.config
    kind = config.own_server
    if kind is None:
        return ok(
            "none: adapters are served by llama-server behind the gateway, or only written down"
        )
    hook = config.server.hook
    if kind == "folder" and hook and shutil.which(hook[0]) is None:
        return fail(
            f"server.hook: {hook[0]} is not there, or may not be run",
            "name the command by its path",
        )
    where = config.server.folder if kind == "folder" else config.server.url_of(kind)
    try:
        model_id = anyio.run(chosen_applier(config, None).current)
    except ApplyError as error:
        return fail(str(error), error.advice or "docs/servers.md says how it must be started")
    return ok(f"{kind} at {where} serves {model_id or 'the base model'}")
