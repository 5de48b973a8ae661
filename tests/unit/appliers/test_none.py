"""Without a server, models are accepted and nothing happens."""

import anyio
import pytest

from honed.appliers import NoApplier


@pytest.mark.feature("SE-122")
def test_nothing_is_in_service_at_first() -> None:
    """The bare base, as far as anybody knows."""

    async def run() -> None:
        applier = NoApplier()
        await applier.apply(None, previous=None)
        assert await applier.current() is None

    anyio.run(run)
