"""What is kept and for how long: backups, forgetting, and clearing away what is old."""

from honed.keeping.backup import Backup, write_backup
from honed.keeping.cleanup import Cleaned
from honed.keeping.forgetting import Forgotten
from honed.keeping.keeper import Keeper
from honed.keeping.restore import Restored, restore_backup
from honed.keeping.waiting import WaitingCalls

__all__ = [
    "Backup",
    "Cleaned",
    "Forgotten",
    "Keeper",
    "Restored",
    "WaitingCalls",
    "restore_backup",
    "write_backup",
]
