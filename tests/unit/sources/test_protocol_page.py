"""docs/protocol.md: its example is what happens."""

import json
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.feed_parts import open_feed

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


@pytest.mark.anyio
async def test_the_example_is_what_the_daemon_answers(tmp_path: Path) -> None:
    """Line by line, as it is printed there."""
    example = PAGE.split("## Example")[1].split("```")[1].strip().splitlines()
    said: list[bytes] = []
    async with open_feed(tmp_path), await anyio.connect_unix(tmp_path / "feed.sock") as stream:
        replies = BufferedByteReceiveStream(stream)
        for row in example:
            if row.startswith("> "):
                said.append(row[2:].encode() + b"\n")
                continue
            if said:
                await stream.send(b"".join(said))
                said = []
            with anyio.fail_after(10):
                reply = await replies.receive_until(b"\n", 10_000)
            assert json.loads(reply) == json.loads(row[2:])
