"""Reads the machine's load from /proc, once an interval, without drift.

Read it as text and not through psutil or os.getloadavg(): a container with its own view of /proc (lxcfs) answers for
itself there, while the system calls answer for its host. Files stay open and are read from their start again, which
costs half of opening them each time (3 to 6 µs a file; lxcfs renews its answer at offset 0 too, tried).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from monitor_agent.latest import Latest
from monitor_agent.reading import MachineReading

FIRST_INTERVAL_SECONDS = (
    0.25  # the second reading, the first with cpu_percent, comes early: an instance waits for it
)
READ_BYTES = 65536  # a page of /proc/stat on a machine of 192 CPUs has 20 KB up to its interrupt counts
REOPEN_READS = (
    60  # a file that is absent or was mounted over (pressure in a container) is seen after this many
)


class ProcFile:
    """The text of a file that is read often; None while it can't be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._reads = 0

    def read(self) -> str | None:
        if self._reads % REOPEN_READS == 0:
            self.close()
        try:
            if self._descriptor is None:
                if self._reads % REOPEN_READS != 0:
                    return None
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptor, READ_BYTES, 0).decode("ascii", "replace")
        except OSError:
            self.close()
            return None
        finally:
            self._reads += 1

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ProcReader:
    """Makes a MachineReading of the machine below `proc`, and of the file system that holds `root`."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        root: Path = Path("/"),
        monotonic: Callable[[], float] = time.monotonic,
        unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._monotonic, self._unix_ms, self._root = monotonic, unix_ms, root
        self._stat = ProcFile(proc / "stat")
        self._loadavg = ProcFile(proc / "loadavg")
        self._meminfo = ProcFile(proc / "meminfo")
        self._network = ProcFile(proc / "net/dev")
        self._pressure = {name: ProcFile(proc / "pressure" / name) for name in ("cpu", "memory", "io")}
        self._ticks: tuple[int, ...] | None = None
        self._bytes: tuple[float, int, int] | None = None  # when, in, out

    def read(self) -> MachineReading:
        """A reading now; what needs two readings (CPU, network) is absent in the first."""
        stat, loadavg = self._stat.read(), self._loadavg.read()
        arrived, left = self._bytes_per_second(self._network.read())
        return MachineReading(
            sampled_unix_ms=self._unix_ms(),
            cpu_percent=self._cpu_percent(stat),
            load1_per_cpu=load1_per_cpu(loadavg, stat),
            run_queue_per_cpu=run_queue_per_cpu(loadavg, stat),
            memory_percent=memory_percent(self._meminfo.read()),
            disk_percent=self._disk_percent(),
            network_in_bytes_per_second=arrived,
            network_out_bytes_per_second=left,
            pressure_cpu_percent=some_avg10(self._pressure["cpu"].read()),
            pressure_memory_percent=some_avg10(self._pressure["memory"].read()),
            pressure_io_percent=some_avg10(self._pressure["io"].read()),
        )

    def close(self) -> None:
        for file in (self._stat, self._loadavg, self._meminfo, self._network, *self._pressure.values()):
            file.close()

    def _cpu_percent(self, stat: str | None) -> float | None:
        before, self._ticks = self._ticks, cpu_ticks(stat)
        if before is None or self._ticks is None or len(before) != len(self._ticks):
            return None
        # Idle and iowait can step back by a tick on a CPU that was taken offline.
        deltas = [max(0, now - then) for then, now in zip(before, self._ticks, strict=True)]
        total = sum(deltas)
        if (
            total == 0
        ):  # as seen right after boot in a container: no time has passed, which is neither idle nor busy
            return None
        return 100.0 * (total - deltas[3] - deltas[4]) / total

    def _bytes_per_second(self, network: str | None) -> tuple[float | None, float | None]:
        now, before = self._monotonic(), self._bytes
        counters = link_bytes(network)
        self._bytes = None if counters is None else (now, *counters)
        if before is None or self._bytes is None or now <= before[0]:
            return None, None
        rates = [(self._bytes[index] - before[index]) / (now - before[0]) for index in (1, 2)]
        # A link that left takes its count along; the sum then steps back and says nothing.
        return (rates[0] if rates[0] >= 0 else None), (rates[1] if rates[1] >= 0 else None)

    def _disk_percent(self) -> float | None:
        try:
            disk = os.statvfs(self._root)
        except OSError:
            return None
        # As df does: what root keeps for itself is neither used nor free to others.
        used = disk.f_blocks - disk.f_bfree
        usable = used + disk.f_bavail
        return 100.0 * used / usable if usable else None


class Sampler:
    """Takes a reading each interval and feeds the watchdog: a stuck reading is what the watchdog is for."""

    def __init__(
        self,
        reader: ProcReader,
        latest: Latest,
        interval_seconds: Callable[[], float],
        *,
        beat: Callable[[], None] = lambda: None,
        beat_seconds: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader, self._latest, self._interval_seconds = reader, latest, interval_seconds
        self._beat, self._beat_seconds, self._monotonic = beat, beat_seconds, monotonic
        self._wake = asyncio.Event()

    def interval_changed(self) -> None:
        """Look at the interval again now, not only when the running one is over."""
        self._wake.set()

    async def run(self) -> None:
        taken_at = self._monotonic()
        try:
            while True:
                self._latest.tick(self._reader.read())
                self._beat()
                taken_at = await self._until_due(taken_at)
        finally:
            self._reader.close()

    async def _until_due(self, taken_at: float) -> float:
        """Sleep to the next due time, and return it: a multiple of the interval after the last, never a bunch."""
        loop = asyncio.get_running_loop()
        while True:
            interval = self._interval_seconds()
            if self._latest.ticks == 1:
                interval = min(interval, FIRST_INTERVAL_SECONDS)
            now = self._monotonic()
            left = taken_at + interval - now
            if left <= 0:
                return taken_at + interval if left > -interval else now
            self._wake.clear()
            timer = loop.call_later(
                left if self._beat_seconds is None else min(left, self._beat_seconds), self._wake.set
            )
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            self._beat()


def cpu_ticks(stat: str | None) -> tuple[int, ...] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of all CPUs; guest time is already in user and nice."""
    if not stat or not stat.startswith("cpu "):
        return None
    with contextlib.suppress(ValueError):
        ticks = tuple(int(field) for field in stat[: stat.find("\n")].split()[1:9])
        if len(ticks) >= 5:
            return ticks
    return None


