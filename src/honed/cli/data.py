"""Commands that bring data in: import."""

from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from msgspec import Struct
from rich.progress import track

from honed.cli.asking import (
    EXIT_FAILED,
    AsJson,
    ConfigFile,
    config_from,
    daemon_answers,
    leave,
    print_json,
)
from honed.client import AsyncHonedClient
from honed.config import Config
from honed.errors import HonedError
from honed.learn_models import create
from honed.ports import EpisodeFilter
from honed.sink import Sink
from honed.stores import SqlStore, open_store
from honed.training_sets import BadRow, ImportedTrajectory, load_or_make_secret, read_trajectories
