"""The base model with several adapters in it, to be asked in turn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from honed.errors import TrainingError
from honed.worker.base_model import load_model


class AdaptedModel:
    """One copy of the base weights and any number of published adapters on it."""

    def __init__(self, base_folder: Path, device: str, adapters: Mapping[str, Path]) -> None:
        """Load them.

        Raises:
            TrainingError: an adapter does not fit the base model or cannot be read.
        """
        self.model = load_model(base_folder, device)
        self.device = device
        self._adapters = frozenset(adapters)
        for name, folder in adapters.items():
            self._add(name, folder)
        self.model.eval()

    def _add(self, name: str, folder: Path) -> None:
        from peft import PeftModel

        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), name, torch_device=self.device)
            else:
                self.model = PeftModel.from_pretrained(
                    self.model, folder, adapter_name=name, torch_device=self.device
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise TrainingError(
                f"adapter {folder} cannot be loaded onto the base model: {error}",
                advice="an adapter fits only the base model that it was trained on",
            ) from error

    @contextmanager
    def using(self, name: str | None) -> Iterator[Any]:
        """The model with one adapter in force; None is the bare base."""
        import torch

        with torch.inference_mode():
            if not self._adapters:
                assert name is None
                yield self.model
            elif name is None:
                with self.model.disable_adapter():
                    yield self.model
            else:
                self.model.set_adapter(name)
                yield self.model
