"""Where records, episodes, runs and models live: SQLite, one writer, group commit."""

from honed.stores.store import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
