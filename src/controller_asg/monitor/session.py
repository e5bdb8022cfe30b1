"""One agent's session as MonitorC sees it: what comes up is counted here, what goes down waits here.

Downstream there is one slot for each kind of order, not a queue: a newer order of a kind takes the place of one that
was not sent yet, so an agent that reads slowly costs a few hundred bytes and never gets old settings after new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from controller_asg.model.agent_order import AgentOrder, Drain, Resume, RunHook
from controller_asg.model.instance import CommandEnd, Lease

if TYPE_CHECKING:
    from controller_asg.monitor.agent import Agent
    from controller_asg.monitor.fleet import Fleet

# What one agent may send. The fastest pace is 10 messages a second; the burst is a minute of that, which arrives at
# once after a stall of our own.
MESSAGES_PER_SECOND = 50.0
MESSAGES_BURST = 600.0


class EndReason(StrEnum):
    """Why a session ended."""

    REPLACED = "replaced"  # a newer session of the same instance
    FORGOTTEN = "forgotten"  # the instance is in no group any more
    ADDRESS_CHANGED = "address_changed"
    SILENT = "silent"
    FLOOD = "flood"
    INVALID = "invalid"  # the agent sent something wrong
    CLOSED = "closed"  # by the agent, or the connection broke
    STOPPED = "stopped"  # the agent said that it stops


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the agent is to send."""

    sample_interval_seconds: float


class SessionEnded(Exception):
    """Raised to whoever waits for the session's next order."""

    def __init__(self, reason: EndReason, what: str) -> None:
        super().__init__(reason, what)
        self.reason, self.what = reason, what


class AgentSession:
    """Made by `Fleet.open`. Once another session took its place, whatever it still brings is ignored."""

    __slots__ = (
        "_agent",
        "_budget",
        "_budget_at",
        "_ended",
        "_fleet",
        "_hooks",
        "_pace",
        "_phase",
        "_something",
        "_values",
        "last_sequence",
        "opened_at",
    )

    def __init__(self, fleet: Fleet, agent: Agent, now: float) -> None:
        self.last_sequence = -1
        self.opened_at = now
        self._fleet = fleet
        self._agent = agent
        self._values: Mapping[str, float] | None = None
        self._budget = MESSAGES_BURST
        self._budget_at = now
        self._pace: Pace | None = None
        self._phase: Drain | Resume | None = None
        self._hooks: dict[str, RunHook] = {}  # by token
        self._ended: SessionEnded | None = None
        self._something = asyncio.Event()

    @property
    def instance_id(self) -> str:
        return self._agent.member.instance_id

    def sample(self, sequence: int, values: Mapping[str, float]) -> None:
        """A reading arrived. `values` belongs to the fleet from now on; the caller has checked it."""
        now = self._fleet.now()
        if not self._spend(now):
            return
        self.last_sequence = sequence
        self._values = values
        self._fleet.read(self._agent, now, values)

    def heartbeat(self, sequence: int) -> None:
        """Alive, and the last sample still holds. Before this session's first sample it is a sign of life only."""
        now = self._fleet.now()
        if not self._spend(now):
            return
        self.last_sequence = sequence
        self._fleet.heard(self._agent, now, self._values)

    def alive(self) -> None:
        """A message of a kind that this controller does not know."""
        now = self._fleet.now()
        if self._spend(now):
            self._fleet.heard(self._agent, now, None)

    def drain_progress(self, finished: bool, exit_code: int | None, output: str) -> None:
        now = self._fleet.now()
        if self._spend(now):
            self._fleet.drain_progressed(
                self._agent, now, CommandEnd(exit_code, output) if finished else None
            )

    def now(self) -> float:
        """The clock of `Lease.ends_at`."""
        return self._fleet.now()

    def leases(self, leases: tuple[Lease, ...]) -> None:
        """All that the instance holds."""
        now = self._fleet.now()
        if self._spend(now):
            self._fleet.leases_told(self._agent, now, leases)

    def hook_progress(self, token: str, finished: bool, exit_code: int | None, output: str) -> None:
        now = self._fleet.now()
        if self._spend(now):
            self._fleet.hook_progressed(
                self._agent, now, token, CommandEnd(exit_code, output) if finished else None
            )

    def close(self) -> None:
        """The stream is gone, for whatever reason. Safe to repeat."""
        self._fleet.closed(self._agent, self)

    async def next_order(self) -> Pace | AgentOrder:
        """Waits for something to send down. Raises SessionEnded once the session is over."""
        while True:
            if self._ended is not None:
                raise self._ended
            if self._phase is not None:
                phase, self._phase = self._phase, None
                return phase
            if self._hooks:
                return self._hooks.pop(next(iter(self._hooks)))
            if self._pace is not None:
                pace, self._pace = self._pace, None
                return pace
            self._something.clear()
            await self._something.wait()

    def push(self, order: Pace | AgentOrder) -> None:
        match order:
            case Pace():
                self._pace = order
            case Drain() | Resume():
                self._phase = order
            case RunHook():
                self._hooks[order.token] = order
        self._something.set()

    def end(self, reason: EndReason, what: str) -> None:
        """The first reason stands."""
        if self._ended is None:
            self._ended = SessionEnded(reason, what)
            self._something.set()

    def _spend(self, now: float) -> bool:
        """False: this message does not count, for the session is over or sends too much."""
        if self._ended is not None or self._agent.session is not self:
            return False
        earned = (now - self._budget_at) * MESSAGES_PER_SECOND
        self._budget = min(MESSAGES_BURST, self._budget + earned) - 1.0
        self._budget_at = now
        if self._budget >= 0.0:
            return True
        self.end(EndReason.FLOOD, f"more than {MESSAGES_PER_SECOND:g} messages a second")
        return False
