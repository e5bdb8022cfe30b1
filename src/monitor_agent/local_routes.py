"""What the agent's HTTP routes do: leases, the load's override, leaving the group, the readings, the agent's health."""

from collections.abc import Callable
from http import HTTPStatus

from asg.register.v1 import register_pb2
from monitor_agent import __version__
from monitor_agent.busy import Busy, DrainingError
from monitor_agent.drain import Drain
from monitor_agent.latest import Latest
from monitor_agent.local_http import Reply, Route, document, failure
from monitor_agent.override import parse_override
from monitor_agent.reading import MACHINE_METRICS
from monitor_agent.session import (
    REGISTER_SECONDS,
    ControllerSession,
    RefusedError,
    SessionState,
    UnreachableError,
)

STALE_INTERVALS, STALE_SECONDS = (
    3,
    5.0,
)  # sampling works while the last reading is younger than the longer of both


class LocalRoutes:
    """The handlers, over the agent's parts."""

    def __init__(
        self,
        latest: Latest,
        busy: Busy,
        drain: Drain,
        session: ControllerSession,
        interval_seconds: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._latest, self._busy, self._drain, self._session = latest, busy, drain, session
        self._interval_seconds, self._monotonic = interval_seconds, monotonic

    def by_path(self) -> dict[str, dict[str, Route]]:
        return {
            "/metrics": {"GET": Route(self.metrics, changes=False)},
            "/healthz": {"GET": Route(self.healthz, changes=False)},
            "/busy": {
                "GET": Route(self.busy, changes=False),
                "POST": Route(self.take_lease, changes=True),
                "DELETE": Route(self.end_lease, changes=True),
            },
            "/set-metric": {"POST": Route(self.set_metric, changes=True)},
            "/unregister": {"POST": Route(self.unregister, changes=True)},
        }

    async def busy(self, body: bytes) -> Reply:
        return document(HTTPStatus.OK, self._busy.document(self._drain.ordered))

    async def take_lease(self, body: bytes) -> Reply:
        try:
            return document(HTTPStatus.OK, {"owner": self._busy.take(body, self._drain.ordered).owner})
        except DrainingError:
            what, mend = "is draining, and takes no new work", "give the work to another instance"
            return failure(HTTPStatus.CONFLICT, "the instance", what, mend)

    async def end_lease(self, body: bytes) -> Reply:
        return document(HTTPStatus.OK, {"ended": self._busy.end(body)})

    async def set_metric(self, body: bytes) -> Reply:
        request = parse_override(body)
        self._latest.override.apply(request)
        return document(HTTPStatus.OK, {"metric": request.cpu_percent, "seconds": request.seconds})

    async def unregister(self, body: bytes) -> Reply:
        try:
            await self._session.unregister(register_pb2.UNREGISTER_REASON_REQUESTED, REGISTER_SECONDS)
        except UnreachableError as error:
            mend = "see /healthz; nothing was changed, try again"
            return failure(HTTPStatus.SERVICE_UNAVAILABLE, "controller", str(error), mend)
        except RefusedError as error:
            return failure(HTTPStatus.BAD_GATEWAY, "controller", str(error), "ask the controller why")
        return document(HTTPStatus.ACCEPTED, {"unregistered": self._session.instance_id})

    async def healthz(self, body: bytes) -> Reply:
        session, reasons = self._session, []
        stale = self._sampling_fault()
        if stale:
            reasons.append(stale)
        if session.state is not SessionState.UP:
            reasons.append(f"no session with {session.controller}: {session.reason or session.state}")
        content = {
            "healthy": not reasons,
            "reasons": reasons,
            "instance_id": session.instance_id,
            "controller": session.controller,
            "group": session.group,
            "session": str(session.state),
            "version": __version__,
            "busy_faults": self._busy.faults(),
        }
        return document(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, content)

    async def metrics(self, body: bytes) -> Reply:
        text = "\n".join([*self._machine_lines(), *self._own_lines(), ""])
        return Reply(HTTPStatus.OK, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _sampling_fault(self) -> str:
        taken_at = self._latest.ticked_at
        if taken_at is None:
            return "no sample yet"
        age = self._monotonic() - taken_at
        limit = max(STALE_SECONDS, STALE_INTERVALS * self._interval_seconds())
        return f"the last sample is {age:.0f} s old" if age > limit else ""

    def _machine_lines(self) -> list[str]:
        lines: list[str] = []
        reading = self._latest.reading()
        if reading is None:
            return lines
        for name in MACHINE_METRICS:
            value: float | None = getattr(reading.machine, name)
            if value is not None:
                lines += [f"# TYPE monitor_agent_{name} gauge", f"monitor_agent_{name} {value!r}"]
        if reading.application:
            lines.append("# TYPE monitor_agent_application gauge")
        for name, value in reading.application.items():
            label = name.replace("\\", r"\\").replace('"', r"\"")
            lines.append(f'monitor_agent_application{{name="{label}"}} {value!r}')
        lines += [
            "# TYPE monitor_agent_overridden gauge",
            f"monitor_agent_overridden {int(reading.overridden)}",
        ]
        return lines

    def _own_lines(self) -> list[str]:
        counters, is_up = self._session.counters, self._session.state is SessionState.UP
        own = {
            "readings": self._latest.ticks,
            "sessions": counters.sessions,
            "samples_sent": counters.samples,
            "heartbeats_sent": counters.heartbeats,
        }
        lines = ["# TYPE monitor_agent_session_up gauge", f"monitor_agent_session_up {int(is_up)}"]
        for name, count in own.items():
            lines += [f"# TYPE monitor_agent_{name}_total counter", f"monitor_agent_{name}_total {count}"]
        return lines
