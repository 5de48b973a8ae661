"""The check of the judge, against servers that answer, refuse, ramble and hang."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from honed.config import load_config
from honed.doctor import judge
from honed.doctor.finding import Found
from honed.doctor.patient import Patient
from honed.errors import ConfigError
from tests.judge_stub import HANGS, Reply, failing, judge_stub, saying, scoring


def _looked(folder: Path, **section: Any) -> Found:
    file = folder / "made.toml"
    file.touch()
    config = load_config(
        file, scenario="a", data_dir=folder / "d", serve={"port": 0}, judge=section
    )
    return judge.judge(Patient(config))


def test_without_a_judge_nobody_is_asked(tmp_path: Path) -> None:
    """Most swarms have none."""
    assert _looked(tmp_path) == Found("ok", "none is configured")


def test_a_judge_that_answers_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, with the key, in the form in which it will be asked."""
    monkeypatch.setenv("HONED_JUDGE_KEY", "sk-of-the-test")
    with judge_stub(lambda _, __: scoring(1.0)) as stub:
        found = _looked(tmp_path, url=stub.url, model="m", rubric="Is it right?")
        assert found == Found("ok", f"m at {stub.url} answers with a verdict")
        (request,) = stub.requests
        assert "Is it right?" in request["messages"][0]["content"]
        assert request["response_format"] == {"type": "json_object"}
        headers = {name.lower(): value for name, value in stub.headers[0].items()}
        assert headers["authorization"] == "Bearer sk-of-the-test"


@pytest.mark.parametrize(
    ("reply", "text", "advice"),
    [
        (failing(401), "status 401", "HONED_JUDGE_KEY"),
        (failing(404), "status 404", "judge.model"),
        (failing(503), "status 503", "none is lost"),
        (failing(400), "status 400", "response_format"),
        (saying("It looks fine to me."), "not with a verdict", "a model that writes JSON"),
        (saying('{"score": 0, "verdict": "success"}'), "contradicts itself", "JSON"),
    ],
    ids=["key", "place", "busy", "refused", "prose", "contradiction"],
)
def test_a_judge_that_does_not_judge_fails(
    tmp_path: Path, reply: Reply, text: str, advice: str
) -> None:
    """Asked once; what is wrong is said, and what to do."""
    with judge_stub(lambda _, __: reply) as stub:
        found = _looked(tmp_path, url=stub.url)
        assert len(stub.requests) == 1
    assert found.status == "fail"
    assert text in found.text
    assert advice in (found.advice or "")


def test_a_judge_that_is_not_there_or_hangs_fails(tmp_path: Path) -> None:
    """In bounded time."""
    with judge_stub(lambda _, __: HANGS) as stub:
        found = _looked(tmp_path, url=stub.url, timeout=timedelta(seconds=0.5))
        assert "no answer within 0.5 s" in found.text
    found = _looked(tmp_path, url=stub.url)
    assert (found.status, "cannot be asked" in found.text) == ("fail", True)


def test_a_rubric_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The table of checks says so, as of every error of honed's."""
    with pytest.raises(ConfigError, match="rubric_file"):
        _looked(tmp_path, url="http://127.0.0.1:9/v1", rubric_file=tmp_path / "absent.md")
