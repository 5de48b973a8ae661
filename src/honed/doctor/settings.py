"""Is there a config, and can it be used?"""

import os
from pathlib import Path

from honed.config import Config, config_paths, load_config
from honed.config.load import PREFIX, find_config, read_toml, variable
from honed.config.origins import DEFAULT, keys, settings, without_password
from honed.doctor.finding import Found, fail, ok, together, warn
from honed.doctor.patient import Patient
from honed.errors import ConfigError
from honed.redaction import DEFAULT_KINDS
from honed.rooms import learn_models_of


def config(path: Path | None) -> tuple[list[Found], Config | None]:
    """The config if it can be used; one finding, or one for each fault."""
    try:
        file = find_config(path)
        found = load_config(path)
        rows = settings(found, file)
    except ConfigError as error:
        return _faults(path, error), None
    parts = [
        ok(
            f"{file or 'no file'}, {sum(row.source != DEFAULT for row in rows)} keys set, "
            f"{sum(not _is_from(file, row.source) for row in rows)} of them by the environment"
        ),
        *_misspelt(),
    ]
    if file is not None and file.stat().st_mode & 0o022:
        parts.append(warn(f"others may write {file}", f"chmod go-w {file}"))
    if file is not None and file.stat().st_mode & 0o044 and _has_password(file):
        parts.append(
            warn(
                f"others may read {file}, which holds the database's password",
                f"chmod go-r {file}, or give it in PGPASSWORD or a passfile instead",
            )
        )
    return [together(parts)], found


def redaction(patient: Patient) -> Found:
    """Is anything looked for before events are written?"""
    section = patient.config.redact
    kinds = section.chosen_kinds()
    if not kinds:
        return warn(
            "off: passwords, keys and addresses in events are stored, and may be learned",
            "take `enabled = false` out of [redact], unless they are taken out before",
        )
    left_out = [kind for kind in DEFAULT_KINDS if kind not in kinds]
    added = [kind for kind in kinds if kind not in DEFAULT_KINDS]
    text = f"on, {len(kinds)} kinds of secrets and personal data"
    text += f", with {', '.join(added)}" if added else ""
    return ok(text + (f", without {', '.join(left_out)}" if left_out else ""))


def learn_models(patient: Patient) -> Found:
    """Can the learn models be made, and what they make be learned from?"""
    try:
        models = learn_models_of(patient.config)
    except ConfigError as error:
        return fail(str(error), error.advice or "change learn.model in the config")
    return ok("; ".join(f"{model.name}: {model.objective}" for model in models))


def _has_password(file: Path) -> bool:
    url = str(read_toml(file).get("database", ""))
    return without_password(url) != url


def _is_from(file: Path | None, source: str) -> bool:
    return source == DEFAULT or (file is not None and source.startswith(str(file)))


def _faults(path: Path | None, error: ConfigError) -> list[Found]:
    if path is None and not any(place.is_file() for place in config_paths()):
        places = ", ".join(str(place) for place in config_paths())
        if variable("scenario") not in os.environ:
            return [fail(f"no config file: looked for {places}", "`honed init` writes one")]
    advice = error.advice or "`honed config reference` lists every key"
    return [fail(fault, advice) for fault in error.faults or (str(error),)]


def _misspelt() -> list[Found]:
    """Variables with one underscore too few: they look right, and are not read."""
    known = {variable(*path).replace("__", "_"): variable(*path) for path, _ in keys()}
    return [
        warn(f"the variable {name} is not read", f"did you mean {known[name.upper()]}?")
        for name in sorted(os.environ)
        if name.upper() in known and not name.upper().startswith(PREFIX)
    ]
