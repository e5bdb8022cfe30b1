"""moto's EC2 and the machines behind it: one lock, the state changes, and the way from an instance to its machine.

moto is not thread-safe though its server is threaded, so whatever reads or changes it holds `World.lock`. Nothing that
blocks (podman, sockets) is called under it.
"""

import copy
import ipaddress
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asg_lab.faults import Faults, Kind
from asg_lab.lag import History
from asg_lab.machine import MachineSpec
from asg_lab.network import Network
from asg_lab.pool import Check, MachinePool, State
from asg_lab.records import Records
from asg_lab.state import Credentials, Options

log = logging.getLogger(__name__)

STATE_CODES = {
    State.PENDING: 0,
    State.RUNNING: 16,
    State.SHUTTING_DOWN: 32,
    State.TERMINATED: 48,
    State.STOPPING: 64,
    State.STOPPED: 80,
}
CPUS_TAG = "lab:cpus"  # an instance tagged so keeps that many CPUs after its boot


@dataclass(frozen=True, slots=True)
class Launched:
    """What a ClientToken was used for."""

    fingerprint: str
    reservation_id: str


@dataclass(eq=False)
class World:
    """One lab's EC2, shared by the API, the metadata service, the control socket and the pool."""

    name: str
    network: Network
    options: Options
    folder: Path
    host_options: list[str]
    host_memory_mib: int
    credentials: Credentials
    images: dict[str, str]  # AMI id to podman's name
    backend: Any = None  # moto's EC2Backend
    moto_terminate: Any = None  # Instance.terminate as moto has it
    records: Records = field(default_factory=Records)
    faults: Faults = field(default_factory=Faults)
    history: History = field(default_factory=History)
    lock: threading.RLock = field(default_factory=threading.RLock)
    tokens: dict[str, Launched] = field(default_factory=dict)
    gone_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = MachinePool(self.records, self.host_options, self.on_state)

    def image_repository(self) -> str:
        """podman's repository for this lab's AMIs."""
        return f"localhost/asg-lab-{self.name}"

    def instances(self) -> list[Any]:
        """moto's instances, terminated ones included."""
        return [each for reservation in self.backend.reservations.values() for each in reservation.instances]

    def find(self, instance_id: str) -> Any:
        """moto's instance, or None."""
        return next((each for each in self.instances() if each.id == instance_id), None)

    def boot(self, instance: Any) -> None:
        """Have the machine of a new instance booted."""
        nic = instance.nics[0]
        tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
        kept_cpus = tags.get(CPUS_TAG)
        spec = MachineSpec(
            lab=self.name,
            instance_id=instance.id,
            image=self.images[instance.image_id],
            network=self.network.name,
            address=nic.private_ip_address,
            mac_address=nic.mac_address,
            memory_mib=min(memory_mib(self.backend, instance.instance_type), self.host_memory_mib),
            folder=self.folder / "machines" / instance.id,
        )
        self.set_state(instance, State.PENDING)
        self.pool.launch(spec, _number(kept_cpus) if kept_cpus else self.options.cpus_after_boot)

    def set_state(self, instance: Any, state: State, code: str = "", why: str = "") -> Any:
        """Change an instance's state; returns the one before, as moto's methods do."""
        before = copy.copy(instance._state)
        instance._state.name, instance._state.code = state.value, STATE_CODES[state]
        instance.state_reason.code, instance.state_reason.message = code, why
        if why:
            instance._reason = why
        self.remember()
        return before

    def on_state(self, instance_id: str, state: State, code: str, why: str) -> None:
        """The pool's report of what became of a machine."""
        with self.lock:
            instance = self.find(instance_id)
            if instance is None:
                return
            leaving = instance._state.name in (State.SHUTTING_DOWN, State.TERMINATED)
            if leaving and state is not State.TERMINATED:
                return  # it was terminated while it booted
            if state is State.STOPPED:
                self.faults.forget_instance(instance_id, Kind.FREEZE)  # nothing is left to thaw
            by_itself = state is State.STOPPED and code == "Client.InstanceInitiatedShutdown"
            if by_itself and instance.instance_initiated_shutdown_behavior == "terminate":
                self.set_state(instance, State.SHUTTING_DOWN, code, why)
                self.pool.terminate(instance_id)
                return
            if state is State.TERMINATED:
                if instance._state.name == State.SHUTTING_DOWN:  # the reason it was asked to go for stands
                    code, why = instance.state_reason.code, instance.state_reason.message
                self._release(instance)
            self.set_state(instance, state, code, why)

    def _release(self, instance: Any) -> None:
        """Drop what a terminated instance holds: volumes, and only now its address."""
        self.moto_terminate(instance)
        for nic in instance.nics.values():
            if nic.id in self.backend.enis:
                nic.delete()
        instance.nics = {}
        self.gone_at[instance.id] = time.time()
        for fault in self.faults.forget_instance(instance.id):
            if fault.undo is not None:
                self.pool.background("undo fault", fault.undo)

    def drop_terminated(self) -> None:
        """Forget instances that ended long ago, as EC2 does after about an hour."""
        before = time.time() - self.options.keep_terminated_seconds
        old = {instance_id for instance_id, at in self.gone_at.items() if at < before}
        if not old:
            return
        with self.lock:
            for key, reservation in list(self.backend.reservations.items()):
                reservation.instances = [each for each in reservation.instances if each.id not in old]
                if not reservation.instances:
                    del self.backend.reservations[key]
            for instance_id in old:
                del self.gone_at[instance_id]
                self.backend.tags.pop(instance_id, None)
            self.remember()

    def remember(self) -> None:
        """Keep the present state for a Describe that lags; free while no such fault is active."""
        lag = self.faults.lag_seconds()
        if lag and self.backend is not None:
            self.history.take(self.backend.reservations.values(), lag, self.check_of)

    def check_of(self, instance_id: str) -> Check:
        """An instance's status check."""
        known = self.pool.get(instance_id)
        return known.status if known else Check.INITIALIZING

    def living(self, zone: str, instance_type: str) -> int:
        """How many instances of a type take capacity in a zone."""
        return sum(
            each._state.name in (State.PENDING, State.RUNNING)
            and each.instance_type == instance_type
            and each.availability_zone == zone
            for each in self.instances()
        )

    def is_own_address(self, address: str) -> bool:
        """True for addresses of the lab's network."""
        return ipaddress.ip_address(address) in ipaddress.ip_network(self.network.cidr)


def memory_mib(backend: Any, instance_type: str) -> int:
    """A type's memory, from moto's copy of EC2's table."""
    described = backend.describe_instance_types([instance_type])
    return int(described[0]["MemoryInfo"]["SizeInMiB"]) if described else 1024


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
