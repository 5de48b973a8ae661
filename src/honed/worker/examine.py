"""What the training stack finds here: its build, the devices it can compute on, whether it can use a base model."""

from pathlib import Path
from typing import Any

from honed.domain.job import ExamineJob, ExamineResult, TorchDevice
from honed.errors import TrainingError


def examine(job: ExamineJob) -> ExamineResult:
    """Look, compute a little on each device, and read the base model's config and tokenizer."""
    import torch

    architecture, fault = _base(job.base_model)
    return ExamineResult(
        torch=str(torch.__version__),
        build=_build(torch),
        devices=tuple(_device(torch, i) for i in range(torch.cuda.device_count())),
        architecture=architecture,
        base_problem=str(fault) if fault else None,
        base_advice=fault.advice if fault else None,
    )


def _build(torch: Any) -> str:
    if torch.version.cuda:
        return f"cuda {torch.version.cuda}"
    return f"rocm {torch.version.hip}" if torch.version.hip else "cpu"


def _device(torch: Any, index: int) -> TorchDevice:
    """A card may be listed and yet be too old, or too new, for the kernels of this build."""
    problem, free, total, name = None, 0, 0, f"device {index}"
    try:
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(64, 64, dtype=torch.bfloat16, device=f"cuda:{index}")
        found = float((ones @ ones).sum())
        if found != 64.0**3:
            problem = f"it computed {found} where {64.0**3} was right"
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    return TorchDevice(name=name, total_bytes=total, free_bytes=free, problem=problem)


def _base(base_model: str | None) -> tuple[str | None, TrainingError | None]:
    if base_model is None:
        return None, None
    from honed.worker.base_model import load_config, load_tokenizer

    try:
        _, architecture = load_config(Path(base_model))
        tokenizer = load_tokenizer(Path(base_model))
        _see_that_it_renders(tokenizer)
    except TrainingError as error:
        return None, error
    return architecture.gguf_name, None


def _see_that_it_renders(tokenizer: Any) -> None:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TrainingError(
            f"the chat template of the base model does not render a conversation: {error}",
            advice="compare chat_template.jinja with the model's own on the hub",
        ) from error
