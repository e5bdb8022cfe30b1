"""Locks between processes: one for a lab's life, one for changes of the host.

A lab's lock is taken by `lab start` and handed on to the daemon as an open file, so it is held exactly as long as the
lab lives, however it dies. Order: a lab's lock first, then the host's.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from asg_lab import paths


def _open(file_name: str) -> int:
    paths.run_directory().mkdir(mode=0o755, exist_ok=True)
    return os.open(paths.run_directory() / file_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lab_lock(name: str) -> int | None:
    """The file descriptor that holds the lock, or None when the lab lives (or is being started or stopped)."""
    descriptor = _open(f"{name}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    try:  # whoever held it may have removed the file as it went: a lock on that one guards nothing
        current = os.stat(paths.run_directory() / f"{name}.lock").st_ino
    except FileNotFoundError:
        current = 0
    if os.fstat(descriptor).st_ino != current:
        os.close(descriptor)
        return try_lab_lock(name)
    return descriptor


def is_alive(name: str) -> bool:
    """True while someone holds the lab's lock."""
    descriptor = try_lab_lock(name)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def known_labs() -> list[str]:
    """Names of the labs that were started since the host booted."""
    return sorted(lock.stem for lock in paths.run_directory().glob("*.lock") if lock.name != "host.lock")


@contextmanager
def host_lock() -> Iterator[None]:
    """Held while the host is changed or the base image is built; a second lab waits."""
    descriptor = _open("host.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
