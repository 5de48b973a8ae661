"""Which of a lane's servers a request may have."""

from typing import NamedTuple

from honed.gateway.labels import Labels


class Wanted(NamedTuple):
    """What a request says about the version that should answer it."""

    unit: str | None = None
    """What one version should answer as a whole: the task, else the session, else the group."""
    version: str | None = None
    """`scenario@n`: this version and no other; None leaves it to the lane."""

    @classmethod
    def by(cls, labels: Labels, *, version: str | None) -> "Wanted":
        """What a request with these labels wants."""
        return cls(labels.task_id or labels.session_id or labels.group_id, version)


def scenario_in(model: str) -> str:
    """The scenario of a `model` that names a version of it; else the whole name."""
    name, _, number = model.partition("@")
    return name if number.isdecimal() else model


def version_in(model: str | None, scenario: str) -> str | None:
    """The version that a `model` names, if it is one of this scenario."""
    names_one = model is not None and model != scenario and scenario_in(model) == scenario
    return model if names_one else None


ANY = Wanted()
"""Whatever is in service."""
