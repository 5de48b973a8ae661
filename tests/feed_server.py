"""Store, sink and socket in a process of their own: `python -m tests.feed_server FOLDER`.

Listens on `FOLDER/feed.sock`, stores in `FOLDER/honed.db`, and stops in order on SIGTERM.
"""

import signal
import sys
from pathlib import Path

import anyio

from honed import log
from tests.feed_parts import open_feed


async def serve(folder: Path) -> None:
    """Run until SIGTERM; episodes are made and thrown away."""
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_feed(folder) as intake, anyio.create_task_group() as tasks:
            tasks.start_soon(_forget, intake.episodes)
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()


async def _forget(episodes: anyio.abc.ObjectReceiveStream[object]) -> None:
    async for _ in episodes:
        pass


if __name__ == "__main__":
    log.configure(level="ERROR")
    anyio.run(serve, Path(sys.argv[1]))
