"""What a person types. `run`, `serve`, `up` and `health` start without typer and rich; everything else is in `app`.

Exit status: 0 done; 1 it failed, the reason is on stderr; 2 wrong usage; 3 the daemon or gateway does not run;
78 the config cannot be used; 128 + signal when a process was forced to end.
"""

import sys


def main() -> None:
    """Entry of the `honed` command."""
    match sys.argv[1:2]:
        case ["run"]:
            from honed.daemon import main as run

            sys.exit(run(sys.argv[2:]))
        case ["serve"]:
            from honed.serve import main as serve

            sys.exit(serve(sys.argv[2:]))
        case ["up"]:
            from honed.cli.up import main as up

            sys.exit(up(sys.argv[2:]))
        case ["health"]:
            from honed.cli.health import main as health

            sys.exit(health(sys.argv[2:]))
        case _:
            from honed.cli.app import app

            app(prog_name="honed")
