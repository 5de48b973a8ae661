"""What this machine has: memory, GPUs, base models, a llama-server; and how much of it a scenario needs.

Looks only: nothing is loaded, started for longer than an answer takes, downloaded or changed. `honed init` proposes
from it, `honed doctor` compares with it.
"""
