"""The table of cards, row by row, and what models need in 4 bits."""

import pytest

from honed.checks.hardware_table import Tier, needed_gib, tier_of

MIB = 1 << 20


def row(tier: Tier) -> tuple[str, tuple[int, int], int, int, int]:
    return tier.model, tier.batch_size, tier.accumulation, tier.r, tier.max_length


@pytest.mark.feature("TR-011")
@pytest.mark.parametrize("mib", [8192, 8151, 10240, 11264])
def test_a_card_of_8_gb_trains_4b_in_batches_of_one(mib: int) -> None:
    """8151 MiB is what a card that is sold as 8 GB reports."""
    assert row(tier_of(mib * MIB)) == ("gemma-3-4b", (1, 1), 8, 8, 1024)


@pytest.mark.feature("TR-012")
@pytest.mark.parametrize("mib", [12282, 12288, 14336])
def test_a_card_of_12_gb_trains_4b_by_the_defaults(mib: int) -> None:
    """Batch 2, accumulation 4, r 8, length 2048."""
    assert row(tier_of(mib * MIB)) == ("gemma-3-4b", (2, 2), 4, 8, 2048)


@pytest.mark.feature("TR-013")
@pytest.mark.parametrize("mib", [16380, 16384, 20475])
def test_a_card_of_16_gb_trains_12b(mib: int) -> None:
    """With r 16."""
    assert row(tier_of(mib * MIB)) == ("gemma-3-12b", (2, 4), 4, 16, 2048)


@pytest.mark.feature("TR-014")
@pytest.mark.parametrize("mib", [24564, 24576, 81559, 143771])
def test_a_card_of_24_gb_and_more_trains_27b(mib: int) -> None:
    """With r 32 and length 4096."""
    assert row(tier_of(mib * MIB)) == ("gemma-3-27b", (4, 8), 2, 32, 4096)


@pytest.mark.feature("TR-015")
@pytest.mark.parametrize("mib", [0, 4096, 7000])
def test_without_a_card_that_is_large_enough_a_tiny_model_trains(mib: int) -> None:
    """On the CPU."""
    assert "tiny" in tier_of(mib * MIB).model


@pytest.mark.feature("TR-008")
@pytest.mark.parametrize(
    ("name", "need"),
    [
        ("unsloth/gemma-3-4b-it", 8),
        ("google/gemma-3-12b-it", 16),
        ("gemma_3_27b", 24),
        ("meta-llama/Llama-3.1-8B-Instruct", 10),
        ("mistralai/Mistral-7B-Instruct-v0.3", 8),
        ("Qwen/Qwen2.5-7B-Instruct", 10),
        ("mistralai/Mixtral-8x7B-v0.1", None),
        ("Qwen/Qwen3-0.6B", None),
        ("gemma-3-270m", None),
    ],
)
def test_what_a_model_needs_is_told_by_its_name(name: str, need: int | None) -> None:
    """Of models that the table does not hold, nothing is claimed."""
    assert needed_gib(name) == need
