"""The section that says what is taken out of events."""

import json
from pathlib import Path

import pytest

from honed.config import load_config
from honed.config.origins import settings
from honed.doctor.patient import Patient
from honed.doctor.settings import redaction
from honed.errors import ConfigError
from honed.redaction import DEFAULT_KINDS

OWN = '[[redact.own]]\nname = "employee"\nexpression = "EMP-[0-9]{6}"\ncontains = "EMP-"\n'


def _config(folder: Path, text: str) -> Path:
    file = folder / "honed.toml"
    file.write_text(f'scenario = "airline"\n{text}')
    return file


def test_kinds_are_added_and_left_out(tmp_path: Path) -> None:
    """By name, beside the default ones; own patterns are kinds of their own."""
    text = f'[redact]\nkinds = ["default", "ip", "-phone"]\n{OWN}'
    section = load_config(_config(tmp_path, text)).redact
    assert section.chosen_kinds() == (*(k for k in DEFAULT_KINDS if k != "phone"), "ip", "employee")
    redactor = section.redaction(b"k" * 32).redactor
    assert redactor is not None
    line = b'{"a": "EMP-123456 at 10.1.2.3, +49 30 901820-17"}'
    redacted = redactor.redact(line)
    assert redacted is not None
    assert redacted.counts == {"employee": 1, "ip": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('kinds = ["emial"]', "unknown kind 'emial' (did you mean email?)"),
        ('kinds = ["-phone"]', "'-phone' leaves out what is not there"),
        (f"{OWN.replace('[0-9]', '(?=[0-9])')}", "does not compile"),
        (f"{OWN}{OWN}", "found 2 patterns called employee"),
        ('patterns = ["x"]', "redact.patterns: unknown key"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    """When the config is read, before any event comes."""
    with pytest.raises(ConfigError, match="redact") as raised:
        load_config(_config(tmp_path, f"[redact]\n{text}\n"))
    assert fault in str(raised.value)


def test_every_key_comes_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists as JSON; and each key is shown with where it comes from."""
    own = [{"name": "employee", "expression": "EMP-[0-9]{6}"}]
    monkeypatch.setenv("HONED__REDACT__OWN", json.dumps(own))
    monkeypatch.setenv("HONED__REDACT__KINDS", '["email"]')
    file = _config(tmp_path, "[redact]\nenabled = true\n")
    config = load_config(file)
    assert config.redact.chosen_kinds() == ("email", "employee")
    shown = {row.key: (row.value, row.source) for row in settings(config, file)}
    assert shown["redact.own"] == (own, "HONED__REDACT__OWN")
    assert shown["redact.enabled"] == (True, f"{file}:3")


def test_the_doctor_says_what_is_looked_for(tmp_path: Path) -> None:
    """What differs from the default is named; off is a warning with what to do."""
    found = redaction(Patient(load_config(_config(tmp_path, ""))))
    assert (found.status, found.text) == (
        "ok",
        f"on, {len(DEFAULT_KINDS)} kinds of secrets and personal data",
    )
    text = f'[redact]\nkinds = ["default", "-phone"]\n{OWN}'
    found = redaction(Patient(load_config(_config(tmp_path, text))))
    assert found.text == (
        f"on, {len(DEFAULT_KINDS)} kinds of secrets and personal data, with employee, without phone"
    )
    found = redaction(Patient(load_config(_config(tmp_path, "[redact]\nenabled = false\n"))))
    assert found.status == "warn"
    assert "are stored" in found.text
    assert found.advice is not None
