"""What the operator wrote: one TOML file, one frozen Config of small frozen sections.

Every key can also come from the environment as `HONED__SECTION__KEY`, which wins over the file. Unknown keys are
refused with the nearest known one. Every limit is checked here, once; a room receives its section and trusts it.

`sections`, `serving`, `gpu`, `rewards` and `redact` are what can be said and what it means, `values` how durations and
sizes are written, `config` the whole, `load` where it is read from, `secrets` what never stands in it, `places` where
a system-wide installation keeps things, `origins` where each value came from, `changed` what differs in another one,
`reference` the file with every key and the JSON schema.
"""

from honed.config.changed import changed_keys
from honed.config.config import Config
from honed.config.gpu import GpuSection
from honed.config.load import config_paths, load_config
from honed.config.redact import RedactSection
from honed.config.secrets import check_key, read_secret, read_server_key
from honed.config.sections import (
    ApplySection,
    CanarySection,
    ConsentSection,
    EventsSection,
    GateSection,
    LearnSection,
    Section,
    TrainSection,
)
from honed.config.server import OwnServer, ServerSection
from honed.config.serving import ServeSection

__all__ = [
    "ApplySection",
    "CanarySection",
    "Config",
    "ConsentSection",
    "EventsSection",
    "GateSection",
    "GpuSection",
    "LearnSection",
    "OwnServer",
    "RedactSection",
    "Section",
    "ServeSection",
    "ServerSection",
    "TrainSection",
    "changed_keys",
    "check_key",
    "config_paths",
    "load_config",
    "read_secret",
    "read_server_key",
]
