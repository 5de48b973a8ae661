"""The base model: is it here and whole, can it be trained and served, what does its licence say?"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from honed.doctor.finding import Found, fail, gib, ok, together, warn
from honed.doctor.patient import Patient
from honed.machine import model

_GGUF: Final = b"GGUF"


def base_model(patient: Patient) -> Found:
    """Files, architecture, tokenizer, template, licence; and the GGUF that is served."""
    config = patient.config
    if config.base_model is None:
        parts = [warn("no base model: nothing is trained", "set base_model")]
        return together([*parts, *(_gguf(patient) if config.serve.base_model_path else ())])
    folder = patient.base_folder()
    if folder is None:
        return _absent(config.base_model)
    needs_gguf = config.own_server is None and config.serve.lora_server is None
    served = _gguf(patient) if needs_gguf else ()
    return together([*_files(folder, patient), *served])


def _absent(named: str) -> Found:
    if named.startswith(("/", "~", ".")):
        return fail(f"{named} does not exist", "set base_model to a folder with config.json")
    told = f"{named} is not on this machine"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return fail(f"{told}, and HF_HUB_OFFLINE forbids to load it", f"hf download {named}")
    return warn(
        f"{told}; the first start loads it from the hub",
        f"`hf download {named}` loads it now; then ask again, for what can be said only of files",
    )


def _files(folder: Path, patient: Patient) -> Iterator[Found]:
    advice = "load the model again, or name a folder in Hugging Face's format"
    try:
        config = model.read_config(folder)
        size = model.check_weights(folder)
    except (OSError, ValueError, model.IncompleteError) as error:
        yield fail(f"{folder} is not a whole model: {error}", advice)
        return
    shape = model.shape(folder, config)
    words = f", {shape.num_parameters / 1e6:,.1f} M parameters" if shape else ""
    yield ok(f"{folder}, {model.architecture(config)}{words}, {gib(size)}")
    if not model.has_chat_template(folder):
        yield fail(
            "it has no chat template",
            "choose an instruction-tuned model, or add chat_template.jinja to the folder",
        )
        return
    yield ok(f"licence {model.licence(folder) or 'not told by its card'}")
    examined = patient.examined()
    if examined is None:
        yield ok("architecture and tokenizer not looked at without the training stack")
    elif examined.base_problem:
        yield fail(examined.base_problem, examined.base_advice or advice)
    else:
        yield ok(f"can be trained and served as {examined.architecture}")


def _gguf(patient: Patient) -> Iterator[Found]:
    named = patient.config.serve.base_model_path
    if named is not None and patient.base_gguf is None:
        yield fail(
            f"serve.base_model_path {named} does not exist",
            "name the base model as GGUF, or leave the key out to have it converted",
        )
        return
    found = patient.base_gguf
    if found is None:
        yield ok("converted to GGUF on the first start")
        return
    with found.open("rb") as file:
        if file.read(4) != _GGUF:
            yield fail(
                f"{found} is no GGUF file", "remove it; it is made anew where it is not named"
            )
            return
    yield ok(f"served from {found.name}, {gib(found.stat().st_size)}")
