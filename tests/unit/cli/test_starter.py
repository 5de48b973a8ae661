"""The starter file says what was chosen, and is written whole or not at all."""

from pathlib import Path

import pytest

from honed.cli.starter import Starter, write_file
from honed.config import load_config
from honed.errors import ConfigError


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    """Between a look and the writing somebody else may have made it; nothing is left aside."""
    file = tmp_path / "honed.toml"
    file.write_text("# theirs\n")
    with pytest.raises(ConfigError, match="exists already"):
        write_file(file, "# ours\n", force=False)
    assert file.read_text() == "# theirs\n"
    write_file(file, "# ours\n", force=True)
    assert file.read_text() == "# ours\n"
    assert [path.name for path in tmp_path.iterdir()] == ["honed.toml"]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_file(tmp_path / "none" / "honed.toml", "", force=False)


def test_whatever_is_chosen_is_read_back(tmp_path: Path) -> None:
    """Also paths with quotes and letters of any alphabet."""
    odd = Path('/srv/a "b"\\ü')
    starter = Starter(
        scenario="air",
        base_model=str(odd),
        licence="mit",
        data_dir=odd,
        llama_server=odd / "llama-server",
        mode="manual",
        max_length=512,
        batch_size=1,
        gradient_accumulation_steps=16,
    )
    write_file(tmp_path / "honed.toml", starter.text(), force=False)
    config = load_config(tmp_path / "honed.toml")
    assert (config.base_model, config.data_dir) == (str(odd), odd)
    assert config.serve.llama_server == odd / "llama-server"
    assert (config.apply.mode, config.train.max_length) == ("manual", 512)
    assert config.train.per_device_train_batch_size == 1
