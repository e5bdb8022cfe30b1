"""The leases of a directory's files, and the clock by which their age is told.

A file that is there but can't be understood, named or read for their number holds a lease without an end: a broken
check must not look like idleness.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from monitor_agent.busy import MAX_LEASE_SECONDS, Lease, one_line
from monitor_agent.log import EventLog
from monitor_agent.memory import Memory

FILES = "files"  # the source's name, and the owner of what has no name of its own
CLOCK_FILE_NAME = "clock.json"  # in the state directory
MAX_FILES = 256  # that hold a lease; 32 of them are told
MAX_LOOKED_AT = 4096  # those whose lease has ended included; each costs a few microseconds a second
FILE_BYTES = 4096
STEP_SECONDS = 2.0  # a leap second is no step; slewing moves both clocks
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

log = EventLog(__name__)


class WallClock:
    """Tells how old a file is, while the clock was not stepped since the agent's first start after boot."""

    def __init__(
        self,
        memory: Memory,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self.monotonic = wall, monotonic
        self._apart_seconds = self._first_apart(memory)

    def age(self, unix_seconds: float) -> float | None:
        """In seconds; None when it can't be told."""
        now = self._wall()
        is_stepped = abs(now - self.monotonic() - self._apart_seconds) > STEP_SECONDS
        return None if is_stepped else now - unix_seconds

    def _first_apart(self, memory: Memory) -> float:
        apart = self._wall() - self.monotonic()
        try:
            kept = memory.read().get("apart_seconds")
            if isinstance(kept, float):
                return kept
            memory.keep({"apart_seconds": apart})
        except (OSError, ValueError) as error:
            log.warning("clock_not_remembered", reason=f"{memory.path()}: {error}")
        return apart


class LeaseFiles:
    """The leases of a directory. A file is read again only when it was written anew, so its lease's end stays."""

    def __init__(self, directory: Path, clock: WallClock) -> None:
        self.directory, self._clock = directory, clock
        self._read: dict[str, tuple[tuple[int, ...], Lease, str]] = {}  # by name: (version, lease, fault)

    def read(self) -> tuple[list[Lease], str]:
        """The leases, and the first thing that is wrong. A missing directory holds none. Raises OSError.

        Names that begin with a dot are passed over, so that a writer may prepare a file and rename it.
        """
        try:
            with os.scandir(self.directory) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except FileNotFoundError:
            names = []
        found: dict[str, tuple[tuple[int, ...], Lease, str]] = {}
        leases: list[Lease] = []
        faults: list[str] = []
        has_more, has_unnamed, now = len(names) > MAX_LOOKED_AT, False, self._clock.monotonic()
        for name in names[:MAX_LOOKED_AT]:
            if not _OWNER.fullmatch(name):
                faults.append(f"{self.directory}/{name}: name it by 1 to 64 letters, digits and . _ @ -")
                has_unnamed = True
                continue
            if len(leases) == MAX_FILES:
                has_more = True
                break
            try:
                found[name] = self._lease(name)
            except FileNotFoundError:
                continue  # gone between the two looks
            _, lease, fault = found[name]
            if fault:
                faults.append(f"{self.directory}/{name}: {fault}")
            if lease.ends_at is None or lease.ends_at > now:
                leases.append(lease)
        if has_more:
            faults.append(
                f"{self.directory}: only {MAX_FILES} leases of {len(names)} files are read; remove old ones"
            )
        if has_more or has_unnamed:
            leases.append(
                Lease(FILES, "more files than are read" if has_more else "a file that is not well named")
            )
        self._read = found
        return leases, faults[0] if faults else ""

    def _lease(self, name: str) -> tuple[tuple[int, ...], Lease, str]:
        path = self.directory / name
        status = os.lstat(path)
        version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        known = self._read.get(name)
        if known is not None and known[0] == version:
            return known
        try:
            text = _text(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            return (
                version,
                Lease(name, "its file can't be read"),
                f"{error.strerror}; make it readable to all",
            )
        reason, _, second = text.partition("\n")
        seconds, fault = _seconds(second.partition("\n")[0])
        ends_at = None
        if seconds is not None:
            # One from the future, or of an age that can't be told, holds as long as one written now.
            age = self._clock.age(status.st_mtime) or 0.0
            ends_at = self._clock.monotonic() + seconds - max(age, 0.0)
        return version, Lease(name, one_line(reason) or "its file is there", ends_at), fault


def _text(path: Path) -> str:
    # Neither a FIFO that nobody writes nor a link may hold the agent.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.read(file, FILE_BYTES).decode("utf-8", "replace")
    finally:
        os.close(file)


def _seconds(line: str) -> tuple[float | None, str]:
    """`seconds: 600`: how long the lease is held after the file was written; and what is wrong with the line."""
    if not line.strip():
        return None, ""
    match = re.fullmatch(r"\s*seconds:\s*(\d{1,7}(?:\.\d{1,3})?)\s*", line, re.ASCII)
    if match is None or not 0 < float(match[1]) <= MAX_LEASE_SECONDS:
        return None, f"its second line is not `seconds: N`, N above 0, at most {MAX_LEASE_SECONDS:g}"
    return float(match[1]), ""
