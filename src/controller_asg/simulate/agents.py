"""The agents of the simulated world, and the network between them and the controller.

What an agent sends reaches the controller as its service would take it in: only from the instance's own address, and
registered before a session. Below the streams is TCP, so a lost packet is a late message; a ping is lost for good.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from controller_asg.model.agent_order import Drain
from controller_asg.monitor.fleet import Fleet
from controller_asg.monitor.session import AgentSession, Pace, SessionEnded
from controller_asg.simulate.ec2 import Machine, SimulatedEc2
from controller_asg.simulate.virtual_time import VirtualLoop
from controller_asg.simulate.work import Work

SAMPLE_SECONDS = 1.0
SETTLES_SECONDS = 1.0  # from the machine's boot to its agent's first sample
RETRANSMIT_SECONDS = (1.0, 3.0)
# A stream whose acknowledgements don't come back goes on for so long, then its window is full.
HALF_OPEN_SECONDS = 10.0
FLAPS_EVERY = 40  # samples
PORT = 7401


@dataclass(slots=True)
class Network:
    """`up` and `down` are instance ids whose way to the controller, or from it, is cut; "" in them cuts everybody's."""

    up: set[str] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    down_since: dict[str, float] = field(default_factory=dict)
    loss_ratio: float = 0.0
    delay_seconds: float = 0.0

    def carries_up(self, instance_id: str) -> bool:
        return "" not in self.up and instance_id not in self.up

    def carries_down(self, instance_id: str) -> bool:
        return "" not in self.down and instance_id not in self.down


@dataclass(slots=True)
class Behaviour:
    """What is wrong with one agent."""

    frozen: bool = False  # the machine stands still: nothing is said, nothing answered
    lies: float | None = None  # says this load whatever it is
    flaps: bool = False  # its stream breaks every other second for a while, then there is none for as long
    registers_twice: bool = False  # and opens another session each time
    claims: str = ""  # speaks for another instance
    version: str = "1"


@dataclass(slots=True)
class SimulatedAgent:
    machine: Machine
    behaviour: Behaviour = field(default_factory=Behaviour)
    boots: int = 1
    session: AgentSession | None = None
    fleet: Fleet | None = None
    arrived_at: float = 0.0  # its last message, at a controller
    listener: "asyncio.Task[None] | None" = None


