"""What each room promises: the Protocols that daemon, loop and rooms know each other by.

Data flows down this page: a source hands lines to the sink, the sink to the store, the loop asks the store for
facts, the training sets for data, the processor for a model, the gate for a verdict, the applier for service.
"""

from honed.ports.intake import (
    DataSink,
    Disposition,
    EventSource,
    FilePosition,
    GroupMark,
    IncomingEvent,
    Ingested,
    Rejected,
)
from honed.ports.keeping import Aged, Extent, Keeping, Room, Whose, WhoseKind
from honed.ports.learning import (
    Applier,
    Gate,
    HeldOut,
    OnProgress,
    Processor,
    Trained,
    TrainingSet,
    TrainingSets,
    TrainRequest,
)
from honed.ports.lessons import Lesson, Lessons, Material, ReadEpisode
from honed.ports.records import RecordFilter, RecordRow, Records
from honed.ports.store import (
    Attempts,
    Closing,
    EpisodeFilter,
    EpisodeRow,
    ModelFilter,
    OpenGroup,
    Provenance,
    Store,
    StoredEvent,
    StoreStats,
    Verdict,
)

__all__ = [
    "Aged",
    "Applier",
    "Attempts",
    "Closing",
    "DataSink",
    "Disposition",
    "EpisodeFilter",
    "EpisodeRow",
    "EventSource",
    "Extent",
    "FilePosition",
    "Gate",
    "GroupMark",
    "HeldOut",
    "IncomingEvent",
    "Ingested",
    "Keeping",
    "Lesson",
    "Lessons",
    "Material",
    "ModelFilter",
    "OnProgress",
    "OpenGroup",
    "Processor",
    "Provenance",
    "ReadEpisode",
    "RecordFilter",
    "RecordRow",
    "Records",
    "Rejected",
    "Room",
    "Store",
    "StoreStats",
    "StoredEvent",
    "TrainRequest",
    "Trained",
    "TrainingSet",
    "TrainingSets",
    "Verdict",
    "Whose",
    "WhoseKind",
]
