"""Where figures of a run go besides honed's own files: nowhere, unless trackers are named.

trackio and tensorboard write on this machine alone, mlflow too unless MLFLOW_TRACKING_URI says otherwise; wandb sends.
trackio sends when TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set in the environment, and then all settings with it.
"""

import os
from collections.abc import MutableMapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from honed.errors import UnsupportedError


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that what is asked for is installed.

    Raises:
        UnsupportedError: something is not.
    """
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        raise UnsupportedError(
            f"figures are to be logged to {lacking[0]}, which is not installed",
            advice=f"pip install {lacking[0]} beside the training stack, or leave it out of the config",
        )


def use_trackers(
    names: Sequence[str], folder: Path, environment: MutableMapping[str, str] = os.environ
) -> None:
    """Check them, and have what they write on this machine kept in the run's folder; what the environment says wins.

    Raises:
        UnsupportedError: one is not installed.
    """
    check_trackers(names)
    for variable, place in places(names, folder).items():
        environment.setdefault(variable, place)


def places(names: Sequence[str], folder: Path) -> dict[str, str]:
    """The variables by which trackers are told where they write; without them it goes with the trainer's scratch files,
    or to wherever the daemon was started.
    """
    told = {
        "tensorboard": ("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard")),
        "mlflow": ("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}"),
        "wandb": ("WANDB_DIR", str(folder)),
    }
    return dict(told[name] for name in names if name in told)
