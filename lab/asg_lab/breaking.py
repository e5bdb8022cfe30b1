"""Breaking things on purpose: what `lab fault …` asks of the daemon."""

import time
from collections.abc import Callable
from typing import Any

from asg_lab import machine, network
from asg_lab.errors import LabError
from asg_lab.faults import Fault, Kind
from asg_lab.pool import Machine
from asg_lab.world import World


class Breaker:
    """Makes faults, on machines and on the API, and takes them back."""

    def __init__(self, world: World) -> None:
        self._world = world

    def find(self, instance: str) -> Machine:
        """A machine by id (or the beginning of one), name tag, address or container."""
        with self._world.lock:
            names = {
                each.id: next((tag["value"] for tag in each.get_tags() if tag["key"] == "Name"), None)
                for each in self._world.instances()
            }
        machines = self._world.pool.all()
        found = [
            known
            for known in machines
            if instance
            in (
                known.spec.instance_id,
                known.spec.address,
                known.spec.container,
                names.get(known.spec.instance_id),
            )
        ] or [known for known in machines if known.spec.instance_id.startswith(instance)]
        if len(found) != 1:
            raise LabError(f"{instance}: {'no' if not found else len(found)} such machine; see lab status")
        return found[0]

    def add(self, kind: str, instance: str | None = None, **what: Any) -> dict[str, Any]:
        """Make a fault and describe it."""
        on_machine: dict[str, Callable[[Machine], Fault]] = {
            Kind.KILL: self._kill,
            Kind.FREEZE: self._freeze,
            Kind.CUT: self._cut,
            Kind.STATUS_CHECK: self._fail_check,
        }
        if kind in on_machine:
            if instance is None:
                raise LabError(f"{kind} wants an instance")
            return on_machine[kind](self.find(instance)).describe()
        for_seconds = what.pop("for_seconds", None)
        until = time.time() + for_seconds if for_seconds else None
        fault = self._world.faults.add(Kind(kind), until_unix=until, **what)
        if fault.kind is Kind.LAG:
            with self._world.lock:
                self._world.history.clear()
                self._world.remember()
        return fault.describe()

    def undo(self, kind: str, instance: str) -> list[dict[str, Any]]:
        """Thaw or mend one machine."""
        known = self.find(instance)
        ended = self._world.faults.forget_instance(known.spec.instance_id, Kind(kind))
        if not ended:
            raise LabError(f"{instance} has no such fault; see lab fault list")
        return self._take_back(ended)

    def clear(self, fault_id: str | None = None) -> list[dict[str, Any]]:
        """End one fault, or all."""
        ended = self._world.faults.clear(fault_id)
        if fault_id is not None and not ended:
            raise LabError(f"{fault_id}: no such fault; see lab fault list")
        return self._take_back(ended)

    def _take_back(self, ended: list[Fault]) -> list[dict[str, Any]]:
        for fault in ended:
            if fault.undo is not None:
                fault.undo()
        return [fault.describe() for fault in ended]

    def _kill(self, known: Machine) -> Fault:
        """A one-off: the machine is stopped afterwards, and StartInstances boots it again."""
        machine.kill(known.spec.container)
        return Fault(id="-", kind=Kind.KILL, instance_id=known.spec.instance_id)

    def _freeze(self, known: Machine) -> Fault:
        if known.frozen:
            raise LabError(f"{known.spec.instance_id} is frozen already")
        machine.freeze(known.spec.container)
        known.frozen = True

        def thaw() -> None:
            if known.frozen:
                known.frozen = False
                machine.thaw(known.spec.container)

        return self._world.faults.add(Kind.FREEZE, instance_id=known.spec.instance_id, undo=thaw)

    def _cut(self, known: Machine) -> Fault:
        if known.is_cut:
            raise LabError(f"{known.spec.instance_id} is cut off already")
        network.cut(self._world.name, known.spec.address)
        known.is_cut = True

        def mend() -> None:
            known.is_cut = False
            network.cut(self._world.name, known.spec.address, mend=True)

        return self._world.faults.add(Kind.CUT, instance_id=known.spec.instance_id, undo=mend)

    def _fail_check(self, known: Machine) -> Fault:
        known.forced_impaired = True

        def pass_again() -> None:
            known.forced_impaired = False

        return self._world.faults.add(Kind.STATUS_CHECK, instance_id=known.spec.instance_id, undo=pass_again)
