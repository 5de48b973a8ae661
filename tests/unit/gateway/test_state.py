"""What the gateway remembers survives it."""

from pathlib import Path

import pytest

from honed.domain.serving import AdapterRef, Registration
from honed.errors import ConfigError
from honed.gateway.state import Remembered, read_state, write_state


def test_state_is_read_back(tmp_path: Path) -> None:
    """What was written last is what is found."""
    path = tmp_path / "llama" / "serving.json"
    assert read_state(path) == Remembered()
    for number in (1, 2):
        state = Remembered(
            address="http://127.0.0.1:8080",
            scenarios={
                "tiny": Registration(
                    feed_socket="/f", base_gguf="/b", adapter=AdapterRef(f"tiny@{number}", "/a")
                )
            },
        )
        write_state(path, state)
        assert read_state(path) == state
    assert [each.name for each in path.parent.iterdir()] == ["serving.json"]


def test_damaged_state_is_an_error(tmp_path: Path) -> None:
    """Starting without it would quietly serve the bare base."""
    path = tmp_path / "serving.json"
    path.write_text('{"scenarios": {"tiny"')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(path)
