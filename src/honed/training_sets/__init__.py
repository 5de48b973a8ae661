"""Which episodes a run learns from, which are held out for ever, and the files that say so.

`held_out` splits by a keyed hash, `builder` chooses and writes, `rows` is the form of the files,
`trajectories` reads attempts that other systems have written down.
"""

from honed.training_sets.builder import SftTrainingSets
from honed.training_sets.held_out import HeldOutSplit, load_or_make_secret
from honed.training_sets.trajectories import BadRow, ImportedTrajectory, read_trajectories

__all__ = [
    "BadRow",
    "HeldOutSplit",
    "ImportedTrajectory",
    "SftTrainingSets",
    "load_or_make_secret",
    "read_trajectories",
]
