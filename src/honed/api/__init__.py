"""The control API of a running daemon, on a unix socket that only its owner can open."""

from honed.api.canary import canary_routes
from honed.api.control import Controls, control_app
from honed.api.events import EventStream
from honed.api.review import review_routes

__all__ = ["Controls", "EventStream", "canary_routes", "control_app", "review_routes"]
