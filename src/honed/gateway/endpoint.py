"""The file that says where a scenario's llama-server listens, for those who go past the gateway.

`llama/SCENARIO.endpoint` holds one line, `http://host:port`, of the server that answers now; while none does, there is
no file. It is replaced as a whole, so a reader sees the old server or the new one. Behind the gateway the address never
changes, and nobody needs this.
"""

import contextlib
from pathlib import Path

from honed import log
from honed.gateway.upstream import Address


class Endpoint:
    """The file of one lane."""

    def __init__(self, scenario: str, folder: Path) -> None:
        self.path = folder / f"{scenario}.endpoint"
        self._told: Address | None = None
        with contextlib.suppress(OSError):  # of a gateway that was killed
            self.path.unlink(missing_ok=True)

    def tell(self, address: Address | None) -> None:
        """Name the server that answers from now on; a disk that is full does not stop the service."""
        if address == self._told:
            return
        self._told = address
        try:
            if address is None:
                self.path.unlink(missing_ok=True)
            else:
                self._replace(f"{address}\n")
        except OSError as error:
            log.get(path=str(self.path)).error(log.STATE_UNWRITTEN, error=str(error))

    def _replace(self, line: str) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self.path.with_suffix(".endpoint.tmp")
        aside.write_text(line)
        aside.replace(self.path)
