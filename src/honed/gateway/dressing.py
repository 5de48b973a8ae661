"""How a request names one version to a server that has several: put into its JSON body, whatever the client wrote
there. All other values stay byte-equal.
"""

import hashlib
from typing import Final

import msgspec

from honed.gateway.backend import Dress
from honed.gateway.probe import LoraScale
from honed.gateway.refusal import Refused

_SALTED: Final = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses"))
"""Paths where vLLM takes a `cache_salt`."""
_NAMELESS: Final = frozenset(("/classify", "/encode", "/vertex_generate"))
"""Paths of SGLang's own on which no adapter is known to be named: the base model would answer for it."""
_HEEDING: Final = frozenset(
    (
        "/completion",
        "/completions",
        "/v1/completions",
        "/chat/completions",
        "/v1/chat/completions",
        "/responses",
        "/v1/responses",
        "/infill",
    )
)
"""Paths on which llama-server answers with the adapters that `lora` names (measured: docs/facts.md)."""
_UNADAPTED: Final = frozenset(
    (
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/chat/completions/input_tokens",
        "/v1/chat/completions/input_tokens",
        "/responses/input_tokens",
        "/v1/responses/input_tokens",
        "/v1/messages/count_tokens",
    )
)
"""Those of its model that no adapter has a part in."""
_TELLING: Final = frozenset(("/props", "/slots", "/metrics", "/lora-adapters"))
"""Those on which it tells of itself."""
_ROUTED: Final = _HEEDING | _UNADAPTED | {"/v1/messages"}
"""Paths on which a router asks the model that the body names."""
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def for_vllm(model: str, digest: str | None) -> Dress:
    """Names the model `model`; its prefix cache is shared by requests to the same weights alone.

    Args:
        model: the adapter's name, or the base model's.
        digest: of the adapter's files; None for the base model, which stays the same. vLLM's cache goes by the
            adapter's name, so other weights under a name that was used before would be answered from the states of the
            former ones.
    """

    def dress(path: str, body: bytes) -> bytes:
        members = _read(body)
        if members is None:
            return body
        members["model"] = _raw(model)
        if digest is not None and path in _SALTED:
            members["cache_salt"] = _raw(_salt(digest, members.get("cache_salt")))
        return msgspec.json.encode(members)

    return dress


def for_sglang(model: str, adapter: str | None) -> Dress:
    """Names the model `model`; on SGLang's own `/generate`, which has no such field, the adapter.

    Args:
        model: what OpenAI's paths call it, `BASE:ADAPTER`, or the base model.
        adapter: the adapter's name; None for the base model.
    """

    def dress(path: str, body: bytes) -> bytes:
        if path in _NAMELESS and adapter is not None:
            raise Refused(501, "not_supported", f"{path} of SGLang names no adapter; ask over /v1")
        members = _read(body)
        if members is None:
            return body
        members.pop("lora_path", None)  # it names an adapter too
        if path != "/generate":
            members["model"] = _raw(model)
        elif adapter is not None:
            members["lora_path"] = _raw(adapter)
        return msgspec.json.encode(members)

    return dress


def for_router(model: str) -> Dress:
    """Names the model `model`; what a router does not send to a model by its name in the body is refused.

    Its other paths load, unload and download models, or tell of those of others.
    """

    def dress(path: str, body: bytes) -> bytes:
        members = _read(body) if path in _ROUTED else None
        if members is None:
            raise Refused(
                501,
                "not_supported",
                f"{path} does not reach a model behind llama-server's router: ask /v1/chat/completions",
            )
        members.pop("lora", None)  # the scales of its adapter are not the client's to choose
        members["model"] = _raw(model)
        return msgspec.json.encode(members)

    return dress


def for_shared(lora: tuple[LoraScale, ...]) -> Dress:
    """Puts the complete list of adapters into a body; last, for of two fields with one name the last counts.

    On a path that is not known to heed it, the bare base might answer, or what a neighbour was told: it is refused.
    """
    field = b'"lora":' + msgspec.json.encode(lora) + b"}"

    def dress(path: str, body: bytes) -> bytes:
        if path in _UNADAPTED or path in _TELLING:
            return body
        if path not in _HEEDING:
            raise Refused(
                501,
                "not_supported",
                f"{path} cannot be answered by a server that several scenarios share: llama-server takes no adapter "
                "for it; name the scenario in serve.alone, or ask /v1/chat/completions",
            )
        if not body:
            return body
        inside = body.rstrip()[:-1].rstrip()  # it has been read: it is an object
        return inside + (field if inside.endswith(b"{") else b"," + field)

    return dress


def _read(body: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of the object, the last one where a name stands twice; None where there is no body."""
    if not body:
        return None
    try:
        return _members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "invalid_json", f"the body cannot be read: {error}") from None


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _salt(digest: str, own: msgspec.Raw | None) -> str:
    """The version's; with a client's own, one that is as hard to guess as that, and no longer than vLLM takes."""
    if own is None or bytes(own) == b"null":
        return f"honed:{digest}"
    return "honed:" + hashlib.sha256(digest.encode() + b"\0" + bytes(own)).hexdigest()
