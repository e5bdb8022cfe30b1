"""The machines of a lab: what is known of each, and the few threads that boot and end them.

Work on one machine is done in order (a terminate waits for the boot it meets), work on different ones side by side. The
pool tells `on_state` each change and never touches moto itself, so it may be called with moto's lock held.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

from asg_lab import machine
from asg_lab.exit_watch import ExitWatch
from asg_lab.machine import MachineSpec
from asg_lab.records import Records

log = logging.getLogger(__name__)

WORKERS = 4  # boots are bound by CPU: more threads made 20 boots slower on two cores


class State(StrEnum):
    """EC2's instance states."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"


class Check(StrEnum):
    """EC2's status of an instance's checks."""

    INITIALIZING = "initializing"
    OK = "ok"
    IMPAIRED = "impaired"


@dataclass(slots=True, eq=False)
class Machine:
    """What is known of one machine; written by the pool, the prober and the faults."""

    spec: MachineSpec
    cpus_after_boot: float | None  # None: keeps what it boots with
    launched_at: float
    pid: int | None = None
    ending: bool = False  # we are stopping it, so its exit is no news
    frozen: bool = False
    is_cut: bool = False
    forced_impaired: bool = False
    check: Check = Check.INITIALIZING
    failed_probes: int = 0
    seen: set[str] = field(default_factory=set)  # moments of this boot: imds, sshd, booted
    work: threading.Lock = field(default_factory=threading.Lock)

    @property
    def status(self) -> Check:
        """The status checks' outcome, a `status-check` fault included."""
        return Check.IMPAIRED if self.forced_impaired else self.check


# instance id, its new state, and EC2's code and words for the reason
OnState = Callable[[str, State, str, str], None]


