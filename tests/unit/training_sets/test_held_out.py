"""The held-out split: even, keyed, the same for ever; its secret kept by the owner alone."""

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.errors import StoreError
from honed.training_sets.held_out import HeldOutSplit, load_or_make_secret

SECRET = bytes(range(32))


def test_the_share_that_is_held_out() -> None:
    """About a fifth of ten thousand keys is held out."""
    split = HeldOutSplit(SECRET, 0.2)
    held_out = sum(split.is_held_out(f"task-{i}") for i in range(10_000))
    assert 1_850 < held_out < 2_150  # four standard deviations


@given(st.text())
def test_every_key_has_one_place(key: str) -> None:
    """A key falls into 0..1, always at one place; a larger share keeps what was held out."""
    split = HeldOutSplit(SECRET, 0.2)
    assert 0 <= split.position(key) < 1
    assert split.position(key) == HeldOutSplit(SECRET, 0.5).position(key)
    assert not split.is_held_out(key) or HeldOutSplit(SECRET, 0.5).is_held_out(key)


def test_the_split_does_not_move() -> None:
    """These places are written down, so that no version of the program moves an episode."""
    split = HeldOutSplit(SECRET, 0.2)
    places = [round(split.position(f"task-{i}"), 3) for i in range(8)]
    assert places == [0.334, 0.799, 0.626, 0.982, 0.388, 0.853, 0.985, 0.732]
    assert split.position("\ud800") == split.position("\ud800")


def test_another_secret_is_another_split() -> None:
    """Who does not know the secret cannot choose the side of a task."""
    one, two = HeldOutSplit(SECRET, 0.5), HeldOutSplit(bytes(32), 0.5)
    keys = [f"task-{i}" for i in range(100)]
    assert [one.is_held_out(key) for key in keys] != [two.is_held_out(key) for key in keys]


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    """The first call makes it, readable by its owner alone; later ones read it."""
    path = tmp_path / "data" / "secret.key"
    secret = load_or_make_secret(path)
    assert len(secret) == 32
    assert load_or_make_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]


def test_processes_that_make_it_at_once_agree(tmp_path: Path) -> None:
    """Whoever comes second takes over the first one's secret."""
    path = tmp_path / "secret.key"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        secrets = pool.map(load_or_make_secret, [path] * 16, chunksize=1)
    assert len(set(secrets)) == 1


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    """A short secret would be another split: it is refused, not replaced."""
    path = tmp_path / "secret.key"
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match="5 bytes") as caught:
        load_or_make_secret(path)
    assert caught.value.advice
    with pytest.raises(StoreError, match="cannot be read"):
        load_or_make_secret(path / "below")


def test_a_lost_secret_is_not_made_again(tmp_path: Path) -> None:
    """Where records exist a missing file is told, not replaced; one that is there is read."""
    path = tmp_path / "secret.key"
    with pytest.raises(StoreError, match="is missing") as caught:
        load_or_make_secret(path, may_make=False)
    assert "backup" in str(caught.value.advice)
    assert list(tmp_path.iterdir()) == []
    secret = load_or_make_secret(path)
    assert load_or_make_secret(path, may_make=False) == secret
