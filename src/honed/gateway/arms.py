"""The two places of a lane, live and candidate, and which of them has a request."""

from honed.domain.serving import AdapterRef
from honed.gateway.backend import Backend
from honed.gateway.candidate import Candidate
from honed.gateway.llama_server import LlamaServer
from honed.gateway.refusal import Refused
from honed.gateway.wanted import Wanted


class Arms:
    """What answers in one lane. Both are changed by the lane's switches and by `canary`; `live` is
    None while nothing serves, `candidate` while nothing is tried.
    """

    def __init__(self) -> None:
        self.live: Backend | None = None
        self.candidate: Candidate | None = None
        """What is tried beside the live version, or was until it failed."""

    def pick(self, wanted: Wanted) -> Backend | None:
        """The server that should have a request; None when it is not there now."""
        if self.candidate is None and wanted.version is None:
            return self.live
        trial = self.candidate.backend if self.candidate else None
        if wanted.version is not None:
            there = (each for each in (self.live, trial) if each is not None)
            return next((each for each in there if each.model_id == wanted.version), None)
        # A candidate without a server leaves its requests to the live version, not the other way
        # round: who is not tried upon gets what was proved.
        takes = self.candidate is not None and self.candidate.takes(wanted)
        return trial if takes and trial is not None else self.live

    def versions(self, adapter: AdapterRef | None) -> list[str]:
        """Those that are resident or come up, the live one, `adapter`, first; the bare base has no
        number.
        """
        trial = self.candidate if self.candidate and not self.candidate.is_withdrawn else None
        refs = (adapter, trial.adapter if trial else None)
        return [ref.model_id for ref in refs if ref is not None]

    def see(self, wanted: Wanted, adapter: AdapterRef | None) -> None:
        """See that the version that is wanted may come.

        Raises:
            Refused: a version is named that is not resident.
        """
        versions = self.versions(adapter)
        if wanted.version is not None and wanted.version not in versions:
            there = ", ".join(versions) or "the base model alone"
            message = f"{wanted.version} is not served now; there is: {there}"
            raise Refused(404, "model_not_found", message)

    def backends(self) -> list[Backend]:
        """The servers in service: the live one, the candidate's."""
        trial = self.candidate.backend if self.candidate else None
        return [each for each in (self.live, trial) if each is not None]

    def is_tried(self, adapter: AdapterRef | None) -> bool:
        """Whether it is the candidate's adapter."""
        return self.candidate is not None and self.candidate.adapter == adapter

    def has(self, backend: Backend) -> bool:
        """Whether a server is in service."""
        return backend in self.backends()

    def entered(self, backend: Backend) -> None:
        """A server has one more request."""
        if self.candidate is not None and self.candidate.is_served_by(backend):
            self.candidate.requests += 1

    def failed_at(self, backend: Backend) -> None:
        """A server did not answer a request whole."""
        if self.candidate is not None and self.candidate.is_served_by(backend):
            self.candidate.failed += 1

    def lost(self, server: LlamaServer, why: str) -> None:
        """A server has ended by itself: if it was the candidate's, that is a fault of it."""
        trial = self.candidate.backend if self.candidate else None
        if self.candidate is not None and trial is not None and trial.server is server:
            self.candidate.fault(why)

    def drop_candidate(self) -> Backend | None:
        """No candidate from now on: its requests go to the live version; returns its server."""
        dropped, self.candidate = self.candidate, None
        if dropped is None:
            return None
        if dropped.scope is not None:
            dropped.scope.cancel()
        return dropped.backend
