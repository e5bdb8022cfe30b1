"""Where the lab keeps things.

`run_directory` is shared by all labs of the host and is gone after a reboot, as are the settings it remembers.
`state_directory` is one lab's; `cache_directory` outlives labs and holds the base image.
"""

import os
from pathlib import Path


def run_directory() -> Path:
    """Locks, sockets, lxcfs and the host's old settings."""
    return Path("/run/controller-asg-lab")


def _xdg(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default)


def state_root() -> Path:
    """The folder that holds a folder for each lab."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "controller-asg-lab"


def state_directory(name: str) -> Path:
    """One lab's folder: lab.json, credentials, log, consoles."""
    return state_root() / name


def cache_directory() -> Path:
    """The base image's archive."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "controller-asg"


def containers_conf() -> Path:
    """podman's settings for the lab."""
    return run_directory() / "containers.conf"


def lxcfs_mount() -> Path:
    """The lab's own lxcfs. Debian's service uses /var/lib/lxcfs, without the options the lab needs."""
    return run_directory() / "lxcfs"


def control_socket(name: str) -> Path:
    """A lab's control socket. Here and not in the state folder: a socket's path may have 108 characters."""
    return run_directory() / f"{name}.sock"
