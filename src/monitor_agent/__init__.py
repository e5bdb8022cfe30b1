"""MonitorS: the agent on every instance. It imports nothing of controller_asg, and stays small for a t2.micro."""

import sys
from pathlib import Path


def _version() -> str:
    """The installed distribution's version, from its folder's name: importlib.metadata imports 0.8 MiB of email."""
    for entry in sys.path:
        for folder in Path(entry).glob("controller_asg-*.dist-info"):
            return folder.name.split("-")[1].removesuffix(".dist")
    return "0+unknown"


__version__ = _version()
