"""The layers of a GGUF file, read from its first kilobytes."""

from pathlib import Path

import pytest

from honed.machine.gguf_header import Layers, read_layers


def test_layers_of_a_real_file(tiny_gguf: Path) -> None:
    """As the gguf package reads them."""
    from gguf import GGUFReader

    reader = GGUFReader(tiny_gguf)
    fields = {name.partition(".")[2]: field for name, field in reader.fields.items()}
    layers = read_layers(tiny_gguf)
    assert layers is not None
    assert layers.num_layers == fields["block_count"].contents()
    key, value = (fields[f"attention.{each}_length"].contents() for each in ("key", "value"))
    assert layers.kv_values == fields["attention.head_count_kv"].contents() * (key + value)
    assert layers.file_bytes == tiny_gguf.stat().st_size


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"no model at all"])
def test_what_is_no_model_has_no_layers(tmp_path: Path, content: bytes) -> None:
    """Nothing is raised: who asks goes on without."""
    path = tmp_path / "base.gguf"
    path.write_bytes(content)
    assert read_layers(path) is None
    assert read_layers(tmp_path / "missing") is None


def test_layer_is_its_weights_and_its_cache() -> None:
    """16 bits a number; the output layer is one more."""
    layers = Layers(num_layers=9, kv_values=512, file_bytes=10 << 20)
    assert layers.layer_bytes(0) == 1 << 20
    assert layers.layer_bytes(2048) == (1 << 20) + (2 << 20)
