"""The controller's side of the agents (MonitorC): who may speak, what they said, and who is silent.

Silence is judged by the controller's monotonic clock alone. When the controller itself did not run for a while (a
paused machine, a stuck loop), that time is taken out of every count, here and nowhere else: see `_forgive_stall`. A
ping that answers does not make the stream well again: it ends the row of failed pings, and the planner weighs the two.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from controller_asg.model.agent_order import AgentOrder, Drain, Resume
from controller_asg.model.clock import Clock
from controller_asg.model.instance import AgentView, CommandEnd, Lease
from controller_asg.monitor.agent import Agent, Member
from controller_asg.monitor.session import AgentSession, EndReason, Pace

__all__ = ["Fleet", "Member", "Pinger", "WatchSettings"]

log = structlog.get_logger()

# While somebody is suspected; 10,000 agents cost about 0.3 ms a tick (bench/fleet_ingest.py).
TICK_SECONDS = 0.1
CALM_TICK_SECONDS = 0.5  # while nobody can fall silent before that
SHORTEST_TICK_SECONDS = 0.01
LATE_SECONDS = 0.5  # a tick that comes later than this was held up by ourselves
PING_EVERY_SECONDS = 0.5  # between the starts of two pings that fail
CONCURRENT_PINGS = 200  # each holds a socket and a channel
SESSION_SILENCE_SECONDS = (
    30.0  # a stream that says nothing for so long is closed, so that the agent makes a new one
)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What the operator decides about watching. `window_seconds` is only where `Fleet.keep` begins."""

    silence_seconds: float
    ping_timeout_seconds: float
    sample_interval_seconds: float
    window_seconds: float
    monitor_port: int = 7401  # where an agent is asked that has not told its port to this process

    @property
    def silent_after_seconds(self) -> float:
        """At a slow pace one lost message must not look like silence, whatever the operator wrote."""
        return max(self.silence_seconds, 2.0 * self.sample_interval_seconds + 0.5)


class Pinger(Protocol):
    """MonitorC's own question to an agent."""

    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        """None: that instance's agent answered in time. Otherwise why not, in a few words for the log."""


