"""Everything that honed raises on purpose, as one tree.

The branches follow *who has to act*, because that is what `except` is for:

    HonedError
      ValidationError        the sender: the input is wrong at `path`; nothing was stored
      ConfigError            the operator: fix the file; the process exits with 78, systemd leaves it down
        TriggerSyntaxError
      SourceError            the source: retry with backoff, say so in status
      StoreError             nobody: stop the daemon, systemd restarts it
        NotFoundError
        SchemaError
      TriggerError           a fact could not be read: logged, the loop goes on
      LearnError             one episode cannot teach; the batch goes on
      RewardError            one verdict: counted, the episode goes without it
        UnreachableError     a verifier or judge cannot be asked now: asked again later
      TrainingError          the run: recorded as failed, the adapter in service stays
        EmptyDataError
        UnsupportedError     an architecture or format that honed does not know, or no training stack
        ScriptNotFoundError  the training script is not there; nothing was written
        ParityError          the base model as GGUF is not the one in Hugging Face's format
        ProcessFailedError   the worker ended without a result
      ApplyError             the server: serve the former adapter on, report
        AdapterNotFoundError
        ServerStartError
        HealthTimeoutError
        ProbeFailedError
        BaseMismatchError
        ForeignAdapterError
        NoPreviousModelError
      ControlError           a request to a running daemon or gateway was refused or not answered
        BusyError

A message is one sentence: what happened, to which thing, what was expected, what was found. What to do about
it is a note (`add_note`); notes survive the way between processes.
"""

from collections.abc import Sequence


class HonedError(Exception):
    """Root of all errors that honed raises on purpose."""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        if advice:
            self.add_note(advice)

    @property
    def advice(self) -> str | None:
        """What to do about it, or None."""
        notes: list[str] = getattr(self, "__notes__", [])
        return "; ".join(notes) or None


class ValidationError(HonedError):
    """The input is wrong at `path` (for example `$.result.success`)."""

    def __init__(self, message: str, *, path: str = "$", advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.path = path


class ConfigError(HonedError):
    """The configuration cannot be used; the process exits with status 78."""

    def __init__(
        self, message: str, *, faults: Sequence[str] = (), advice: str | None = None
    ) -> None:
        super().__init__(message, advice=advice)
        self.faults = tuple(faults)
        """What is wrong, one sentence each, where there may be several; the message has them all."""


class TriggerSyntaxError(ConfigError):
    """The text or table of a trigger cannot be read."""


class SourceError(HonedError):
    """A source of events cannot be opened or read."""


class StoreError(HonedError):
    """The store cannot be read or written."""


class NotFoundError(StoreError):
    """Nothing is stored under the id that was asked for."""


class SchemaError(StoreError):
    """The database has a schema that this version does not know."""


class TriggerError(HonedError):
    """A fact that a trigger needs could not be read."""


class LearnError(HonedError):
    """One episode cannot be turned into training data; the message names it."""

    def __init__(
        self,
        message: str,
        *,
        episode_id: str | None = None,
        reason: str | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message, advice=advice)
        self.episode_id = episode_id
        """Which episode; None when it was no episode yet."""
        self.reason = reason
        """The same for all episodes with that fault, so that it can be counted; None when it was not said."""


class RewardError(HonedError):
    """A verifier or judge failed on one episode."""


class UnreachableError(RewardError):
    """A verifier or judge cannot be asked at all now."""


class TrainingError(HonedError):
    """A training run failed; the adapter in service is untouched."""


class EmptyDataError(TrainingError):
    """There is nothing to learn from: no episodes, or none that can teach."""

    def __init__(
        self, message: str, *, advice: str | None = None, left_out: dict[str, int] | None = None
    ) -> None:
        super().__init__(message, advice=advice)
        self.left_out = left_out or {}
        """Episodes by the reason that each was left out."""


class ScriptNotFoundError(TrainingError):
    """The training script, or the interpreter that should run it, is not there; nothing was written."""


class UnsupportedError(TrainingError):
    """What was asked for is beyond this honed: an architecture, a tokenizer or a format that it does not
    know, or a training stack that is not installed. Asking again changes nothing, and nothing was found
    wrong with the files.
    """


class ParityError(TrainingError):
    """The base model as GGUF is not the one that is trained on; the first difference is shown."""


class ProcessFailedError(TrainingError):
    """The worker process ended without a result."""

    def __init__(
        self, message: str, *, exit_code: int, stderr: str = "", advice: str | None = None
    ) -> None:
        super().__init__(message, advice=advice)
        self.exit_code = exit_code
        """Exit status of the worker; -1 when a signal ended it."""
        self.stderr = stderr
        """The last lines that the worker wrote to stderr."""


class ApplyError(HonedError):
    """An adapter could not be put into service; the former one still serves."""


class AdapterNotFoundError(ApplyError):
    """The adapter's files are not where its record says."""


class ServerStartError(ApplyError):
    """llama-server did not start."""


class HealthTimeoutError(ApplyError):
    """llama-server started but did not become healthy in time."""


class ProbeFailedError(ApplyError):
    """The server is healthy, but its answers are not those of the adapter it should serve."""


class BaseMismatchError(ApplyError):
    """What is served is not the base model that is trained on; the first difference is shown."""


class ForeignAdapterError(ApplyError):
    """The adapter was trained on another base model than the one that is served."""


class NoPreviousModelError(ApplyError):
    """There is nothing to roll back to."""


class ControlError(HonedError):
    """A running daemon or gateway refused a request or did not answer it."""


class BusyError(ControlError):
    """A run is in progress; what was asked for can be asked again when it has ended."""
