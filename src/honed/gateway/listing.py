"""What `GET /v1/models` says: scenarios and versions, in a form that OpenAI's clients read and Anthropic's too."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from honed.gateway.lane import Lane

PATHS: Final = ("/v1/models", "/models")


def names(lanes: Mapping[str, Lane]) -> list[str]:
    """What a request may name: each scenario, and those of its versions that are resident."""
    return [name for scenario, lane in lanes.items() for name in (scenario, *lane.versions)]


def listing(names: Iterable[str]) -> dict[str, Any]:
    """All of them; there is no second page."""
    data = [card(name) for name in names]
    return {
        "object": "list",
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def card(name: str) -> dict[str, Any]:
    """One. When it was made is not told: it is another model after every switch."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "honed",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }


def asked_for(path: str) -> str | None:
    """The name in `/v1/models/NAME`; None where the path is none."""
    for each in PATHS:
        if path.startswith(f"{each}/"):
            return path[len(each) + 1 :]
    return None
