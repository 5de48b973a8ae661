"""How a request names a version: the fields that say so are the gateway's, all others the client's to the byte."""

import json

import pytest

from honed.gateway.dressing import for_sglang, for_vllm
from honed.gateway.refusal import Refused

CHAT = "/v1/chat/completions"
VLLM = for_vllm("airline@3", "d1")
SGLANG = for_sglang("base:airline@3", "airline@3")


def test_other_values_stay_as_they_were_written() -> None:
    """Numbers, escapes and unknown fields are not read and written again."""
    body = (
        b'{"seed": 12345678901234567890123, "t": 1.50e-1, "text": "\\u00e9\\/", "model": "airline"}'
    )
    for dressed in (VLLM(CHAT, body), SGLANG(CHAT, body)):
        assert b":12345678901234567890123," in dressed
        assert b":1.50e-1," in dressed
        assert b'"\\u00e9\\/"' in dressed


def test_name_that_stands_twice_is_the_gateways() -> None:
    """Whichever of the two a server would read."""
    body = b'{"model": "mine", "\\u006dodel": "theirs", "lora_path": "x", "lora_path": "y"}'
    for dressed, name in ((VLLM(CHAT, body), "airline@3"), (SGLANG(CHAT, body), "base:airline@3")):
        pairs = json.loads(dressed, object_pairs_hook=list)
        assert [value for key, value in pairs if key == "model"] == [name]
    assert b"lora_path" not in SGLANG(CHAT, body)


def test_states_are_shared_by_requests_to_the_same_weights() -> None:
    """And, where a client keeps its own apart, only by those that know its salt."""
    salts = {
        (digest, own): json.loads(for_vllm("a@1", digest)(CHAT, body))["cache_salt"]
        for digest in ("d1", "d2")
        for own, body in (("", b"{}"), ("x", b'{"cache_salt":"x"}'), ("y", b'{"cache_salt":"y"}'))
    }
    assert len(set(salts.values())) == 6
    assert salts["d1", ""] == "honed:d1"
    assert json.loads(VLLM(CHAT, b'{"cache_salt":null}'))["cache_salt"] == "honed:d1"
    long = b'{"cache_salt":"%s"}' % (b"s" * 1024)
    assert len(json.loads(VLLM(CHAT, long))["cache_salt"]) < 100


def test_base_model_needs_no_salt() -> None:
    """Its weights stay the same; a client's own salt goes on as it is."""
    assert json.loads(for_vllm("base", None)(CHAT, b'{"cache_salt":"x"}')) == {
        "cache_salt": "x",
        "model": "base",
    }


def test_salt_goes_where_vllm_takes_one() -> None:
    """Counting tokens keeps no states."""
    assert b"cache_salt" not in VLLM("/tokenize", b'{"prompt":"a"}')
    assert b"cache_salt" in VLLM("/v1/completions", b'{"prompt":"a"}')


def test_sglangs_own_path_names_the_adapter() -> None:
    """`/generate` has no `model`."""
    body = b'{"text":"a","lora_path":"theirs"}'
    assert json.loads(SGLANG("/generate", body)) == {"text": "a", "lora_path": "airline@3"}
    base = for_sglang("base", None)
    assert json.loads(base("/generate", body)) == {"text": "a"}
    with pytest.raises(Refused, match="names no adapter"):
        SGLANG("/encode", body)
    assert b"theirs" not in base("/encode", body)


@pytest.mark.parametrize("dress", [VLLM, SGLANG], ids=["vllm", "sglang"])
def test_what_is_no_object_is_not_dressed(dress: object) -> None:
    """An empty body stays empty; one that cannot be read is refused, and not sent without a name."""
    assert callable(dress)
    assert dress("/flush_cache", b"") == b""
    for body in (b"[1]", b'{"a": ', b'{"\\ud800": 1}'):
        with pytest.raises(Refused):
            dress(CHAT, body)
