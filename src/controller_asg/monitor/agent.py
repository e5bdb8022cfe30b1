"""What MonitorC keeps of one instance's agent. Values and marks only: no clock, no socket, no log.

All times are the controller's `Clock.monotonic`. `heard_at` is not quite "when it last spoke": a stall of our own
moves it forward (see `forgive`), so that the time in which we did not listen never counts as silence of the agent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller_asg.model.instance import AgentView, CommandEnd, Lease, Sample

if TYPE_CHECKING:
    from controller_asg.monitor.session import AgentSession

# Readings kept of one instance, whatever the window. A longer window at a faster pace is thinned evenly: 10,000
# instances with 16 metrics each then stay below 1.5 GiB, and one that floods us only spoils its own resolution.
MAX_READINGS = 120
MAX_HOOKS = 64  # of one instance, whose group has 50 at most; the oldest goes first
NO_HOOKS: Mapping[str, CommandEnd | None] = {}


@dataclass(frozen=True, slots=True)
class Member:
    """An instance whose agent may speak, by the engine's word."""

    instance_id: str
    group: str
    private_ip: str  # empty while EC2 has not told it yet: nobody may speak for it then
    # It was InService before this process started: its silence counts although this process never heard it.
    watch: bool = False


class Agent:
    """The mutable record behind one `AgentView`. Only `Fleet` and its sessions write to it."""

    __slots__ = (
        "agent_version",
        "ask_at",
        "asking",
        "boot_id",
        "drained",
        "draining",
        "failed_pings",
        "failing_since",
        "heard_at",
        "hooks",
        "last_silence",
        "leases",
        "leases_known_at",
        "leases_told_in",
        "member",
        "metrics",
        "monitor_port",
        "readings",
        "registered",
        "session",
        "silent",
        "unregister_requested",
    )

    def __init__(self, member: Member, monitor_port: int) -> None:
        self.member = member
        self.monitor_port = monitor_port
        self.agent_version = ""
        self.boot_id = ""
        self.registered = False  # with this process of the controller
        self.session: AgentSession | None = None
        self.heard_at: float | None = None  # None: its silence says nothing yet
        self.silent = False  # its silence was announced, and it has not spoken since
        self.last_silence: tuple[float, float] | None = None  # since when, until when
        self.ask_at: float | None = None  # when the next ping is due; None: nothing is suspected
        self.asking = False  # a ping is under way
        self.failing_since: float | None = None  # when the first of the failed pings in a row was sent
        self.failed_pings = 0
        self.unregister_requested = False
        self.drained: CommandEnd | None = None
        self.draining = False
        self.hooks: dict[str, CommandEnd | None] = {}
        self.leases: tuple[Lease, ...] | None = None
        self.leases_told_in: AgentSession | None = None
        self.leases_known_at = 0.0  # when it was last heard in that session
        self.readings: deque[Sample] = deque()  # newest last
        self.metrics: Mapping[str, float] = {}

    def hear(self, now: float) -> bool:
        """Any message of it arrived. True when that ends a suspicion."""
        if self.silent and self.heard_at is not None:
            self.last_silence = (self.heard_at, now)
        self.heard_at = now
        if self.session is not None and self.session is self.leases_told_in:
            self.leases_known_at = now
        if self.ask_at is None:
            return False
        self.silent = False
        self.ask_at = None
        self.failing_since = None
        self.failed_pings = 0
        return True

    def read(self, now: float, values: Mapping[str, float], window_seconds: float) -> None:
        """Keep one reading. At a window of 0 only the newest is kept."""
        readings = self.readings
        horizon = now - window_seconds
        while readings and readings[0].arrived_at <= horizon:
            readings.popleft()
        step = window_seconds / MAX_READINGS
        if len(readings) >= 2 and readings[-1].arrived_at - readings[-2].arrived_at < step:
            readings.pop()  # the newest always stays, and those before it keep their distance
        readings.append(Sample(now, values))
        if self.metrics.keys() <= values.keys():
            self.metrics = values
        else:
            self.metrics = {name: value for known in readings for name, value in known.values.items()}

    def forget_readings(self) -> None:
        self.readings.clear()
        self.metrics = {}

    def hook_told(self, token: str, end: CommandEnd | None) -> bool:
        """A hook runs (None) or has ended. True when that is news."""
        if token in self.hooks and self.hooks[token] == end:
            return False
        self.hooks[token] = end
        if len(self.hooks) > MAX_HOOKS:
            del self.hooks[next(iter(self.hooks))]
        return True

    def forget_running_commands(self) -> None:
        """An agent that was started anew runs none of them, nor is it drained; one that was not tells them again."""
        self.hooks = {token: end for token, end in self.hooks.items() if end is not None}
        self.drained, self.draining = None, False

    def forgive(self, stall_seconds: float, now: float) -> None:
        """Take a stall of our own out of every count of the agent's silence. Samples stay as old as they are.

        Leases last longer by it: what renewed them meanwhile may not have been read yet.
        """
        if self.heard_at is not None:
            self.heard_at = min(now, self.heard_at + stall_seconds)
        if self.failing_since is not None:
            self.failing_since = min(now, self.failing_since + stall_seconds)
        if self.leases:
            self.leases = tuple(
                lease if lease.ends_at is None else replace(lease, ends_at=lease.ends_at + stall_seconds)
                for lease in self.leases
            )

    def view(self, now: float) -> AgentView:
        heard_at, failing_since, leases = self.heard_at, self.failing_since, self.leases
        if leases:
            # Renewals that are not heard may have been made: only in a session that tells its leases do they end.
            tells = self.session is not None and self.session is self.leases_told_in and not self.silent
            known_at = now if tells else self.leases_known_at
            leases = tuple(lease for lease in leases if lease.ends_at is None or lease.ends_at > known_at)
        return AgentView(
            self.member.instance_id,
            None if heard_at is None else now - heard_at,
            None if failing_since is None else now - failing_since,
            self.failed_pings,
            tuple(self.readings),
            self.unregister_requested,
            self.metrics,
            now,
            self.last_silence,
            leases,
            self.drained,
            dict(self.hooks) if self.hooks else NO_HOOKS,
            self.draining,
            None if self.session is None else now - self.session.opened_at,
        )