class MachinePool:
    """Boots, stops and removes machines in the background."""

    def __init__(self, records: Records, host_options: list[str], on_state: OnState) -> None:
        self.records = records
        self._host_options = host_options
        self._on_state = on_state
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="machine")
        self._exits = ExitWatch()
        self._exits.start()
        self._lock = threading.Lock()
        self._by_id: dict[str, Machine] = {}
        self._by_address: dict[str, Machine] = {}

    def get(self, instance_id: str) -> Machine | None:
        """The machine of an instance; None once it is terminated."""
        with self._lock:
            return self._by_id.get(instance_id)

    def at(self, address: str) -> Machine | None:
        """The machine that has an address now."""
        with self._lock:
            return self._by_address.get(address)

    def all(self) -> list[Machine]:
        """Every machine that has a disk."""
        with self._lock:
            return list(self._by_id.values())

    def launch(self, spec: MachineSpec, cpus_after_boot: float | None) -> None:
        """Boot a new machine: pending until podman has started it."""
        new = Machine(spec, cpus_after_boot, launched_at=time.time())
        with self._lock:
            self._by_id[spec.instance_id] = new
            self._by_address[spec.address] = new
        self.records.event(spec.instance_id, "run")
        self._submit(new, self._launch)

    def start(self, instance_id: str) -> None:
        """Boot a stopped machine."""
        self._submit(self._by_id[instance_id], self._start)

    def stop(self, instance_id: str) -> None:
        """Shut a machine down; its disk and address stay."""
        self._submit(self._by_id[instance_id], self._stop)

    def reboot(self, instance_id: str) -> None:
        """Shut a machine down and boot it; EC2 says running all the while."""
        self._submit(self._by_id[instance_id], self._reboot)

    def terminate(self, instance_id: str) -> None:
        """Remove a machine and its disk."""
        self._submit(self._by_id[instance_id], self._terminate)

    def background(self, what: str, job: Callable[[], object]) -> None:
        """Do something else (commit an image) among the boots."""

        def guarded() -> None:
            try:
                job()
            except Exception:
                log.exception("failed: %s", what)

        self._workers.submit(guarded)

    def mark(self, known: Machine, moment: str) -> bool:
        """Note the first time in this boot that something was seen; True when this was it."""
        if moment in known.seen:
            return False
        known.seen.add(moment)
        self.records.event(known.spec.instance_id, moment)
        if moment in ("imds", "sshd") and not {"imds", "sshd"} <= known.seen and known.pid:
            # systemd runs by now, and no agent yet: the earliest moment for the machine's own pressure files.
            pid = known.pid
            self.background("pressure", lambda: machine.show_own_pressure(pid))
        return True

    def limit_cpus(self, known: Machine) -> None:
        """Give a booted machine its lasting share of a CPU, as a T2 has when its launch credits are spent."""
        cpus = known.cpus_after_boot
        if cpus is not None and cpus != machine.BOOT_CPUS:
            self.background("cpus", lambda: machine.limit_cpus(known.spec.container, cpus))

    def close(self) -> None:
        """Start nothing more."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _submit(self, known: Machine, job: Callable[[Machine], None]) -> None:
        def in_order() -> None:
            with known.work:
                try:
                    job(known)
                except Exception as error:
                    log.exception("%s: %s failed", known.spec.instance_id, job.__name__)
                    self._failed(known, str(error))

        self._workers.submit(in_order)

    def _failed(self, known: Machine, why: str) -> None:
        """EC2 terminates an instance that it cannot start, with a reason."""
        machine.remove(known.spec.container)
        self._gone(known, "Server.InternalError", f"Server.InternalError: {why[-200:]}")

    def _running(self, known: Machine, pid: int) -> None:
        known.pid, known.ending, known.frozen = pid, False, False
        known.check, known.failed_probes = Check.INITIALIZING, 0
        known.seen.clear()
        self._say(known, State.RUNNING)
        self._exits.add(pid, lambda: self._exited(known, pid))

    def _launch(self, known: Machine) -> None:
        self._running(known, machine.create_and_boot(known.spec, self._host_options))

    def _start(self, known: Machine) -> None:
        self._running(known, machine.start(known.spec.container, known.spec.folder))

    def _stop(self, known: Machine) -> None:
        self._end(known)
        self._say(known, State.STOPPED, "Client.UserInitiatedShutdown", "User initiated shutdown")

    def _reboot(self, known: Machine) -> None:
        self._end(known)
        self._start(known)

    def _end(self, known: Machine) -> None:
        known.ending = True
        if known.frozen:
            machine.kill(known.spec.container)
            known.frozen = False
        machine.stop(known.spec.container)
        known.pid = None

    def _terminate(self, known: Machine) -> None:
        known.ending = True
        machine.remove(known.spec.container)
        self._gone(known, "Client.UserInitiatedShutdown", "User initiated shutdown")

    def _gone(self, known: Machine, code: str, why: str) -> None:
        """Only now may the address be given to another machine."""
        with self._lock:
            self._by_id.pop(known.spec.instance_id, None)
            if self._by_address.get(known.spec.address) is known:
                del self._by_address[known.spec.address]
        known.pid, known.frozen = None, False
        self._say(known, State.TERMINATED, code, why)

    def _exited(self, known: Machine, pid: int) -> None:
        if not known.ending and known.pid == pid:
            self._submit(known, self._ended_by_itself)

    def _ended_by_itself(self, known: Machine) -> None:
        """The machine powered off, rebooted, crashed or was killed."""
        if known.ending or known.pid is None:
            return
        known.pid, known.frozen = None, False
        code = machine.exit_code(known.spec.container)
        if code == machine.KILLED:
            self._say(known, State.STOPPED, "Server.InternalError", "The machine was killed")
        elif "reboot.target" in machine.console(known.spec.folder)[-4000:]:
            self._start(known)
        else:
            self._say(known, State.STOPPED, "Client.InstanceInitiatedShutdown", "Instance initiated shutdown")

    def _say(self, known: Machine, state: State, code: str = "", why: str = "") -> None:
        self.records.event(known.spec.instance_id, state.value, why)
        self._on_state(known.spec.instance_id, state, code, f"{code}: {why}" if code else "")
