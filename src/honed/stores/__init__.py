"""Where records, episodes, runs and models live: SQLite or PostgreSQL, one writer, group commit."""

from honed.lean import with_orm_on_demand

with_orm_on_demand()

from honed.stores.opening import open_store  # noqa: E402 - imports SQLAlchemy
from honed.stores.store import SqlStore  # noqa: E402

__all__ = ["SqlStore", "open_store"]
