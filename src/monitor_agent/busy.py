"""What the instance says it works on: leases by source, as one list for the session and for GET /busy.

Ends are on the monotonic clock, which is the machine's: it stays the same when the agent restarts, so the leases that
callers of the HTTP route hold are kept in a file that counts until the next boot.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asg.register.v1 import register_pb2
from monitor_agent.faults import Fault, FaultsError
from monitor_agent.log import EventLog
from monitor_agent.memory import Memory

MAX_LEASES = 32  # sent; those that are left out end sooner than every one that is sent
MAX_OWNER_CHARACTERS, MAX_REASON_CHARACTERS = 64, 256
MAX_LEASE_SECONDS = 7 * 86400.0  # work that takes longer renews its lease
HTTP = "http"
FILE_NAME = "busy.json"  # in the state directory

log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """`ends_at` is on the monotonic clock; None: held until it is ended."""

    owner: str
    reason: str
    ends_at: float | None = None
    protect_from_scale_in: bool = False


class DrainingError(Exception):
    """The instance takes no new work."""


class Busy:
    """Sources write here, the session and GET /busy read. `changed` is called when a source says something new."""

    def __init__(
        self,
        changed: Callable[[], None],
        path: Callable[[], Path],
        boot_id: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changed, self._monotonic, self._memory = changed, monotonic, Memory(path, boot_id)
        self._sources: dict[str, tuple[Lease, ...]] = {}
        self._awaited: set[str] = set()
        self._faults: dict[str, str] = {}  # by source
        self._sources[HTTP] = self._stored()

    def expect(self, sources: Iterable[str]) -> None:
        """Exactly these sources may hold leases, beside the HTTP route; what others held is ended."""
        wanted = {*sources, HTTP}
        for source in self._sources.keys() - wanted:
            self.set(source, ())
            del self._sources[source]
        for source in self._faults.keys() - wanted:
            del self._faults[source]
        self._awaited = wanted - self._sources.keys()

    def set(self, source: str, leases: Iterable[Lease], fault: str = "") -> None:
        """All that one source holds now, and what is wrong with it all the same."""
        before, self._sources[source] = self._sources.get(source), tuple(leases)
        self._awaited.discard(source)
        self._tell(source, fault)
        if before != self._sources[source]:
            self._changed()

    def failed(self, source: str, fault: str) -> None:
        """The source could not be asked: it holds what it held, and a lease of its own if it never said what."""
        unknown = (Lease(source, "not known yet"),)
        self.set(source, self._sources.get(source, unknown), fault)

    def wait_no_longer(self) -> None:
        """Sources that have not spoken yet are taken for busy, so that the others are heard."""
        for source in tuple(self._awaited):
            self.failed(source, "has not answered yet")

    def held(self) -> tuple[Lease, ...] | None:
        """The leases to send. None while a source has not spoken yet: silence is not idleness."""
        return None if self._awaited else tuple(lease for _, lease in self._longest())

    def faults(self) -> dict[str, str]:
        return dict(self._faults)

    def document(self, draining: bool) -> dict[str, object]:
        """For GET /busy; `seconds` is how long it is held from now on."""
        now = self._monotonic()
        leases = [
            {
                "source": source,
                "owner": lease.owner,
                "reason": lease.reason,
                "seconds": None if lease.ends_at is None else round(lease.ends_at - now, 3),
                "protect_from_scale_in": lease.protect_from_scale_in,
            }
            for source, lease in self._longest()
        ]
        return {"busy": bool(leases), "draining": draining, "leases": leases, "faults": self.faults()}

    def message(self, leases: Iterable[Lease]) -> register_pb2.Leases:
        now = self._monotonic()
        return register_pb2.Leases(
            leases=[
                register_pb2.Lease(
                    owner=lease.owner,
                    reason=lease.reason,
                    seconds=None if lease.ends_at is None else max(lease.ends_at - now, 0.001),
                    protect_from_scale_in=lease.protect_from_scale_in,
                )
                for lease in leases
            ]
        )

    def take(self, body: bytes, draining: bool = False) -> Lease:
        """POST /busy: make or renew the lease of an owner. Raises FaultsError; DrainingError for a new one then."""
        lease, seconds = parse_lease(body)
        if draining and all(each.owner != lease.owner for each in self._live(HTTP)):
            raise DrainingError
        if seconds is not None:
            lease = Lease(lease.owner, lease.reason, self._monotonic() + seconds, lease.protect_from_scale_in)
        others = [each for each in self._live(HTTP) if each.owner != lease.owner]
        if len(others) == MAX_LEASES:
            what = f"{MAX_LEASES} leases are held by callers of this route"
            raise FaultsError([Fault("owner", what, "end one, or renew one of theirs")])
        self._keep([*others, lease])
        return lease

    def end(self, body: bytes) -> bool:
        """DELETE /busy: end an owner's lease; False when it held none. Raises FaultsError."""
        owner = _parse(body, ("owner",), 'send {"owner": "nightly"}')["owner"]
        leases = self._live(HTTP)
        others = [each for each in leases if each.owner != owner]
        if len(others) == len(leases):
            return False
        self._keep(others)
        return True

    def _live(self, source: str) -> list[Lease]:
        now = self._monotonic()
        return [
            lease for lease in self._sources.get(source, ()) if lease.ends_at is None or lease.ends_at > now
        ]

    def _longest(self) -> list[tuple[str, Lease]]:
        """Protection first, then by end, the last one first, so that what MAX_LEASES leaves out changes nothing."""
        live = [(source, lease) for source in self._sources for lease in self._live(source)]
        live.sort(
            key=lambda each: (
                not each[1].protect_from_scale_in,
                -math.inf if each[1].ends_at is None else -each[1].ends_at,
                each[1].owner,
            )
        )
        return live[:MAX_LEASES]

    def _tell(self, source: str, fault: str) -> None:
        before, self._faults[source] = self._faults.get(source, ""), fault
        if not fault:
            del self._faults[source]
            if before:
                log.info("busy_source_recovered", source=source)
        elif fault != before:
            log.warning("busy_source_failed", source=source, reason=fault)

    def _keep(self, leases: list[Lease]) -> None:
        fault = ""
        try:
            self._memory.keep({"leases": [asdict(lease) for lease in leases]})
        except OSError as error:
            path = self._memory.path()
            with contextlib.suppress(OSError):
                path.unlink()  # a lease that was ended would come back with the agent's next start
            fault = (
                f"{path}: {error.strerror}; make room on its disk: until the next change of a lease "
                "none outlives a restart of the agent"
            )
        self.set(HTTP, leases, fault)

    def _stored(self) -> tuple[Lease, ...]:
        try:
            return tuple(Lease(**lease) for lease in self._memory.read().get("leases", ()))
        except (OSError, ValueError, TypeError) as error:
            self._tell(HTTP, f"{self._memory.path()}: {error}; leases of the last run are lost")
            return ()


