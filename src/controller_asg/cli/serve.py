"""`controller-asg serve`: the daemon's process, with as little in it as it needs."""

import argparse
import sys
from pathlib import Path

from controller_asg.model.errors import AsgError, FencedError

DEFAULT_CONFIG = Path("/etc/controller-asg/controller.toml")
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2  # the settings are wrong: a restart alone will not help
EXIT_FENCED = 3  # another controller has the store: a restart would take it away again, by turns for ever


def serve(arguments: list[str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser("controller-asg serve", description="Run the controller until SIGTERM.")
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="the daemon's settings (default: %(default)s)"
    )
    path: Path = parser.parse_args(arguments).config
    # structlog imports rich wherever it is installed, only to colour tracebacks; that is 6.4 MiB of the daemon.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from controller_asg.config import load_settings
    from controller_asg.daemon import run
    from controller_asg.model.errors import SpecError

    try:
        run(path, load_settings(path))
    except SpecError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    except FencedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FENCED
    except AsgError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    return 0
