"""docs/protocol.md: its examples are what happens."""

import json
from pathlib import Path
from typing import get_args

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from honed.domain.events import EVENT_TYPES, LearningEvent
from honed.sources import feed, socket
from tests.feed_parts import open_feed

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
TRANSCRIPTS = [part.strip().splitlines() for part in PAGE.split("```") if part.startswith("\n> ")]


@pytest.mark.anyio
@pytest.mark.parametrize("transcript", TRANSCRIPTS)
async def test_the_example_is_what_the_daemon_answers(
    tmp_path: Path, transcript: list[str]
) -> None:
    """Line by line, as it is printed there."""
    said: list[bytes] = []
    async with open_feed(tmp_path), await anyio.connect_unix(tmp_path / "feed.sock") as stream:
        replies = BufferedByteReceiveStream(stream)
        for row in transcript:
            if row.startswith("> "):
                said.append(row[2:].encode() + b"\n")
                continue
            if said:
                await stream.send(b"".join(said))
                said = []
            with anyio.fail_after(60):
                reply = await replies.receive_until(b"\n", 10_000)
            assert json.loads(reply) == json.loads(row[2:])


@pytest.mark.feature("SE-209")
def test_every_type_of_event_is_on_the_page() -> None:
    """The three of learning among them."""
    shown = {
        json.loads(row[2:])["type"] for each in TRANSCRIPTS for row in each if row.startswith("> ")
    }
    tags = {str(each.__struct_config__.tag) for each in EVENT_TYPES}
    assert len(get_args(LearningEvent)) == 3
    assert shown - {"hello"} == tags


def test_every_code_and_limit_is_on_the_page() -> None:
    """As the code has them."""
    source = Path(feed.__file__).read_text()
    codes = {
        "invalid", "conflict", "too_long", "protocol", "store", "draining", "idle", "busy", "forbidden",
    }  # fmt: skip
    assert all(f'"{code}"' in source for code in codes)
    assert all(f"| `{code}` |" in PAGE for code in codes)
    assert f"| silence in the middle of a line | {socket.STALL_TIMEOUT_S:.0f} s |" in PAGE
    assert f"| silence between lines | {socket.IDLE_TIMEOUT_S / 3600:.0f} h |" in PAGE
    assert f"| {socket.SEND_TIMEOUT_S:.0f} s, then it is cut off |" in PAGE