def parse_lease(body: bytes) -> tuple[Lease, float | None]:
    """The lease of a body of POST /busy, and for how long it is held (None: until it is ended). Raises FaultsError."""
    example = 'send {"owner": "nightly", "reason": "nightly report", "seconds": 600}'
    document = _parse(body, ("owner", "reason", "seconds", "protect_from_scale_in"), example)
    faults = []
    reason, seconds = document.get("reason", ""), document.get("seconds")
    protect = document.get("protect_from_scale_in", False)
    if not isinstance(reason, str):
        faults.append(Fault("reason", "not a text", example))
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 < seconds <= MAX_LEASE_SECONDS):
        what = f"not a number above 0, at most {MAX_LEASE_SECONDS:g}"
        faults.append(
            Fault("seconds", what, "renew it in time, or leave it out to hold it until it is ended")
        )
    if not isinstance(protect, bool):
        faults.append(Fault("protect_from_scale_in", "neither true nor false", example))
    if faults:
        raise FaultsError(faults)
    return Lease(document["owner"], one_line(reason), None, protect), seconds


def is_owner(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_OWNER_CHARACTERS and name.isprintable()


def one_line(text: str) -> str:
    """A reason as it is sent: one line, printable, cut."""
    line = " ".join(text.split())[:MAX_REASON_CHARACTERS]
    return line if line.isprintable() else "".join(filter(str.isprintable, line))


def _parse(body: bytes, known: tuple[str, ...], example: str) -> dict[str, Any]:
    """A JSON object with an owner and no unknown key. Raises FaultsError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FaultsError([Fault("body", f"not valid JSON: {error}", example)]) from error
    if not isinstance(document, dict):
        raise FaultsError([Fault("body", "not a JSON object", example)])
    faults = [Fault(str(key)[:64], "unknown key", example) for key in document if key not in known]
    if not is_owner(document.get("owner")):
        what = f"not a text of 1 to {MAX_OWNER_CHARACTERS} printable characters"
        faults.append(Fault("owner", what, example))
    if faults:
        raise FaultsError(faults)
    return document
