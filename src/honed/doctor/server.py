"""The llama-server that would serve: does it run here, and on what?"""

from honed.doctor.finding import Found, ok, together, warn
from honed.doctor.patient import Patient
from honed.errors import ServerStartError
from honed.machine.llama_server import on_path, program


def llama_server(patient: Patient) -> Found:
    """The one that the config names, else the bundled one; it is asked for version and devices."""
    config = patient.maybe_config
    if config is not None and config.serve.external_url is not None:
        return ok(f"your own at {config.serve.external_url}; honed neither starts nor stops it")
    if config is not None and config.own_server is not None:
        return ok(f"none is needed: apply.kind is {config.own_server}")
    named = config.serve.llama_server if config else None
    try:
        found = program(named)
    except ServerStartError as error:
        if config is not None and config.base_model is None and named is None:
            return ok("none, and without a base model none is needed")
        other = on_path()
        if named is None and other is not None:
            raise ServerStartError(
                str(error), advice=f'set serve.llama_server = "{other}", which is on PATH'
            ) from error
        raise
    parts = [ok(str(found))]
    layers = config.serve.n_gpu_layers if config else 1
    if patient.gpus().cards and not found.devices and layers > 0:
        parts.append(
            warn(
                "it does not use the GPU",
                "name a CUDA build of llama.cpp in serve.llama_server, or set serve.n_gpu_layers to 0",
            )
        )
    other = on_path()
    if named is None and other is not None:
        parts.append(ok(f"{other} on PATH is not used unless serve.llama_server names it"))
    return together(parts)
