"""An adapter that somebody's script has trained becomes one that can be served: GGUF, fingerprint, manifest.

That is done once: a folder whose manifest has the digest of its files is left as it is.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from honed.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    MANIFEST_FILE,
    adapter_digest,
)
from honed.domain.fingerprint import FINGERPRINT_FILE
from honed.domain.job import ExportAdapterJob, ExportAdapterResult
from honed.errors import TrainingError
from honed.worker.adapted import AdaptedModel
from honed.worker.base_model import (
    base_folder,
    choose_device,
    load_config,
    load_tokenizer,
    set_threads,
)
from honed.worker.export import export_adapter
from honed.worker.files import sync_folder
from honed.worker.fingerprint import fingerprint_of, write_fingerprint
from honed.worker.home import digests_of
from honed.worker.manifest import Digests, Facts, write_manifest

_NAME = "candidate"


def complete(job: ExportAdapterJob) -> ExportAdapterResult:
    """Do an ExportAdapterJob.

    Raises:
        TrainingError: it is no adapter, or none that llama.cpp can apply to this base model.
    """
    started_at = datetime.now(UTC)
    folder = Path(job.adapter_path)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise TrainingError(
                f"{folder} has no {name}: expected an adapter in PEFT's format",
                advice="save it with `model.save_pretrained(output)`",
            )
    if (known := _known(folder)) is not None:
        return ExportAdapterResult(digest=known, is_new=False)
    base = base_folder(job.base_model)
    config, architecture = load_config(base)
    tokenizer = load_tokenizer(base)
    threads = set_threads(job.lineage.settings.threads)
    device = choose_device(job.lineage.settings.device)
    home = digests_of(base, tokenizer, facts_path=None, incumbent_path=None)
    export_adapter(folder, config, architecture)
    model = AdaptedModel(base, device, {_NAME: folder})
    write_fingerprint(folder, fingerprint_of(model, tokenizer, adapter=_NAME))
    num_trainable, num_parameters = _sizes(model)
    digest = adapter_digest(folder)
    digests = Digests(
        adapter=digest,
        data=job.lineage.data_digest,
        base_model=home.base_model,
        tokenizer=home.tokenizer,
        chat_template=home.chat_template,
    )
    facts = Facts(
        model_family=architecture.gguf_name,
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        num_rows=job.num_rows,
        device=device,
        threads=threads,
        metrics=job.metrics,
        method=job.method,
        method_reason=job.method_reason,
        started_from=None,
        digests=digests,
        started_at=started_at,
    )
    write_manifest(folder, job.lineage, facts)
    sync_folder(folder)
    return ExportAdapterResult(digest=digest, is_new=True)


def _known(folder: Path) -> str | None:
    """The digest of a folder that is complete and unchanged; else None."""
    names = (*ADAPTER_FILES, FINGERPRINT_FILE, MANIFEST_FILE)
    if not all((folder / name).is_file() for name in names):
        return None
    try:
        told = json.loads((folder / MANIFEST_FILE).read_bytes())["digests"]["adapter"]
    except (ValueError, KeyError, TypeError):
        return None
    found = adapter_digest(folder)
    return found if found == told else None


def _sizes(model: Any) -> tuple[int, int]:
    """Weights of the adapter, and of the base model."""
    of_adapter = of_base = 0
    for name, weight in model.model.named_parameters():
        if ".lora_" in name:
            of_adapter += weight.numel()
        else:
            of_base += weight.numel()
    return of_adapter, of_base
