"""Where records, episodes, runs and models live: SQLite or PostgreSQL, one writer, group commit."""

from honed.stores.opening import open_store
from honed.stores.store import SqlStore

__all__ = ["SqlStore", "open_store"]