class SimulatedAgents:
    """`load(instance_id)` is each machine's true cpu_percent; `controller()` the fleet that listens now, or None."""

    def __init__(
        self,
        loop: VirtualLoop,
        ec2: SimulatedEc2,
        chance: random.Random,
        load: Callable[[str], float],
        controller: Callable[[], Fleet | None],
        unknown: Callable[[str], None],
    ) -> None:
        self._loop, self._ec2, self._chance = loop, ec2, chance
        self._load, self._controller, self._unknown = load, controller, unknown
        self.network = Network()
        self.agents: dict[str, SimulatedAgent] = {}
        self.work: Work | None = None  # None: they do nothing, and say nothing of it
        self._sequence = 0

    def agent(self, instance_id: str) -> SimulatedAgent:
        if instance_id not in self.agents:
            self.agents[instance_id] = SimulatedAgent(self._ec2.machines[instance_id])
        return self.agents[instance_id]

    def up(self, instance_id: str) -> bool:
        """Its machine runs, has booted, and neither it nor its agent is broken."""
        machine = self._ec2.running.get(instance_id)
        if machine is None:
            return False
        behaviour = self.agent(instance_id).behaviour
        settled = self._loop.time() >= machine.boots_at + SETTLES_SECONDS
        return settled and not behaviour.frozen and not machine.mute

    async def run(self) -> None:
        """All agents, once a second: who can speak does. After a stall of the process what was sent arrives at once."""
        due = self._loop.time()
        while True:
            self._sequence += 1
            for instance_id in list(self._ec2.running):
                if self.up(instance_id):
                    self._speak(self.agent(instance_id))
            due += SAMPLE_SECONDS
            await asyncio.sleep(max(0.0, due - self._loop.time()))

    def heard(self, instance_id: str, seconds: float) -> bool:
        """A message of its agent has reached the controller within so long."""
        return self._loop.time() - self.agent(instance_id).arrived_at <= seconds

    def restart(self, instance_id: str) -> None:
        """Its service is restarted: a goodbye, and it registers again."""
        agent, fleet = self.agent(instance_id), self._controller()
        agent.boots += 1
        if self.work is not None:
            self.work.restarted(instance_id)
        if fleet is not None and fleet.registered(instance_id) and self._reaches(instance_id):
            fleet.unregister(instance_id, requested=False)
        agent.session = None

    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        """The port `Pinger`: whoever has the address now answers, and says who it is."""
        holder = self._ec2.holder(address)
        lost = self.network.loss_ratio and self._chance.random() < self.network.loss_ratio
        if holder and self.up(holder) and self._reaches(holder) and not lost:
            delay = self._delay()
            await asyncio.sleep(min(0.001 + 2 * delay, timeout_seconds))
            if 2 * delay < timeout_seconds:
                return None if holder == instance_id else f"{holder} answers there"
        else:
            await asyncio.sleep(timeout_seconds)
        return "no answer"

    def _reaches(self, instance_id: str) -> bool:
        return self.network.carries_up(instance_id) and self.network.carries_down(instance_id)

    def _delay(self) -> float:
        return self._chance.uniform(0, self.network.delay_seconds) if self.network.delay_seconds else 0.0

    def _speak(self, agent: SimulatedAgent) -> None:
        instance_id, network = agent.machine.instance_id, self.network
        if not network.carries_up(instance_id):
            return
        if not network.carries_down(instance_id):
            since = network.down_since.setdefault(instance_id, self._loop.time())
            if self._loop.time() - since > HALF_OPEN_SECONDS:
                return
        elif network.down_since:
            network.down_since.pop(instance_id, None)
        delay = self._delay()
        if network.loss_ratio and self._chance.random() < network.loss_ratio:
            delay += self._chance.uniform(*RETRANSMIT_SECONDS)
        if delay:
            self._loop.call_later(delay, self._arrive, agent, self._sequence)
        else:
            self._arrive(agent, self._sequence)

    def _arrive(self, agent: SimulatedAgent, sequence: int) -> None:
        """As the controller's service takes it in."""
        fleet, machine, behaviour = self._controller(), agent.machine, agent.behaviour
        if fleet is None:
            agent.session = None
            return
        speaks_for = behaviour.claims or machine.instance_id
        member = fleet.member(speaks_for)
        if member is None:
            agent.session = None
            self._unknown(speaks_for)
            return
        if member.private_ip != machine.private_ip:
            agent.session = None
            return
        if behaviour.flaps:
            away = sequence % FLAPS_EVERY >= FLAPS_EVERY // 2
            if agent.session is not None and (away or sequence % 2):
                agent.session.close()
                agent.session = None
            if away:
                return  # only pings are answered
        if (
            agent.session is None
            or agent.fleet is not fleet
            or not fleet.registered(speaks_for)
            or behaviour.registers_twice
        ):
            boot_id = f"boot-{agent.boots}"
            fleet.register(speaks_for, PORT, behaviour.version, boot_id)
            agent.fleet, agent.session = fleet, fleet.open(speaks_for, PORT, behaviour.version, boot_id)
            if agent.listener is not None:
                agent.listener.cancel()
            agent.listener = self._loop.create_task(
                self._listen(agent, agent.session), name=f"agent:{speaks_for}"
            )
        value = behaviour.lies if behaviour.lies is not None else self._load(machine.instance_id)
        agent.arrived_at = self._loop.time()
        if self.work is not None and not behaviour.claims:
            self.work.tell(machine.instance_id, agent.session)
        agent.session.sample(sequence, {"cpu_percent": value})

    async def _listen(self, agent: SimulatedAgent, session: AgentSession) -> None:
        """Until the controller ends the stream; then the agent makes a new one. What is sent into a cut is lost."""
        instance_id = agent.machine.instance_id
        try:
            while True:
                order = await session.next_order()
                arrives = self.up(instance_id) and self.network.carries_down(instance_id)
                if self.work is None:
                    if arrives and isinstance(order, Drain):
                        session.drain_progress(True, 0, "no drain_command is set")
                elif isinstance(order, Pace):
                    continue
                elif arrives:
                    self.work.order(instance_id, order)
                else:
                    self.work.lost.add(instance_id)
        except SessionEnded:
            if agent.session is session:
                agent.session = None
