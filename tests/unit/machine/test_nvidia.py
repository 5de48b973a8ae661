"""GPUs by NVIDIA's library: none here, and that is no error."""

from honed.machine.nvidia import cards


def test_machine_without_a_driver_has_no_cards() -> None:
    """With the package or without; where there are cards they are whole."""
    for card in cards():
        assert 0 <= card.free <= card.total
