"""Where leases come from beside the HTTP route: files of a directory, a command, and connections to certain ports.

A source that can't be asked holds its last word, or a lease of its own before it has said one, and is told as a fault:
a broken check must not look like idleness.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from monitor_agent.busy import Busy, Lease, one_line
from monitor_agent.command import run_command
from monitor_agent.lease_files import FILES, LeaseFiles, WallClock
from monitor_agent.settings import Settings

LOOK_SECONDS = 1.0  # at the directory: 10 files take 50 microseconds (measured)
COUNT_SECONDS = 5.0  # of connections: 10,000 of them take 4 ms to read (measured)
FIRST_ANSWER_SECONDS = 10.0  # no sample is sent before the leases are known, so not for ever
OUTPUT_BYTES = 4096
ESTABLISHED = b"01"  # TCP_ESTABLISHED in the kernel's include/net/tcp_states.h

COMMAND, CONNECTIONS = "command", "connections"

Said = tuple[Iterable[Lease], str]  # the leases, and what is wrong all the same


class _NoAnswerError(Exception):
    """The source could not be asked, and why."""


class BusySources:
    """Asks the sources that the settings name, each at its own interval."""

    def __init__(
        self,
        settings: Settings,
        busy: Busy,
        clock: WallClock,
        proc: Path = Path("/proc"),
        before: "BusySources | None" = None,
        first_answer_seconds: float = FIRST_ANSWER_SECONDS,
    ) -> None:
        """`before` are those that these follow at a reload."""
        self._settings, self._busy, self._proc = settings, busy, proc
        self._first_answer_seconds = first_answer_seconds
        self._files: LeaseFiles
        if before is not None and before._files.directory == settings.busy_directory:
            self._files = before._files  # with the ends of those that were read
        else:
            self._files = LeaseFiles(settings.busy_directory, clock)
        # By name: how often it is asked, in seconds, and how.
        self._sources: dict[str, tuple[float, Callable[[], Awaitable[Said]]]] = {
            FILES: (LOOK_SECONDS, self._look)
        }
        if settings.busy_command:
            self._sources[COMMAND] = settings.busy_command_interval_seconds, self._ask
        if settings.busy_connection_ports:
            self._sources[CONNECTIONS] = COUNT_SECONDS, self._count
        # One at a time asks a source, or an older answer could take the place of a newer one.
        self._turns = {source: asyncio.Lock() for source in self._sources}
        self._is_over = False

    async def run(self) -> None:
        self._busy.expect(self._sources)
        late = asyncio.get_running_loop().call_later(self._first_answer_seconds, self._wait_no_longer)
        try:
            async with asyncio.TaskGroup() as tasks:
                for source in self._sources:
                    tasks.create_task(self._repeat(source), name=f"busy:{source}")
        finally:
            late.cancel()

    def close(self) -> None:
        """Others follow: what these still hear is not told any more."""
        self._is_over = True

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
        async with self._turns[source]:
            try:
                leases, fault = await ask()
            except OSError as error:
                self._failed(source, f"{error.filename or source}: {error.strerror}")
            except _NoAnswerError as error:
                self._failed(source, str(error))
            else:
                if not self._is_over:
                    self._busy.set(source, leases, fault)

    def _wait_no_longer(self) -> None:
        if not self._is_over:
            self._busy.wait_no_longer()

    def _failed(self, source: str, fault: str) -> None:
        if not self._is_over:
            self._busy.failed(source, fault)

    async def _look(self) -> Said:
        return self._files.read()

    async def _ask(self) -> Said:
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
                return [Lease(COMMAND, said or "the busy command says so")], ""
            case 1:
                return (), ""
            case None:
                raise _NoAnswerError(f"{settings.busy_command[0]}: killed after {limit:g} s")
            case code:
                raise _NoAnswerError(
                    f"{settings.busy_command[0]}: exit code {code} is neither 0, busy, nor 1, idle"
                )

    async def _count(self) -> Said:
        ports, above = self._settings.busy_connection_ports, self._settings.busy_connections_above
        reason = f"more than {above} connections to port {', '.join(map(str, ports))}"
        is_busy = established(self._proc, ports) > above
        # Without the count, which changes all the time: each change is a message to the controller.
        return [Lease(CONNECTIONS, reason)] if is_busy else (), ""


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
