"""The house itself: what loads what, and what is documented."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "gguf"}
TERMINAL = {"typer", "rich", "jinja2"}


def _loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["honed.daemon", "honed.serve"])
def test_a_long_lived_process_loads_no_training_stack_and_no_terminal(module: str) -> None:
    """The daemon stays small because torch and its relatives live in the worker."""
    assert not _loaded_by(module) & (HEAVY | TERMINAL | {"numpy", "xllamacpp"})


def test_the_client_is_standard_library_only() -> None:
    """A swarm that imports the client imports nothing else."""
    before = _loaded_by("asyncio")
    extra = _loaded_by("honed.client") - before - set(sys.stdlib_module_names)
    assert extra <= {"honed"}


def test_importing_the_package_loads_nothing() -> None:
    """`import honed` is free; public names load when they are used."""
    assert not _loaded_by("honed") & {"sqlalchemy", "pydantic", "httpx", "anyio", "msgspec"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_file_says_what_it_is_for_and_fits_a_sitting(path: Path) -> None:
    """A file opens with a docstring and has at most 400 lines."""
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= 400


def test_every_room_is_on_the_map() -> None:
    """The docstring of the package names each room."""
    import honed

    names = {p.stem for p in (ROOT / "src/honed").iterdir() if not p.name.startswith("_")}
    names -= {"py"}
    assert honed.__doc__ is not None
    missing = {name for name in names if name not in honed.__doc__}
    assert not missing


def test_no_registry_or_machine_path_is_named() -> None:
    """The repository stands alone."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    forbidden = ["pypi" + ".org", "files.python" + "hosted", "/wo" + "rk/", "../sha" + "red"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ""} and path.is_file():
            text = path.read_text(errors="replace")
            assert not [word for word in forbidden if word in text], name
