"""An adapter's folder as it is found before a server is started with it."""

from pathlib import Path

from honed.adapter_files import ADAPTER_GGUF, adapter_digest
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef
from honed.errors import AdapterNotFoundError
from honed.gateway.probe import read_fingerprint


def see_adapter(adapter: AdapterRef) -> Fingerprint:
    """The fingerprint of an adapter whose files are all there, as they were published. Reads them
    whole.

    Raises:
        AdapterNotFoundError: a file is missing, cannot be read, or has been changed.
    """
    folder = Path(adapter.path)
    if not (folder / ADAPTER_GGUF).is_file():
        raise AdapterNotFoundError(
            f"{adapter.model_id} has no {folder / ADAPTER_GGUF}",
            advice="`honed adapters` lists what there is",
        )
    fingerprint = read_fingerprint(folder)
    if adapter.digest is not None:
        _see_unchanged(adapter.model_id, folder, adapter.digest)
    return fingerprint


def _see_unchanged(model_id: str, folder: Path, expected: str) -> None:
    try:
        found = adapter_digest(folder)
    except OSError as error:
        raise AdapterNotFoundError(f"{model_id}: {error}") from error
    if found != expected:
        raise AdapterNotFoundError(
            f"{model_id} was changed after it was published: the files in {folder} have the digest "
            f"{found}, expected {expected}",
            advice="put the published files back, or roll back to another adapter",
        )
