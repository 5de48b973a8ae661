"""An adapter's folder as it is found before a server is started with it."""

from pathlib import Path

import msgspec
from msgspec import Struct

from honed.adapter_files import ADAPTER_GGUF, MANIFEST_FILE, adapter_digest
from honed.domain.base_facts import BaseDigests, BaseFacts
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef
from honed.errors import AdapterNotFoundError, ForeignAdapterError
from honed.gateway.probe import read_fingerprint


class _Digests(BaseDigests, frozen=True, kw_only=True):
    """What the manifest says of what went in and came out."""

    adapter: str


class _Manifest(Struct, frozen=True, kw_only=True):
    """What the gateway reads of `manifest.json`."""

    digests: _Digests
    base_model: str


def see_adapter(adapter: AdapterRef, facts: BaseFacts | None = None) -> Fingerprint:
    """The fingerprint of an adapter whose files are all there, as they were published, for the base
    model that is served. Reads them whole.

    Args:
        adapter: with the digest that its record has, if it has one; that in its manifest must be
            the same.
        facts: of the base model; None does not ask which one the adapter belongs to.

    Raises:
        AdapterNotFoundError: a file is missing, cannot be read, or has been changed.
        ForeignAdapterError: it was trained on another base model, tokenizer or chat template, or
            nothing says on which.
    """
    folder = Path(adapter.path)
    if not (folder / ADAPTER_GGUF).is_file():
        raise AdapterNotFoundError(
            f"{adapter.model_id} has no {folder / ADAPTER_GGUF}",
            advice="`honed adapters` lists what there is",
        )
    fingerprint = read_fingerprint(folder)
    manifest = _read_manifest(adapter.model_id, folder)
    expected = {adapter.digest, manifest.digests.adapter if manifest else None} - {None}
    for digest in sorted(filter(None, expected)):
        _see_unchanged(adapter.model_id, folder, digest)
    if facts is not None:
        _see_home(adapter.model_id, manifest, facts)
    return fingerprint


def _read_manifest(model_id: str, folder: Path) -> _Manifest | None:
    """The adapter's manifest; None when it has none."""
    path = folder / MANIFEST_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterNotFoundError(f"{model_id}: {path} cannot be read: {error}") from error


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


def _see_home(model_id: str, manifest: _Manifest | None, facts: BaseFacts) -> None:
    """See that the adapter belongs to the base model that is served."""
    if manifest is None:
        raise ForeignAdapterError(
            f"{model_id} has no {MANIFEST_FILE}: nothing says which base model it was trained on",
            advice="serve adapters that honed trained; it writes the file beside them",
        )
    if told := facts.digests.difference(manifest.digests):
        raise ForeignAdapterError(
            f"{model_id} was trained on {told} "
            f"(served is {facts.base_model}, it was trained on {manifest.base_model})",
            advice="put the base model back as it was, or roll back and train a new adapter",
        )