class Fleet:
    """Everything is called from one event loop. `wake(group, why)` must be cheap: it is called for each sample."""

    def __init__(
        self, clock: Clock, pinger: Pinger, settings: WatchSettings, wake: Callable[[str, str], None]
    ) -> None:
        self.now = clock.monotonic
        self._clock = clock
        self._pinger = pinger
        self._settings = settings
        self._wake = wake
        self._agents: dict[str, Agent] = {}
        self._groups: dict[str, dict[str, Agent]] = {}
        self._pings_under_way = 0
        self._tick_due_at: float | None = None  # None: nobody watches, so nobody can be late
        self._suspicion = asyncio.Event()  # somebody is to be asked before the next tick
        self._window_seconds = 0.0
        self.keep(settings.window_seconds)

    # What the engine calls.

    def expect(self, members: Iterable[Member]) -> None:
        """Exactly these may speak from now on.

        Agents that are not among them are forgotten and their sessions end. Leave out an instance whose termination
        was called: it will fall silent, and rightly.
        """
        now = self.now()
        wanted = {member.instance_id: member for member in members}
        for instance_id in self._agents.keys() - wanted.keys():
            self._drop(self._agents[instance_id], EndReason.FORGOTTEN, "the instance is in no group any more")
        for instance_id, member in wanted.items():
            agent = self._agents.get(instance_id)
            if agent is None:
                agent = self._add(member, self._settings.monitor_port)
            elif agent.member != member:
                agent = self._change(agent, member)
            if agent.heard_at is None and member.watch:
                agent.heard_at = now
            elif agent.heard_at is not None and not (member.watch or agent.registered):
                agent.heard_at = agent.ask_at = agent.failing_since = None
                agent.failed_pings, agent.silent = 0, False

    def member(self, instance_id: str) -> Member | None:
        agent = self._agents.get(instance_id)
        return None if agent is None else agent.member

    def view(self, group: str) -> Mapping[str, AgentView]:
        """Every expected instance of the group by its id, also those that were never heard."""
        now = self.now()
        self._forgive_stall(now)
        agents = self._groups.get(group, {})
        return {instance_id: agent.view(now) for instance_id, agent in agents.items()}

    def keep(self, window_seconds: float) -> None:
        """Samples are kept for the longest window that any policy has."""
        settings = self._settings = replace(self._settings, window_seconds=window_seconds)
        newest_only = window_seconds <= max(1.0, settings.sample_interval_seconds)
        self._window_seconds = 0.0 if newest_only else window_seconds

    @property
    def settings(self) -> WatchSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: WatchSettings) -> None:
        """A reload. Every session is told the new pace; the window stays what `keep` made it."""
        before, window_seconds = self._settings, self._settings.window_seconds
        self._settings = settings
        self.keep(window_seconds)
        if settings.sample_interval_seconds == before.sample_interval_seconds:
            return
        for agent in self._agents.values():
            if agent.session is not None:
                agent.session.push(Pace(settings.sample_interval_seconds))

    def send(self, instance_id: str, order: AgentOrder) -> bool:
        """True when the order went to a session; it may still be lost with it."""
        agent = self._agents.get(instance_id)
        if agent is None or agent.session is None:
            return False
        if isinstance(order, Drain | Resume):
            agent.drained = None  # what it says from now on is the answer
        if isinstance(order, Resume):
            agent.draining = False  # to an order to drain it would be an answer
        agent.session.push(order)
        return True

    async def run(self) -> None:
        """Watches for silence and asks the silent, until cancelled."""
        try:
            async with asyncio.TaskGroup() as pings:
                while True:
                    now = self.now()
                    self._forgive_stall(now)
                    for agent in self._look_for_silence(now):
                        agent.asking = True
                        self._pings_under_way += 1
                        name = f"ping:{agent.member.instance_id}"
                        pings.create_task(self._ask(agent, now), name=name)
                    pause = self._pause(now)
                    self._tick_due_at = now + pause
                    self._suspicion.clear()
                    await self._clock.wait(self._suspicion, pause)
        finally:
            self._tick_due_at = None

    # What the agents' service calls, after it has made sure who speaks.

    def registered(self, instance_id: str) -> bool:
        agent = self._agents.get(instance_id)
        return agent is not None and agent.registered

    def register(self, instance_id: str, monitor_port: int, agent_version: str, boot_id: str) -> Member:
        """The agent of an expected instance makes itself known, once after each of its starts."""
        agent = self._agents[instance_id]
        self._identify(agent, monitor_port, agent_version, boot_id)
        first, agent.registered = not agent.registered, True
        self.heard(agent, self.now(), None)
        if first:
            log.info(
                "agent_registered",
                group=agent.member.group,
                instance_id=instance_id,
                agent_version=agent_version,
            )
            self._wake(agent.member.group, "agent registered")
        return agent.member

    def unregister(self, instance_id: str, requested: bool) -> None:
        """The agent says goodbye: `requested` to be taken out of its group, else only stopped for now."""
        agent = self._agents[instance_id]
        self.heard(agent, self.now(), None)
        if agent.session is not None and not requested:
            # Taken off first: that a stream ends after a goodbye is no reason to ask. One that wants to be taken out
            # of its group keeps its session, for the order to drain.
            session, agent.session = agent.session, None
            session.end(EndReason.STOPPED, "the agent stops")
        group = agent.member.group
        if requested and not agent.unregister_requested:
            agent.unregister_requested = True
            log.info("agent_unregister_requested", group=group, instance_id=instance_id)
        elif not requested:
            log.info("agent_stopping", group=group, instance_id=instance_id)
        self._wake(group, "agent left")

    def open(self, instance_id: str, monitor_port: int, agent_version: str, boot_id: str) -> AgentSession:
        """A session of a registered agent. One that it had before ends."""
        agent = self._agents[instance_id]
        assert agent.registered, f"{instance_id} opened a session unregistered"
        if agent.session is not None:
            agent.session.end(EndReason.REPLACED, "a newer session of the same instance began")
        now = self.now()
        self._identify(agent, monitor_port, agent_version, boot_id)
        agent.forget_running_commands()
        session = agent.session = AgentSession(self, agent, now)
        session.push(Pace(self._settings.sample_interval_seconds))
        self.heard(agent, now, None)
        self._wake(agent.member.group, "agent joined")
        return session

    # What sessions call.

    def read(self, agent: Agent, now: float, values: Mapping[str, float]) -> None:
        """A sample arrived. The hot path: 10,000 times a second in a large fleet."""
        self.heard(agent, now, values)
        self._wake(agent.member.group, "sample")

    def heard(self, agent: Agent, now: float, values: Mapping[str, float] | None) -> None:
        """A message arrived; `values` are what it says the metrics are, if anything."""
        suspected = agent.silent or agent.failed_pings > 0
        if agent.hear(now) and suspected:
            log.info("agent_speaks_again", group=agent.member.group, instance_id=agent.member.instance_id)
            self._wake(agent.member.group, "agent speaks again")
        if values is not None:
            agent.read(now, values, self._window_seconds)

    def drain_progressed(self, agent: Agent, now: float, drained: CommandEnd | None) -> None:
        self.heard(agent, now, None)
        agent.draining = drained is None
        if drained is not None:
            agent.drained = drained
            self._wake(agent.member.group, "drained")

    def leases_told(self, agent: Agent, now: float, leases: tuple[Lease, ...]) -> None:
        agent.leases_told_in = agent.session
        self.heard(agent, now, None)
        if leases != agent.leases:
            agent.leases = leases
            self._wake(agent.member.group, "busy")

    def hook_progressed(self, agent: Agent, now: float, token: str, end: CommandEnd | None) -> None:
        self.heard(agent, now, None)
        if agent.hook_told(token, end):
            self._wake(agent.member.group, "hook")

    def closed(self, agent: Agent, session: AgentSession) -> None:
        """A stream is gone. Without a goodbye, and with no newer one, its agent is asked at once."""
        if agent.session is not session:
            return
        agent.session = None
        agent.ask_at = self.now()
        self._suspicion.set()
        log.debug("agent_stream_lost", group=agent.member.group, instance_id=agent.member.instance_id)
        self._wake(agent.member.group, "stream lost")

    # Membership.

    def _add(self, member: Member, monitor_port: int) -> Agent:
        agent = Agent(member, monitor_port)
        self._agents[member.instance_id] = agent
        self._groups.setdefault(member.group, {})[member.instance_id] = agent
        return agent

    def _drop(self, agent: Agent, reason: EndReason, what: str) -> None:
        instance_id, group = agent.member.instance_id, agent.member.group
        if agent.session is not None:
            session, agent.session = agent.session, None
            session.end(reason, what)
        del self._agents[instance_id]
        del self._groups[group][instance_id]
        if not self._groups[group]:
            del self._groups[group]

    def _change(self, agent: Agent, member: Member) -> Agent:
        """The same instance, told differently. Another address is another speaker: it has to register again."""
        known = agent.member
        if not member.private_ip:
            member = replace(
                member, private_ip=known.private_ip
            )  # EC2 no longer shows it; nobody new may speak
        if known.private_ip not in ("", member.private_ip):
            what = f"the instance's address is {member.private_ip} now"
            self._drop(agent, EndReason.ADDRESS_CHANGED, what)
            fresh = self._add(member, agent.monitor_port)
            fresh.unregister_requested = agent.unregister_requested
            return fresh
        if member.group != known.group:
            del self._groups[known.group][known.instance_id]
            if not self._groups[known.group]:
                del self._groups[known.group]
            self._groups.setdefault(member.group, {})[known.instance_id] = agent
        agent.member = member
        return agent

    def _identify(self, agent: Agent, monitor_port: int, agent_version: str, boot_id: str) -> None:
        agent.monitor_port = monitor_port or self._settings.monitor_port
        agent.agent_version = agent_version
        if agent.boot_id not in ("", boot_id):
            member = agent.member
            log.info("instance_rebooted", group=member.group, instance_id=member.instance_id)
            agent.forget_readings()
            agent.leases = None
        agent.boot_id = boot_id

    # Failure detection.

    def _forgive_stall(self, now: float) -> None:
        due_at = self._tick_due_at
        if due_at is None or now - due_at < LATE_SECONDS:
            return
        self._tick_due_at = now
        for agent in self._agents.values():
            agent.forgive(now - due_at, now)
        log.warning("monitor_stalled", stalled_seconds=round(now - due_at, 3), agents=len(self._agents))

    def _pause(self, now: float) -> float:
        """Until the next tick: short while somebody is suspected, else until the first one could fall silent."""
        earliest = now + CALM_TICK_SECONDS - self._settings.silent_after_seconds
        for agent in self._agents.values():
            if agent.ask_at is not None:
                return TICK_SECONDS
            if agent.heard_at is not None and agent.heard_at < earliest:
                earliest = agent.heard_at
        return max(SHORTEST_TICK_SECONDS, earliest + self._settings.silent_after_seconds - now)

    def _look_for_silence(self, now: float) -> list[Agent]:
        """Announces whoever fell silent; returns those to be asked now, the longest overdue first."""
        horizon = now - self._settings.silent_after_seconds
        due: list[Agent] = []
        for agent in self._agents.values():
            heard_at = agent.heard_at
            if heard_at is None:
                continue
            if heard_at <= horizon and not agent.silent:
                self._announce_silence(agent, now)
            if agent.ask_at is None:
                continue
            if agent.ask_at <= now and not agent.asking:
                due.append(agent)
            if agent.session is not None and now - heard_at >= SESSION_SILENCE_SECONDS:
                agent.session.end(EndReason.SILENT, f"nothing was heard for {SESSION_SILENCE_SECONDS:g} s")
        free = CONCURRENT_PINGS - self._pings_under_way
        return due if len(due) <= free else heapq.nsmallest(free, due, key=lambda agent: agent.ask_at or 0.0)

    def _announce_silence(self, agent: Agent, now: float) -> None:
        agent.silent = True
        if agent.ask_at is None:
            agent.ask_at = now
        member = agent.member
        log.info("agent_silent", group=member.group, instance_id=member.instance_id)
        self._wake(member.group, "agent silent")

    async def _ask(self, agent: Agent, started_at: float) -> None:
        """One ping. A failure counts only against the silence it was asked for: `heard_at` moves when the agent speaks,
        and when we stalled, for then the ping's time ran out unwatched."""
        member, heard_at = agent.member, agent.heard_at
        timeout_seconds = self._settings.ping_timeout_seconds
        try:
            why = await self._pinger.ping(
                member.instance_id, member.private_ip, agent.monitor_port, timeout_seconds
            )
        except Exception:
            # A bug of ours says nothing about the agent.
            log.exception("ping_crashed", group=member.group, instance_id=member.instance_id)
            why = ""
        finally:
            agent.asking = False
            self._pings_under_way -= 1
        now = self.now()
        self._forgive_stall(now)
        if self._agents.get(member.instance_id) is not agent or agent.ask_at is None:
            return
        if why is None:
            self._ping_answered(agent, now)
        elif why and heard_at == agent.heard_at:
            self._ping_failed(agent, started_at, why)
        else:
            agent.ask_at = started_at + PING_EVERY_SECONDS

    def _ping_answered(self, agent: Agent, now: float) -> None:
        """The agent lives though its stream is silent. It is asked again as long as that lasts, at silence's pace."""
        agent.ask_at = now + self._settings.silent_after_seconds
        if agent.failed_pings == 0:
            return
        agent.failing_since, agent.failed_pings = None, 0
        member = agent.member
        log.info("agent_answers_ping", group=member.group, instance_id=member.instance_id)
        self._wake(member.group, "agent answers ping")

    def _ping_failed(self, agent: Agent, started_at: float, why: str) -> None:
        agent.ask_at = started_at + PING_EVERY_SECONDS
        agent.failed_pings += 1
        member = agent.member
        if agent.failing_since is None:
            agent.failing_since = started_at
            log.warning("agent_ping_failed", group=member.group, instance_id=member.instance_id, why=why)
        self._wake(member.group, "ping failed")
