"""Where leases come from beside the HTTP route: files of a directory, a command, and connections to certain ports.

A source that can't be asked holds its last word and is told as a fault: a broken check must not look like idleness. A
lease file that is there but can't be understood holds a lease without an end, for the same reason.
"""

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from monitor_agent.busy import MAX_LEASE_SECONDS, Busy, Lease, one_line
from monitor_agent.command import run_command
from monitor_agent.settings import Settings

LOOK_SECONDS = 1.0  # at the directory: 10 files take 50 microseconds (measured)
COUNT_SECONDS = 5.0  # of connections: 10,000 of them take 4 ms to read (measured)
MAX_FILES = 256
FILE_BYTES, OUTPUT_BYTES = 4096, 4096
ESTABLISHED = b"01"  # TCP_ESTABLISHED in the kernel's include/net/tcp_states.h

FILES, COMMAND, CONNECTIONS = "files", "command", "connections"
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class BusySources:
    """Asks the sources that the settings name, each at its own interval."""

    def __init__(self, settings: Settings, busy: Busy, proc: Path = Path("/proc")) -> None:
        self._settings, self._busy, self._proc = settings, busy, proc
        self._files = LeaseFiles(settings.busy_directory)
        # By name: how often it is asked, in seconds, and how.
        self._sources: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            FILES: (LOOK_SECONDS, self._look)
        }
        if settings.busy_command:
            self._sources[COMMAND] = settings.busy_command_interval_seconds, self._ask
        if settings.busy_connection_ports:
            self._sources[CONNECTIONS] = COUNT_SECONDS, self._count

    async def run(self) -> None:
        self._busy.expect(self._sources)
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources:
                tasks.create_task(self._repeat(source), name=f"busy:{source}")

    async def look_again(self) -> None:
        """Ask each of them once, out of turn."""
        await asyncio.gather(*map(self._once, self._sources))

    async def _repeat(self, source: str) -> None:
        loop = asyncio.get_running_loop()
        due, (interval_seconds, _) = loop.time(), self._sources[source]
        while True:
            await self._once(source)
            due = max(due + interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _once(self, source: str) -> None:
        _, ask = self._sources[source]
        try:
            await ask()
        except OSError as error:
            self._busy.failed(source, f"{error.filename or source}: {error.strerror}")

    async def _look(self) -> None:
        self._busy.set(FILES, *self._files.read())

    async def _ask(self) -> None:
        settings = self._settings
        limit = settings.busy_command_timeout_seconds
        outcome = await run_command(
            settings.busy_command,
            timeout_seconds=limit,
            directory=settings.state_dir,
            keep_bytes=OUTPUT_BYTES,
            merge_errors=False,
        )
        match outcome.exit_code:
            case 0:
                said = one_line(outcome.output.decode("utf-8", "replace").partition("\n")[0])
                self._busy.set(COMMAND, [Lease(COMMAND, said or "the busy command says so")])
            case 1:
                self._busy.set(COMMAND, ())
            case None:
                self._busy.failed(COMMAND, f"{settings.busy_command[0]}: killed after {limit:g} s")
            case code:
                self._busy.failed(
                    COMMAND, f"{settings.busy_command[0]}: exit code {code} is neither 0, busy, nor 1, idle"
                )

    async def _count(self) -> None:
        ports, above = self._settings.busy_connection_ports, self._settings.busy_connections_above
        reason = f"more than {above} connections to port {', '.join(map(str, ports))}"
        is_busy = established(self._proc, ports) > above
        # Without the count, which changes all the time: each change is a message to the controller.
        self._busy.set(CONNECTIONS, [Lease(CONNECTIONS, reason)] if is_busy else ())


class LeaseFiles:
    """The leases of a directory. A file is read again only when it was written anew, so its lease's end stays."""

    def __init__(
        self,
        directory: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._wall, self._monotonic = directory, wall, monotonic
        self._read: dict[str, tuple[tuple[int, ...], Lease, str]] = {}  # by name: (version, lease, fault)

    def read(self) -> tuple[list[Lease], str]:
        """The leases, and the first thing that is wrong. A missing directory holds none. Raises OSError.

        Names that begin with a dot are passed over, so that a writer may prepare a file and rename it.
        """
        try:
            with os.scandir(self._directory) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except FileNotFoundError:
            names = []
        faults = []
        if len(names) > MAX_FILES:
            faults.append(f"{self._directory}: {len(names)} files; only {MAX_FILES} are read")
        found = {}
        for name in names[:MAX_FILES]:
            if not _OWNER.fullmatch(name):
                faults.append(f"{self._directory}/{name}: name it by 1 to 64 letters, digits and . _ @ -")
                continue
            try:
                found[name] = self._lease(name)
            except FileNotFoundError:
                continue  # gone between the two looks
            if found[name][2]:
                faults.append(f"{self._directory}/{name}: {found[name][2]}")
        self._read = found
        return [lease for _, lease, _ in found.values()], faults[0] if faults else ""

    def _lease(self, name: str) -> tuple[tuple[int, ...], Lease, str]:
        path = self._directory / name
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
            # A file from the future (a clock that was set back) holds no longer than one written now.
            left = min(status.st_mtime + seconds - self._wall(), seconds)
            ends_at = self._monotonic() + left
        return version, Lease(name, one_line(reason) or "its file is there", ends_at), fault


def established(proc: Path, ports: Collection[int]) -> int:
    """Established TCP connections to these local ports, of both IP versions. Raises OSError.

    Only of the network namespace that the agent runs in: a container's own are not among them.
    """
    wanted = {b"%04X" % port for port in ports}
    count = 0
    for name in ("tcp", "tcp6"):
        try:
            with (proc / "net" / name).open("rb") as lines:
                count += sum(_is_established(line, wanted) for line in lines)
        except FileNotFoundError:
            if name == "tcp":
                raise  # tcp6 is absent where IPv6 is switched off
    return count


def _is_established(line: bytes, ports: Iterable[bytes]) -> bool:
    """`   0: 0100007F:0050 0200007F:C350 01 …`: number, local address, remote address, state (proc_net_tcp.rst)."""
    words = line.split(None, 4)
    return len(words) > 3 and words[3] == ESTABLISHED and words[1][-4:] in ports


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
