"""The server that the operator runs, where adapters go into one: does it answer, what does it serve?"""

import shutil
from datetime import timedelta

import anyio

from honed.appliers import chosen_applier
from honed.config import ServeSection, read_server_key
from honed.doctor.finding import Found, fail, ok
from honed.doctor.patient import Patient
from honed.errors import ApplyError
from honed.own_servers import RuntimeLora, Server, dialect_of


def own_server(patient: Patient) -> Found:
    """Asked for what it has; nothing is loaded, and no hook is run."""
    config = patient.config
    kind = config.own_server
    if kind is None and config.serve.lora_server is not None:
        return _behind_gateway(config.serve)
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


def _behind_gateway(section: ServeSection) -> Found:
    assert section.lora_server is not None
    assert section.external_url is not None
    dialect = dialect_of(section.lora_server)
    server = Server(
        dialect.what, section.external_url, key=read_server_key(), timeout=timedelta(seconds=10)
    )
    loras = RuntimeLora(server, dialect, scenario="", load_timeout=section.startup_timeout)
    try:
        listed = anyio.run(loras.listed)
    except ApplyError as error:
        return fail(str(error), error.advice or "docs/servers.md says how it must be started")
    adapters = ", ".join(sorted(listed.adapters)) or "no adapter"
    return ok(f"{server}, behind the gateway, has {listed.base} with {adapters}")
