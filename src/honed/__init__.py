"""honed: a learning daemon beside a swarm of LLM agents.

The rooms, in the order data flows:

    client          what a swarm imports to send its events (standard library only)
    sources         where events come in: unix socket, HTTP, followed files, traces of OpenTelemetry, a bus
    redaction       secrets and personal data out of an event, before the first write
    sink            validates them, stores records, closes groups into episodes
    stores          records, episodes, counters, runs and models in SQLite or PostgreSQL
    keeping         backups, forgetting, clearing away what is old
    learn_models    records to episodes, episodes to training data
    statistics      what can be counted of a swarm's work while it runs
    triggers        when to learn: values with `&`, `|`, `~`
    loop            wake, look, judge, train, gate, apply, write down what happened
    rewards         verdicts of programs and of a judge, and alarms when they are gamed
    training_sets   which episodes a run learns from, and what is held out for ever
    processors      a run in a worker process
    worker          that process: LoRA, export to GGUF, scores (the only room that imports torch)
    gate            is the candidate better than the adapter in service?
    appliers        put it into service, take it out
    gateway         the stable address in front of llama-server, blue and green, or of a server of the operator's own
    own_servers     how servers that the operator runs are asked, and load adapters
    api             the control socket
    cli             what a person types
    demo            the whole loop on a tiny model, in minutes
    machine         what this machine has, and how much of it a scenario needs
    doctor          checks all that a scenario needs, and says what to do
    checks          what a stand-alone run is checked by: its data, the machine, baseline, eight gates
    standalone      one training from a config file, without a daemon

`daemon` and `serve` run the two long-lived processes, `in_process` is what a program asks of a daemon inside it,
`lora_trainer` trains by a script without one,
`rooms` builds what the first one's config names; `config` is
what the operator wrote; `ports` is what each room promises; `domain` holds the nouns. `listen` opens sockets,
`activation` takes over those that systemd opened, `notify` tells it how a process is; `log` and `errors` name what can
happen, `lean` keeps a daemon small, `lifeline` ends a child with its parent, `adapter_files` tells an adapter by its
digest, `process` is how both processes start and stop.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from honed.client import AsyncHonedClient, BackgroundClient, HonedClient
    from honed.config import Config, load_config
    from honed.daemon import LearningDaemon
    from honed.domain.processing import ProcessorMode, ProcessResult
    from honed.domain.script import LoraTrainerConfig
    from honed.in_process import DaemonStats
    from honed.lora_trainer import LoraTrainer

__version__ = "0.1.0"
__all__ = [
    "AsyncHonedClient",
    "BackgroundClient",
    "Config",
    "DaemonStats",
    "HonedClient",
    "LearningDaemon",
    "LoraTrainer",
    "LoraTrainerConfig",
    "ProcessResult",
    "ProcessorMode",
    "load_config",
]

_HOMES = {
    "AsyncHonedClient": "honed.client",
    "BackgroundClient": "honed.client",
    "HonedClient": "honed.client",
    "Config": "honed.config",
    "load_config": "honed.config",
    "LearningDaemon": "honed.daemon",
    "LoraTrainer": "honed.lora_trainer",
    "LoraTrainerConfig": "honed.domain.script",
    "DaemonStats": "honed.in_process",
    "ProcessResult": "honed.domain.processing",
    "ProcessorMode": "honed.domain.processing",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; `import honed` itself loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'honed' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
