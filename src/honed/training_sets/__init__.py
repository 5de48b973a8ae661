"""Which episodes a run learns from, which are held out for ever, and the files that say so.

`builder` reads episodes and writes the files. In between `harvest` sorts them by `rules`: `held_out` splits by a keyed
hash, `comparisons` pairs attempts, `near_duplicates` tells who says the same, `keyed_texts` what of a held-out text is
remembered for ever. `writing` takes rows from the `candidates` by `choosing` and `mixture`; `shortage` says why nothing
is left, `rows` is the form of the files. `preview` shows it beforehand.

What other systems wrote down comes in through `row_files` (bytes to rows), `formats` (rows to
trajectories, one module per family of forms), `trajectories` (those to events) and `reading` (all of
it in order). `shapes` writes conversations in the same forms, `export` takes them out of the store.
"""

from honed.training_sets.builder import EpisodeTrainingSets
from honed.training_sets.export import EXPORTS, Export
from honed.training_sets.formats import FORMATS, Format, StoredEpisode, format_episode
from honed.training_sets.held_out import HeldOutSplit, load_or_make_secret
from honed.training_sets.reading import Reading, read_rows
from honed.training_sets.row_files import BadRow, RowFile, check_readable, open_rows
from honed.training_sets.rows import RowSpool, SpooledRow, Turns
from honed.training_sets.trajectories import ImportedTrajectory

__all__ = [
    "EXPORTS",
    "FORMATS",
    "BadRow",
    "EpisodeTrainingSets",
    "Export",
    "Format",
    "HeldOutSplit",
    "ImportedTrajectory",
    "Reading",
    "RowFile",
    "RowSpool",
    "SpooledRow",
    "StoredEpisode",
    "Turns",
    "check_readable",
    "format_episode",
    "load_or_make_secret",
    "open_rows",
    "read_rows",
]
