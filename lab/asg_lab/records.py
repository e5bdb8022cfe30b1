"""What the lab remembers of the past: API calls received, and moments in the lives of its instances.

Both are bounded and drop their oldest entries. Times are Unix seconds, since they are compared with other programs'.
"""

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

CALLS_KEPT = 20_000
EVENTS_KEPT = 20_000


@dataclass(slots=True)
class Call:
    """One request to the API."""

    at: float  # when its head and body had arrived
    action: str
    source: str  # the caller's address
    client_token: str | None = None
    count: int | None = None  # MaxCount of RunInstances, or how many ids were named
    status: int | None = None  # the HTTP status; None until answered, or when the answer was lost
    error_code: str | None = None
    fault: str | None = None  # the kind of injected fault that met it
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of an instance: run, running, imds, sshd, booted, stopped, …"""

    at: float
    instance_id: str
    event: str
    detail: str = ""


class Records:
    """The call log and the event log of a lab; safe to use from any thread."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._lock = threading.Lock()

    def call(self, call: Call) -> None:
        """Keep a call; it may be completed later."""
        with self._lock:
            self._calls.append(call)

    def event(self, instance_id: str, event: str, detail: str = "") -> None:
        """Keep a moment: now."""
        with self._lock:
            self._events.append(Event(time.time(), instance_id, event, detail))

    def calls_since(self, unix_seconds: float) -> list[dict[str, Any]]:
        """Calls that arrived at or after a time, oldest first."""
        with self._lock:
            return [asdict(call) for call in self._calls if call.at >= unix_seconds]

    def events_since(self, unix_seconds: float) -> list[dict[str, Any]]:
        """Moments at or after a time, oldest first."""
        with self._lock:
            return [asdict(event) for event in self._events if event.at >= unix_seconds]
