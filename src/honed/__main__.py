"""`python -m honed` is the `honed` command."""

from honed.cli import main

main()
