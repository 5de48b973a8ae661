"""The probe tells from answers alone which model answers."""

import random
from pathlib import Path

import msgspec
import pytest

from honed.domain.fingerprint import Fingerprint, FingerprintPrompt
from honed.errors import AdapterNotFoundError, ProbeFailedError
from honed.gateway.probe import Answers, compare, read_fingerprint

K = 64
rng = random.Random(1)
BASE = [rng.gauss(-8, 2) for _ in range(K)]


def fingerprint(seed: int, *, strength: float = 1.0, prompt: int = 1) -> Fingerprint:
    """An adapter's: the base moved by `strength` nats in a direction of its own."""
    own = random.Random(seed)
    adapter = tuple(value + strength * own.gauss(0, 1) for value in BASE)
    return Fingerprint(
        vocab_size=K,
        prompts=(
            FingerprintPrompt(
                prompt_ids=(prompt,), token_ids=tuple(range(K)), base=tuple(BASE), adapter=adapter
            ),
        ),
    )


def answers(of: Fingerprint | None, *, off_by: float = 0.0, noise: float = 0.0) -> Answers:
    """A server's: the worker's values, moved by quantisation (the same for all) and by noise."""
    own, shared = random.Random(9), random.Random(7)
    values = of.prompts[0].adapter if of else tuple(BASE)
    return tuple(v + off_by * shared.gauss(0, 1) + noise * own.gauss(0, 1) for v in values)


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("off_by", [0.0, 0.1, 0.65])
def test_adapter_is_recognised_on_any_quantisation(strength: float, off_by: float) -> None:
    """Quantisation moves both servers alike, so even a weak adapter shows."""
    new = fingerprint(1, strength=strength)
    s_old, s_new = answers(None, off_by=off_by), answers(new, off_by=off_by)
    assert compare(new, None, s_new, s_old).x == pytest.approx(1, abs=0.01)
    assert not compare(new, None, s_old, s_old).is_accepted


def test_one_adapter_is_told_from_another() -> None:
    """From adapter to adapter, and back to the base, the one that does not answer is refused."""
    one, two = fingerprint(1), fingerprint(2)
    s_one, s_two, s_base = (
        answers(one, off_by=0.3),
        answers(two, off_by=0.3),
        answers(None, off_by=0.3),
    )
    assert compare(two, one, s_two, s_one).is_accepted
    assert not compare(two, one, s_one, s_one).is_accepted
    assert compare(None, one, s_base, s_one).is_accepted
    assert not compare(None, one, s_one, s_one).is_accepted


def test_wrong_adapter_is_refused() -> None:
    """A server with another adapter than it should have does not pass for it."""
    new, other = fingerprint(1), fingerprint(2)
    assert not compare(new, None, answers(other), answers(None)).is_accepted


def test_adapter_that_goes_far_enough_in_another_direction_is_refused() -> None:
    """Two adapters share part of their change: x is above 0.5, the cosine tells."""
    new, other = fingerprint(1), fingerprint(2)
    mixed = tuple(
        base + 0.6 * (one - base) + (two - base)
        for base, one, two in zip(BASE, answers(new), answers(other), strict=True)
    )
    proof = compare(new, None, mixed, answers(None))
    assert 0.5 < proof.x < 1.5
    assert proof.cosine < 0.65
    assert not proof.is_accepted


def test_adapter_that_was_applied_twice_as_strongly_is_refused() -> None:
    """The direction is right, the distance is not."""
    new = fingerprint(1)
    double = tuple(2 * v - base for base, v in zip(BASE, answers(new), strict=True))
    assert compare(new, None, double, answers(None)).cosine == pytest.approx(1)
    assert not compare(new, None, double, answers(None)).is_accepted


def test_direction_of_a_weak_adapter_is_not_asked_for() -> None:
    """0.004 nats on Q8_0: the noise of each server is larger than the change (cosine 0.34 measured)."""
    new = fingerprint(1, strength=0.004)
    noisy = answers(new, noise=0.012)
    proof = compare(new, None, noisy, answers(None))
    assert proof.cosine < 0.65
    assert proof.x > 0.5
    assert proof.is_accepted


def test_noise_of_flash_attention_does_not_matter() -> None:
    """Measured 0.02 nats on F32 and F16."""
    new = fingerprint(1, strength=0.1)
    proof = compare(new, None, answers(new, noise=0.02), answers(None, noise=0.02))
    assert proof.is_accepted


def test_without_a_former_server_the_workers_values_stand_in() -> None:
    """Weaker, and said so."""
    new = fingerprint(1)
    proof = compare(new, None, answers(new, noise=0.02), None)
    assert proof.is_accepted
    assert not proof.is_relative
    back = compare(None, new, answers(None, noise=0.02), None)
    assert back.is_accepted


def test_same_weights_under_another_number_are_proved_against_the_base() -> None:
    """Two trainings may give the same adapter; it is still seen to be applied."""
    one, again = fingerprint(1), fingerprint(1)
    assert compare(again, one, answers(again), answers(one)).is_accepted
    assert not compare(again, one, answers(None), answers(one)).is_accepted


def test_fingerprints_of_other_prompts_are_not_compared() -> None:
    """An adapter from before the prompts changed is compared with the worker's base values."""
    old, new = fingerprint(1, prompt=1), fingerprint(2, prompt=2)
    proof = compare(new, old, answers(new), answers(old))
    assert proof.is_accepted
    assert not proof.is_relative


def test_adapter_that_does_nothing_cannot_be_proved() -> None:
    """Its answers are the base's: nobody can say that it answers."""
    new = fingerprint(1, strength=0.0)
    with pytest.raises(ProbeFailedError, match="cannot tell"):
        compare(new, None, answers(None), answers(None))


@pytest.mark.parametrize(
    "text", ["", "{", '{"vocab_size": 3, "prompts": []}', '{"vocab_size": 3, "prompts": [{}]}']
)
def test_damaged_fingerprint_is_an_error(tmp_path: Path, text: str) -> None:
    """An adapter that cannot be recognised is not served."""
    (tmp_path / "fingerprint.json").write_text(text)
    with pytest.raises(AdapterNotFoundError):
        read_fingerprint(tmp_path)


def test_fingerprint_is_read_back(tmp_path: Path) -> None:
    """The file is the struct as JSON."""
    (tmp_path / "fingerprint.json").write_bytes(msgspec.json.encode(fingerprint(1)))
    assert read_fingerprint(tmp_path) == fingerprint(1)


def test_token_that_a_server_holds_impossible_does_not_outweigh_the_others() -> None:
    """Its float32 probabilities end in zero, which it calls -3.4e38; the worker's double goes on."""
    new, other = fingerprint(1), fingerprint(2)
    [prompt] = new.prompts
    sure = (-300.0, *prompt.adapter[1:])
    new = msgspec.structs.replace(new, prompts=(msgspec.structs.replace(prompt, adapter=sure),))
    served = (-3.4028234663852886e38, *answers(new)[1:])
    proof = compare(new, None, served, answers(None))
    assert proof.is_accepted
    assert proof.x == pytest.approx(1)
    assert not compare(new, None, answers(None), answers(None)).is_accepted
    assert not compare(new, None, answers(other), answers(None)).is_accepted
