"""An adapter's folder, before a server is told of it."""

from pathlib import Path

from anyio import to_thread

from honed.adapter_files import adapter_digest
from honed.domain.fingerprint import Fingerprint, read_fingerprint
from honed.domain.trained_model import TrainedModel
from honed.errors import AdapterNotFoundError


async def see_adapter(model: TrainedModel) -> Fingerprint:
    """The fingerprint of a model whose files are all there, as they were when it was published.

    Raises:
        AdapterNotFoundError: they are not.
    """
    return await to_thread.run_sync(_see, model)


def _see(model: TrainedModel) -> Fingerprint:
    folder = Path(model.adapter_path)
    if not folder.is_dir():
        raise AdapterNotFoundError(
            f"{model.id}: its folder {folder} does not exist",
            advice="`honed adapters` lists what there is",
        )
    try:
        found = adapter_digest(folder)
    except OSError as error:
        raise AdapterNotFoundError(
            f"{model.id}: {error}", advice="`honed adapters` lists what there is"
        ) from error
    if found != model.digest:
        raise AdapterNotFoundError(
            f"{model.id} was changed after it was published: the files in {folder} have the digest {found}, "
            f"expected {model.digest}",
            advice="put the published files back, or roll back to another adapter",
        )
    return read_fingerprint(folder)
