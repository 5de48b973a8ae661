"""llama.cpp's quantiser is looked for before a run, and only where it is needed."""

from pathlib import Path

import pytest

from honed.errors import UnsupportedError
from honed.standalone.quantizer import find_quantizer


def executable(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "llama-quantize"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.feature("TR-053")
def test_it_is_found_in_the_folder_of_llama_cpp_or_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that is named comes first, its build folder too."""
    built = executable(tmp_path / "llama.cpp/build/bin")
    installed = executable(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(installed.parent))
    monkeypatch.delenv("LLAMA_CPP_PATH", raising=False)
    assert find_quantizer("Q4_K_M") == str(installed)
    monkeypatch.setenv("LLAMA_CPP_PATH", str(tmp_path / "llama.cpp"))
    assert find_quantizer("Q4_K_M") == str(built)


@pytest.mark.feature("TR-053", "TR-065")
def test_without_it_the_types_are_named_that_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built or installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP_PATH", raising=False)
    with pytest.raises(UnsupportedError, match="Q5_K_M, which only") as raised:
        find_quantizer("Q5_K_M")
    assert "Q8_0, f16 or bf16" in str(raised.value.advice)