def load1_per_cpu(loadavg: str | None, stat: str | None) -> float | None:
    """The one-minute load average over the CPUs that /proc/stat lists; os.cpu_count() would be the host's."""
    cpus = (stat or "").count("\ncpu")
    if not loadavg or not cpus:
        return None
    with contextlib.suppress(ValueError, IndexError):
        return float(loadavg.split()[0]) / cpus
    return None


def run_queue_per_cpu(loadavg: str | None, stat: str | None) -> float | None:
    """Threads that run or wait for a CPU now, over the CPUs; the one that reads this is not counted (proc(5), loadavg).

    A busy share ends at 100 %, and says nothing of the demand above it; this goes on.
    """
    cpus = (stat or "").count("\ncpu")
    if not loadavg or not cpus:
        return None
    with contextlib.suppress(ValueError, IndexError):
        return max(0, int(loadavg.split()[3].partition("/")[0]) - 1) / cpus
    return None


def memory_percent(meminfo: str | None) -> float | None:
    """The share of memory that a new program could not get without swapping (MemAvailable, proc(5))."""
    total, available = _kibibytes(meminfo, "MemTotal:"), _kibibytes(meminfo, "MemAvailable:")
    if not total or available is None:
        return None
    return min(100.0, max(0.0, 100.0 * (total - available) / total))


def link_bytes(network: str | None) -> tuple[int, int] | None:
    """Bytes received and sent since boot over all links but lo."""
    if network is None:
        return None
    arrived = left = 0
    for line in network.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) >= 9:
            arrived, left = arrived + int(fields[0]), left + int(fields[8])
    return arrived, left


def some_avg10(pressure: str | None) -> float | None:
    """The share of the last 10 s in which some task waited; None where the kernel does not say (psi=0)."""
    if not pressure or not pressure.startswith("some avg10="):
        return None
    with contextlib.suppress(ValueError):
        return float(pressure[11 : pressure.index(" ", 11)])
    return None


def _kibibytes(meminfo: str | None, key: str) -> int | None:
    if meminfo is None or (start := meminfo.find(key)) < 0:
        return None
    with contextlib.suppress(ValueError, IndexError):
        return int(meminfo[start + len(key) : start + 60].split()[0])
    return None
