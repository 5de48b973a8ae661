"""Names in the folder of a run, which several processes know."""

from typing import Final

CHECKPOINTS: Final = "checkpoints"
"""Folder of its checkpoints."""
SEAL: Final = "complete.json"
"""What is written last into a checkpoint: without it, it is none."""
PLAN_FILE: Final = "plan.json"
"""What a run was begun with, while it may go on."""
