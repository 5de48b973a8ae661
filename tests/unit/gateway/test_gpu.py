"""What a server takes of a GPU, by a reading that is made up."""

from pathlib import Path

import pytest

from honed.config import ServeSection
from honed.gateway.gpu import fitting_layers, need
from honed.machine.gguf_header import read_layers
from honed.machine.nvidia import Card

MIB = 1 << 20
SPARE = 512 * MIB


def section(**settings: object) -> ServeSection:
    named = {"llama_server": Path("/usr/bin/llama-server"), "ctx_size": 256, "parallel": 4}
    return ServeSection(**(named | settings))  # type: ignore[arg-type]


def card(free: int, *, used_by: dict[int, int] | None = None) -> Card:
    return Card(index=0, name="H", total=80 << 30, free=free, used_by=used_by or {})


@pytest.fixture
def each(tiny_gguf: Path) -> int:
    """Bytes of one layer of the tiny model, which has two."""
    layers = read_layers(tiny_gguf)
    assert layers is not None
    assert layers.num_layers == 2
    return layers.layer_bytes(4 * 256)


@pytest.mark.parametrize(("room", "layers"), [(3, 99), (2, 2), (1, 1), (0, 0), (-100, 0)])
def test_layers_that_fit(tiny_gguf: Path, each: int, room: int, layers: int) -> None:
    """All, the output layer included, where there is room for all; else as many as there is room for."""
    free = SPARE + room * each
    assert fitting_layers(section(), tiny_gguf, reading=lambda: (card(free),)) == layers


def test_two_cards_are_one_room(tiny_gguf: Path, each: int) -> None:
    """llama.cpp spreads the layers; each card keeps its spare."""
    cards = (card(SPARE + each), card(SPARE + each))
    assert fitting_layers(section(), tiny_gguf, reading=lambda: cards) == 2


def test_config_stands_where_nothing_is_known(tiny_gguf: Path, tmp_path: Path) -> None:
    """No card, another kind of file, the bundled server, fewer layers asked for than fit, or none at all."""
    little = (card(0),)
    assert fitting_layers(section(), tiny_gguf, reading=tuple) == 99
    assert fitting_layers(section(), tmp_path / "none.gguf", reading=lambda: little) == 99
    assert fitting_layers(ServeSection(), tiny_gguf, reading=lambda: little) == 99
    assert fitting_layers(section(n_gpu_layers=0), tiny_gguf, reading=lambda: little) == 0
    much = (card(80 << 30),)
    assert fitting_layers(section(n_gpu_layers=1), tiny_gguf, reading=lambda: much) == 1


def test_need_of_a_second_server_is_what_the_first_one_holds(tiny_gguf: Path) -> None:
    """All of its processes count, those of others do not."""
    cards = (card(7 * MIB, used_by={1: MIB, 2: 2 * MIB, 3: 4 * MIB}),)
    assert need(section(), tiny_gguf, (1, 2), reading=lambda: cards) == (3 * MIB, 7 * MIB)


def test_need_is_estimated_where_the_driver_does_not_say(tiny_gguf: Path, each: int) -> None:
    """Layers, their cache, and the spare."""
    cards = (card(7 * MIB),)
    assert need(section(), tiny_gguf, (1,), reading=lambda: cards) == (3 * each + SPARE, 7 * MIB)
    few = section(n_gpu_layers=1)
    assert need(few, tiny_gguf, (1,), reading=lambda: cards) == (each + SPARE, 7 * MIB)


def test_server_on_the_cpu_needs_nothing_of_a_gpu(tiny_gguf: Path, tmp_path: Path) -> None:
    """Nor is anything asked for what cannot be told."""
    cards = (card(7 * MIB),)
    assert need(ServeSection(), tiny_gguf, (1,), reading=lambda: cards) is None
    assert need(section(), tmp_path / "none.gguf", (1,), reading=lambda: cards) is None
    assert need(section(), tiny_gguf, (1,), reading=tuple) is None
