"""What is broken on purpose: faults of the API, told here; those of machines are only listed here.

A fault of the API ends by itself after a number of calls or seconds. Faults that hold are cleared by their id.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can be broken."""

    KILL = "kill"
    FREEZE = "freeze"
    CUT = "cut"
    STATUS_CHECK = "status-check"
    THROTTLE = "throttle"
    DELAY = "delay"
    LOST_ANSWER = "lost-answer"
    ERROR = "error"
    LAG = "lag"
    CAPACITY = "capacity"


ANY_ACTION = "*"


@dataclass(slots=True)
class Fault:
    """One active fault; which fields count depends on its kind."""

    id: str
    kind: Kind
    instance_id: str | None = None
    action: str | None = None
    seconds: float | None = None  # the length of a delay or lag
    error_code: str | None = None
    zone: str | None = None
    instance_type: str | None = None
    limit: int = 0  # capacity: how many instances may live there
    calls_left: int | None = None
    until_unix: float | None = None
    undo: Callable[[], None] | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """The fault for `lab fault list`."""
        shown = {name: value for name, value in asdict_without_undo(self).items() if value is not None}
        if self.kind is not Kind.CAPACITY:
            shown.pop("limit")
        return shown


def asdict_without_undo(fault: Fault) -> dict[str, Any]:
    """The fault's fields; a callable cannot be copied or sent."""
    undo, fault.undo = fault.undo, None
    try:
        shown = asdict(fault)
    finally:
        fault.undo = undo
    shown.pop("undo")
    return shown


class Faults:
    """The active faults of a lab; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._active: dict[str, Fault] = {}

    def add(self, kind: Kind, **what: Any) -> Fault:
        """Make a fault active."""
        with self._lock:
            fault = Fault(id=f"f{next(self._ids)}", kind=kind, **what)
            self._active[fault.id] = fault
            return fault

    def active(self) -> list[Fault]:
        """Faults that hold now, oldest first."""
        now = self._clock()
        with self._lock:
            for fault in list(self._active.values()):
                if fault.until_unix is not None and fault.until_unix <= now:
                    del self._active[fault.id]
            return list(self._active.values())

    def take(self, action: str) -> list[Fault]:
        """The faults that meet one call of an action; each counted one is used up by one."""
        met = [
            fault
            for fault in self.active()
            if fault.kind in (Kind.THROTTLE, Kind.DELAY, Kind.LOST_ANSWER, Kind.ERROR)
            and fault.action in (action, ANY_ACTION)
        ]
        with self._lock:
            for fault in met:
                if fault.calls_left is not None:
                    fault.calls_left -= 1
                    if fault.calls_left <= 0:
                        self._active.pop(fault.id, None)
        return met

    def lag_seconds(self) -> float:
        """How old the answers of Describe calls are."""
        return max((fault.seconds or 0.0 for fault in self.active() if fault.kind is Kind.LAG), default=0.0)

    def capacity_limit(self, zone: str, instance_type: str) -> int | None:
        """How many instances of a type may live in a zone; None without such a fault."""
        limits = [
            fault.limit
            for fault in self.active()
            if fault.kind is Kind.CAPACITY
            and fault.zone in (None, zone)
            and fault.instance_type in (None, instance_type)
        ]
        return min(limits, default=None)

    def clear(self, fault_id: str | None = None) -> list[Fault]:
        """End one fault, or all; the caller calls each one's `undo`."""
        with self._lock:
            if fault_id is None:
                ended = list(self._active.values())
                self._active.clear()
            else:
                ended = [fault for fault in [self._active.pop(fault_id, None)] if fault]
        return ended

    def forget_instance(self, instance_id: str, kind: Kind | None = None) -> list[Fault]:
        """End the faults of an instance: it is gone, or one of them was undone by hand."""
        with self._lock:
            ended = [
                fault
                for fault in self._active.values()
                if fault.instance_id == instance_id and kind in (None, fault.kind)
            ]
            for fault in ended:
                del self._active[fault.id]
        return ended
