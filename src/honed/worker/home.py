"""Does what is trained belong to the base model that is served? Asked before anything is trained."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from honed.adapter_files import MANIFEST_FILE
from honed.domain.base_facts import BaseDigests, read_facts
from honed.errors import ParityError
from honed.worker.base_facts import read_folder


class _Manifest(Struct, frozen=True):
    """What is read of an adapter's manifest."""

    digests: BaseDigests


def digests_of(
    folder: Path, tokenizer: Any, *, facts_path: str | None, incumbent_path: str | None
) -> BaseDigests:
    """Digests of the base model in `folder`; files that the facts know unchanged are not read again.

    Raises:
        ParityError: the facts of what is served, or the incumbent, are of another base model.
    """
    facts = read_facts(Path(facts_path)) if facts_path else None
    digests = read_folder(folder, tokenizer, known=facts).digests
    if facts is not None and (told := facts.digests.difference(digests)):
        raise ParityError(
            f"the base model {folder} is not the one that is served: {told}",
            advice="start `honed serve` and `honed run` again to serve the base model as it is now",
        )
    home = _home(incumbent_path)
    if home is not None and (told := digests.difference(home)):
        assert incumbent_path is not None
        raise ParityError(
            f"the adapter in service, {Path(incumbent_path).name}, was trained on {told}",
            advice="take it out of service with `honed rollback`, or put the base model back",
        )
    return digests


def _home(adapter: str | None) -> BaseDigests | None:
    """What an adapter was trained on; None when nothing says it."""
    if adapter is None:
        return None
    try:
        manifest = msgspec.json.decode((Path(adapter) / MANIFEST_FILE).read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return manifest.digests
