"""Ids rise, are unique, and read back to what they were made of."""

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.ids import (
    EpisodeIds,
    adapter_id,
    check_scenario,
    is_episode_id,
    pack_action_event_id,
    parse_adapter_id,
    run_id,
    unpack_action_event_id,
)
from honed.errors import ValidationError


@pytest.mark.feature("SE-050")
def test_episode_ids_rise_when_the_clock_steps_back() -> None:
    """Ten thousand ids are unique and in order although the clock jumps back again and again."""
    ids = EpisodeIds()
    clock = (1_772_442_000_000 - (i % 97) * 1_000 for i in range(10_000))
    made = [ids.next(now_ms) for now_ms in clock]
    assert made == sorted(set(made))
    assert len(made) == 10_000
    assert all(map(is_episode_id, made))


@given(st.lists(st.integers(0, 10**13 - 1), min_size=2))
def test_episode_ids_rise_on_any_clock(clock: list[int]) -> None:
    """Whatever the clock shows, the next id is greater."""
    ids = EpisodeIds()
    made = [ids.next(now_ms) for now_ms in clock]
    assert made == sorted(set(made))


def test_a_full_counter_advances_the_millisecond() -> None:
    """More than 65,536 ids of one millisecond still rise."""
    ids = EpisodeIds()
    made = [ids.next(5) for _ in range(70_000)]
    assert made == sorted(set(made))
    assert made[-1].startswith("0000000000006-")


def test_threads_share_one_generator() -> None:
    """Ids made in several threads at once do not repeat."""
    ids = EpisodeIds()
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda own=own: own.extend(ids.next() for _ in range(2_500)))
        for own in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({episode_id for own in made for episode_id in own}) == 10_000


@pytest.mark.feature("SE-207")
@given(st.integers(0, 2**40 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**8 - 1))
def test_action_event_ids_unpack(tick: int, worker_id: int, sequence: int) -> None:
    """Tick, worker and sequence come back; the text is 16 hex digits."""
    packed = pack_action_event_id(tick=tick, worker_id=worker_id, sequence=sequence)
    assert re.fullmatch("[0-9a-f]{16}", packed)
    assert unpack_action_event_id(packed) == (tick, worker_id, sequence)


@pytest.mark.feature("SE-207")
@given(st.integers(0, 2**40 - 2), st.integers(0, 2**16 - 1), st.integers(0, 2**8 - 1))
def test_action_event_ids_sort_by_tick(tick: int, worker_id: int, sequence: int) -> None:
    """Text order is tick order."""
    first = pack_action_event_id(tick=tick, worker_id=worker_id, sequence=sequence)
    assert first < pack_action_event_id(tick=tick + 1, worker_id=0, sequence=0)


def test_the_id_of_the_specification() -> None:
    """Tick 23, worker 3, sequence 1."""
    assert pack_action_event_id(tick=23, worker_id=3, sequence=1) == "0000000017000301"


@pytest.mark.parametrize(
    "parts", [(2**40, 0, 0), (-1, 0, 0), (0, 2**16, 0), (0, 0, 256), (0, 0, -1)]
)
def test_parts_out_of_range(parts: tuple[int, int, int]) -> None:
    """A part that does not fit is refused by name."""
    tick, worker_id, sequence = parts
    with pytest.raises(ValidationError, match="does not fit"):
        pack_action_event_id(tick=tick, worker_id=worker_id, sequence=sequence)


@pytest.mark.parametrize("text", ["", "17000301", "000000001700030G", "0000000017000301\n"])
def test_what_is_no_action_event_id(text: str) -> None:
    """Anything but 16 hex digits is refused."""
    with pytest.raises(ValidationError):
        unpack_action_event_id(text)


def test_adapter_ids() -> None:
    """An adapter is named by scenario and number."""
    assert adapter_id("air-line_2", 17) == "air-line_2@17"
    assert parse_adapter_id("air-line_2@17") == ("air-line_2", 17)
    for text in ("air", "air@0", "air@01", "@1", "Air@1", "air@1/..", "air@1\n"):
        with pytest.raises(ValidationError):
            parse_adapter_id(text)


@pytest.mark.parametrize("name", ["", "Air", "a/b", "..", "-a", "a" * 65, "a b", "a\n"])
def test_names_that_are_no_scenario(name: str) -> None:
    """What cannot name a folder cannot name a scenario."""
    with pytest.raises(ValidationError):
        check_scenario(name)
    assert check_scenario("airline-2") == "airline-2"


def test_run_ids_differ_inside_one_second() -> None:
    """Runs of one second are told apart, and a run can be a folder."""
    made = {run_id("chat", "org/Qwen3-0.6B", now_s=7.5) for _ in range(20)}
    assert len(made) > 15
    assert all(re.fullmatch(r"chat-org_Qwen3_0\.6B-7-[0-9a-f]{4}", made_id) for made_id in made)
