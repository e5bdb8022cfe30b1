"""The status checks: does each machine still answer?

It reads sshd's banner, for a frozen machine still accepts TCP. `initializing` until the first banner of a boot, then
`ok`; `impaired` after two misses in a row. It also sees the end of a boot, and has the CPU limited then.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from asg_lab import machine
from asg_lab.pool import Check, Machine, MachinePool

log = logging.getLogger(__name__)

BOOTING_SECONDS = 0.25  # between two looks at a machine that boots
MISSED_SECONDS = 0.5  # and at one that just missed
ANSWER_SECONDS = 1.5  # a banner came within 1 s even from a machine at 0.25 CPU under full load
MISSES = 2


class Prober:
    """Looks at every running machine, each at its own pace."""

    def __init__(self, pool: MachinePool, probe_seconds: float) -> None:
        self._pool = pool
        self._probe_seconds = probe_seconds
        self._next_at: dict[str, float] = {}
        self._housekeeping: list[Callable[[], None]] = []

    def also(self, job: Callable[[], None]) -> None:
        """Call `job` about once a second: it must be quick."""
        self._housekeeping.append(job)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=lambda: asyncio.run(self._run()), name="prober", daemon=True).start()

    async def _run(self) -> None:
        due_housekeeping = 0.0
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = time.monotonic()
                known = {each.spec.instance_id: each for each in self._pool.all() if each.pid}
                self._next_at = {key: at for key, at in self._next_at.items() if key in known}
                for instance_id, each in known.items():
                    # mypy infers no type for a lambda with a default.
                    self._guarded(lambda each=each: self._watch_boot(each))  # type: ignore[misc]
                    if self._next_at.get(instance_id, 0.0) <= now:
                        self._next_at[instance_id] = now + 60  # until this look has ended
                        tasks.create_task(self._look(each), name=f"probe:{instance_id}")
                if now >= due_housekeeping:
                    due_housekeeping = now + 1.0
                    for job in self._housekeeping:
                        self._guarded(job)
                await asyncio.sleep(0.1)

    async def _look(self, known: Machine) -> None:
        pid = known.pid
        answered = await _banner(known.spec.address)
        pause = BOOTING_SECONDS
        if pid is not None and known.pid == pid:  # else it rebooted meanwhile
            self._guarded(lambda: self._note(known, answered))
            if known.check is not Check.INITIALIZING:
                pause = MISSED_SECONDS if known.failed_probes else self._probe_seconds
        self._next_at[known.spec.instance_id] = time.monotonic() + pause

    def _note(self, known: Machine, answered: bool) -> None:
        if answered:
            known.failed_probes = 0
            known.check = Check.OK
            self._pool.mark(known, "sshd")
        elif known.check is not Check.INITIALIZING:
            known.failed_probes += 1
            if known.failed_probes >= MISSES:
                known.check = Check.IMPAIRED

    def _watch_boot(self, known: Machine) -> None:
        pid = known.pid
        if pid and "booted" not in known.seen and machine.is_booted(pid):
            self._pool.mark(known, "booted")
            self._pool.limit_cpus(known)

    def _guarded(self, job: Callable[[], None]) -> None:
        """A bug in one look must not end the looking."""
        try:
            job()
        except Exception:
            log.exception("the prober's job failed")


async def _banner(address: str) -> bool:
    writer = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(address, 22)
            return (await reader.read(4)) == b"SSH-"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
