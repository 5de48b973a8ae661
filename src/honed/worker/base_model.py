"""The base model: where its files are, and the model and tokenizer loaded from them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from honed.domain.job import Device
from honed.domain.train_settings import Half
from honed.errors import TrainingError, UnsupportedError
from honed.worker.architectures import Architecture, architecture_of
from honed.worker.kept import copy_of_kept
from honed.worker.shortage import is_out_of_memory

_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model")


def base_folder(base_model: str) -> Path:
    """The local folder of a base model; a hub id is taken from the local cache, or downloaded.

    Raises:
        TrainingError: neither a folder nor a model that the hub (or its cache) has.
    """
    if (folder := Path(base_model).expanduser()).is_dir():
        return folder.absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base_model, allow_patterns=list(_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TrainingError(
            f"base model {base_model!r} was not found: {type(error).__name__}",
            advice="give an existing folder with config.json, or a hub id such as Qwen/Qwen3-0.6B "
            "(offline: one that is in the local cache)",
        ) from error


def load_config(folder: Path) -> tuple[Any, Architecture]:
    """The model's config, and its architecture if it can be served.

    Raises:
        UnsupportedError: its architecture is not supported.
        TrainingError: there is no config, or it cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        if not _names_a_kind(folder / "config.json"):
            raise _no_config(folder, error) from error
        raise UnsupportedError(
            f"base model {folder} has a config.json that transformers cannot use: {error}",
            advice="choose a base model of a supported architecture (docs/models.md)",
        ) from error
    except OSError as error:
        raise _no_config(folder, error) from error
    return config, architecture_of(config)


def _names_a_kind(path: Path) -> bool:
    """Whether the config is whole: of a model, though of one that nobody here may know."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("model_type"), str)


def _no_config(folder: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"base model {folder} has no usable config.json: {error}",
        advice="give a folder in Hugging Face's format",
    )


def load_tokenizer(folder: Path, *, template: str | None = None) -> Any:
    """The model's tokenizer, with a pad token and a chat template: its own, unless another is given.

    Raises:
        TrainingError: it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        # tokenizers raises nothing narrower for a file that it cannot use
        if not (isinstance(error, OSError | ValueError | KeyError) or type(error) is Exception):
            raise
        raise TrainingError(
            f"the tokenizer of {folder} cannot be loaded: {error}",
            advice="compare tokenizer.json, tokenizer_config.json and the chat template with those of the model on the "
            "hub; an incomplete download is fetched again",
        ) from error
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.chat_template is None:
        raise TrainingError(
            f"base model {folder} has no chat template",
            advice="choose an instruction-tuned model, or add chat_template.jinja to the folder",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path, device: str, *, in_4bit: bool = False, half: Half | None = None
) -> Any:
    """The model on its device: float32 on CPU, bfloat16 on CUDA; evaluation mode.

    Args:
        folder: of the base model.
        device: `cpu` or `cuda`.
        in_4bit: matrices as 4-bit NormalFloat with their scales quantised too (Dettmers et al. 2023, "QLoRA"); needs
            CUDA and bitsandbytes.
        half: another type than bfloat16 on CUDA.

    Raises:
        TrainingError: the weights cannot be loaded.
        UnsupportedError: bitsandbytes is missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if device == "cpu" else getattr(torch, half or "bfloat16")
    try:
        # `folder` is absolute: PEFT looks the base up again when an adapter is saved and warns if
        # it is not found.
        if in_4bit:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, quantization_config=_four_bits(dtype), device_map={"": device}
            )
            return model.eval()
        model = copy_of_kept(folder) if device == "cpu" else None
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"the weights of {folder} cannot be loaded: {error}",
            advice="compare its files with those of the model on the hub; an incomplete download is fetched again",
        ) from error
    return model.to(device).eval()


def _four_bits(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise UnsupportedError(
            "load_in_4bit is set, and bitsandbytes is not installed",
            advice="pip install 'honed[qlora]' beside the training stack, or leave train.load_in_4bit out",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def choose_device(device: Device) -> str:
    """`cuda` when there is one and it was not ruled out, else `cpu`.

    Raises:
        TrainingError: CUDA was asked for and is not there.
    """
    import torch

    if device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise TrainingError(
            "device cuda was asked for, but torch sees none",
            advice="check the driver with nvidia-smi, or set train.device to auto",
        )
    return "cpu"


def half_of(
    device: str, asked: Half | None, *, has_bfloat16: Callable[[], bool] | None = None
) -> Half | None:
    """The type to compute in on a device: what was asked for, else None for bfloat16, where the device has it.

    Args:
        device: `cpu` or `cuda`.
        asked: by the operator.
        has_bfloat16: tells it of the CUDA device; None: torch does. Emulation, which is slow, is none.
    """
    if device != "cuda" or asked is not None:
        return asked
    return None if (has_bfloat16 or _has_bfloat16)() else "float16"


def _has_bfloat16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def set_threads(threads: int) -> int:
    """Give torch that many CPU threads; 0 means all cores but one, which serving needs. Returns the
    number.
    """
    import torch

    number = threads or max(1, len(os.sched_getaffinity(0)) - 1)
    torch.set_num_threads(number)
    return number
