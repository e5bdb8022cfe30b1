"""Running the host's programs (podman, nft, sysctl), always with a time limit.

podman reads `CONTAINERS_CONF` instead of `/etc/containers/containers.conf`, so the host's own settings stay as
they are.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence

from asg_lab import paths
from asg_lab.errors import LabError

TIMEOUT_SECONDS = 60.0  # the slowest podman call seen on a busy two-core host took 9 s


def run(
    arguments: Sequence[str],
    *,
    input_text: str | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Standard output of a program. Raises LabError with its last words when it fails and `check` is set."""
    settings = {"CONTAINERS_CONF": str(paths.containers_conf()), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            list(arguments),
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env=os.environ | settings | dict(environment or {}),
            check=False,
            cwd="/",
        )
    except FileNotFoundError as error:
        raise LabError(f"{arguments[0]} is not installed; run lab/install-host") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(arguments[:3])} did not end within {timeout_seconds:g} s") from error
    if check and done.returncode != 0:
        last_words = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise LabError(f"{' '.join(arguments[:3])} ended with {done.returncode}: {last_words}")
    return done.stdout


def podman(*arguments: str, timeout_seconds: float = TIMEOUT_SECONDS, check: bool = True) -> str:
    """Standard output of a podman command."""
    return run(["podman", *arguments], timeout_seconds=timeout_seconds, check=check)
