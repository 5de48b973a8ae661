"""llama.cpp's `llama-quantize`, for GGUF types that only it writes: found before anything is trained."""

import os
import shutil
from pathlib import Path
from typing import Final

from honed.domain.running import Quantization
from honed.errors import UnsupportedError

NAME: Final = "llama-quantize"
FOLDER: Final = "LLAMA_CPP_PATH"
"""Environment variable with the folder of llama.cpp."""


def find_quantizer(quantization: Quantization) -> str:
    """The executable: in `LLAMA_CPP_PATH` or on PATH.

    Raises:
        UnsupportedError: it is in neither.
    """
    places = []
    if folder := os.environ.get(FOLDER):
        places = [Path(folder), Path(folder) / "build/bin"]
    for place in places:
        if found := shutil.which(NAME, path=str(place)):
            return str(Path(found).absolute())
    if found := shutil.which(NAME):
        return str(Path(found).absolute())
    raise UnsupportedError(
        f"save.gguf_quantization is {quantization}, which only llama.cpp's {NAME} writes, and it is not on PATH",
        advice=f"build llama.cpp and name its folder in {FOLDER}, or choose Q8_0, f16 or bf16, which need no tool",
    )
