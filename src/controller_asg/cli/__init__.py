"""The command `controller-asg`.

`serve` is dispatched before the rest is imported: the daemon's memory holds neither typer nor rich nor alembic.
"""

import sys


def main() -> None:
    from controller_asg.cli.serve import EXIT_BAD_INPUT, serve

    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            sys.stderr.write(f"{argument!r}: is not text in UTF-8; write it in UTF-8\n")
            sys.exit(EXIT_BAD_INPUT)
    if sys.argv[1:2] == ["serve"]:
        sys.exit(serve(sys.argv[2:]))
    # Their commands join the others.
    from controller_asg.cli import lifecycle_actions as _lifecycle_actions  # noqa: F401
    from controller_asg.cli import membership as _membership  # noqa: F401
    from controller_asg.cli import policies as _policies  # noqa: F401
    from controller_asg.cli import refresh as _refresh  # noqa: F401
    from controller_asg.cli import rehearse as _rehearse  # noqa: F401
    from controller_asg.cli import simulate as _simulate  # noqa: F401
    from controller_asg.cli import tune as _tune  # noqa: F401
    from controller_asg.cli.app import app

    app(prog_name="controller-asg")
