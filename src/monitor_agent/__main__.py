"""The command `monitor-agent`.

Exit code 0: stopped cleanly, or the file is right; 1: could not run; 2: wrong settings or usage.
"""

import argparse
import os
import sys
from pathlib import Path

from monitor_agent import __version__
from monitor_agent.faults import FaultsError
from monitor_agent.https import leave_https_out, needs_https
from monitor_agent.settings import DEFAULT_PATH, read_settings, read_token

OK, FAILED, WRONG_SETTINGS = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="monitor-agent", description="The agent of ControllerASG on every instance."
    )
    parser.add_argument("--version", action="version", version=f"monitor-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="sample this instance and report to the controller")
    serve.add_argument(
        "--config", type=Path, default=DEFAULT_PATH, help="settings file (default: %(default)s)"
    )
    check = commands.add_parser(
        "check-config", help="say all that is wrong with a settings file, and change nothing"
    )
    check.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "check-config":
            read_settings(options.file)
            return OK
        return _serve(options.config)
    except FaultsError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_SETTINGS


def _serve(path: Path) -> int:
    settings = read_settings(path)
    token = read_token(settings)
    if not needs_https(settings):
        leave_https_out()
    import asyncio

    # gRPC's core writes its own lines for each lost connection; the agent says it once and in its own form.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Only now: check-config answers in a tenth of the time without gRPC.
    from monitor_agent.agent import Agent, serve
    from monitor_agent.log import EventLog, start_logging
    from monitor_agent.notify import Notifier

    start_logging()

    async def run() -> None:
        await serve(Agent(settings, token=token, config_path=path, notifier=Notifier()))

    try:
        asyncio.run(run())
    except OSError as error:
        EventLog(__name__).error("agent_failed", reason=str(error))
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
