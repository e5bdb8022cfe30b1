"""One world: a made-up EC2, the agents on its machines, and a real controller that may die and come back."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

from controller_asg.cloud.ec2 import Ec2Cloud
from controller_asg.config import Settings
from controller_asg.engine.engine import Engine
from controller_asg.model.errors import StoreError
from controller_asg.model.instance import Instance
from controller_asg.model.offering import Market, Prices
from controller_asg.monitor.fleet import Fleet, WatchSettings
from controller_asg.simulate.agents import SAMPLE_SECONDS, SimulatedAgents
from controller_asg.simulate.ec2 import SimulatedEc2, running_loop
from controller_asg.simulate.store import Disk, SimulatedStore
from controller_asg.simulate.virtual_time import START, VirtualClock
from controller_asg.store.sql import SqlStore

T = TypeVar("T")

# systemd's RestartSec of the unit, and the daemon's own start.
RESTART_SECONDS = 1.5
CONTROLLER_NAME = "simulated"
# USD an hour; the first is the default type.
PRICES = Prices(
    {
        "t2.micro": {Market.ON_DEMAND: 1.0, Market.SPOT: 0.7},
        "t3.micro": {Market.ON_DEMAND: 0.93, Market.SPOT: 0.61},
        "t3.small": {Market.ON_DEMAND: 1.22, Market.SPOT: 0.84},
    },
    "us-east-1",
    "prices.yml",
)


class _NoBootstrap:
    async def run(self, instance: Instance) -> tuple[str, str]:
        return "", ""


class Database(Protocol):
    """What the real SQL store keeps its tables in; each controller opens it anew."""

    def open(self) -> SqlStore: ...

    def lose(self) -> None:
        """Deleted, and an empty one takes its place."""


class World:
    """`load` tells an instance's cpu_percent. With a `database` the real SQL store keeps what the disk does.

    Every source of chance hangs on the seed, each part's own: what one draws never shifts another's.
    """

    def __init__(
        self,
        seed: int,
        boot_seconds: float = 20.0,
        database: Database | None = None,
        start: datetime = START,
        max_hourly_cost: float = 0.0,
    ) -> None:
        def chance(part: str) -> random.Random:
            return random.Random(f"{seed}:{part}")  # noqa: S311 - a schedule that can be replayed, no secret

        self.chance = chance("world")
        self.loop = running_loop()
        self.clock = VirtualClock(self.loop, start)
        # EC2 and the agents have clocks of their own, which no step of the controller's moves.
        self.ec2 = SimulatedEc2(self.loop, VirtualClock(self.loop, start), chance("ec2"), boot_seconds)
        self.disk = Disk()
        self.max_hourly_cost = max_hourly_cost
        self.loads: dict[str, float] = {}
        self.load: Callable[[str], float] = lambda instance_id: self.loads.get(instance_id, 50.0)
        self.agents = SimulatedAgents(
            self.loop, self.ec2, chance("agents"), lambda i: self.load(i), self.listening, self._unknown
        )
        self.engine: Engine
        self._fleet: Fleet | None = None
        self._controller: asyncio.Task[None] | None = None
        self._agents_task: asyncio.Task[None] | None = None
        self._database = database
        self._controller_chance = chance("controller")
        self._told: asyncio.Task[None] | None = None  # the loop itself keeps no task alive
        self._calls: set[asyncio.Task[Any]] = set()
        self._ids = 0

    # The controller's life

    async def start(self) -> None:
        """Start (or restart) the controller on what is durable, and wait until it has seen EC2. Raises StoreError."""
        await self.begin()
        await self.until(lambda: self.engine.observed, 60)

    async def begin(self) -> None:
        """Start it. Raises StoreError."""
        settings = Settings(advertised_address="controller:7402", max_hourly_cost=self.max_hourly_cost)
        watch = WatchSettings(settings.silence_seconds, settings.ping_timeout_seconds, SAMPLE_SECONDS, 1.0)
        fleet = Fleet(self.clock, self.agents, watch, lambda group, why: self.engine.wake(group, why))
        cloud = Ec2Cloud(
            CONTROLLER_NAME,
            "us-east-1",
            "",
            self.clock,
            self._controller_chance,
            build_client=lambda service: self.ec2,
        )
        self.engine = Engine(
            SimulatedStore(self.disk, self.clock, self._database.open() if self._database else None),
            cloud,
            fleet,
            self.clock,
            settings,
            user_data=lambda group: "",
            bootstrap=_NoBootstrap(),
            new_id=self._new_id,
            random_source=self._controller_chance,
            prices=PRICES,
        )
        await self.engine.start()
        self._fleet = fleet
        self._controller = asyncio.create_task(self._run_controller(fleet), name="controller")
        if self._agents_task is None:
            self._agents_task = asyncio.create_task(self.agents.run(), name="agents")

    def kill(self) -> None:
        """SIGKILL at this moment: nothing is finished; what was sent may still arrive."""
        if self._controller is not None:
            self._controller.cancel()
        for call in self._calls:
            call.cancel()
        self._fleet = None

    async def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """An operator's call. It dies with the controller that answers it: raises ConnectionResetError then."""
        task = self.loop.create_task(call, name="call")
        self._calls.add(task)
        try:
            await asyncio.wait((task,))
            if task.cancelled():
                raise ConnectionResetError("the controller is gone")
            return task.result()
        finally:
            task.cancel()
            self._calls.discard(task)

    async def crash(self) -> None:
        self.kill()
        assert self._controller is not None
        await asyncio.gather(self._controller, return_exceptions=True)

    def lose_store(self) -> None:
        self.disk.lose()
        if self._database is not None:
            self._database.lose()

    async def supervise(self, ended: Callable[[BaseException | None], None]) -> None:
        """As systemd does: start it again whenever it has ended; `ended` hears with what, None being a SIGKILL."""
        while True:
            try:
                if self._controller is None or self._controller.done():
                    await self.begin()
            except StoreError:
                await asyncio.sleep(RESTART_SECONDS)
                continue
            assert self._controller is not None
            await asyncio.wait((self._controller,))
            self._fleet = None
            ended(None if self._controller.cancelled() else self._controller.exception())
            await asyncio.sleep(RESTART_SECONDS)

    async def controller_end(self) -> None:
        """Wait until the controller ends by itself; raises what it ended with."""
        assert self._controller is not None
        await self._controller

    async def stop(self) -> None:
        await self.crash()
        assert self._agents_task is not None
        self._agents_task.cancel()
        await asyncio.gather(self._agents_task, return_exceptions=True)

    def listening(self) -> Fleet | None:
        """MonitorC, while a controller runs."""
        return self._fleet if self._controller is not None and not self._controller.done() else None

    # What a test or an operator does

    async def apply(self, **documents: Mapping[str, Any]) -> None:
        await self.engine.apply_groups(documents, validate_only=False)

    def cut(self, whole: bool = True) -> None:
        """The controller's network: no agent is heard, no ping answered; `whole`: and no EC2."""
        self.agents.network.up.add("")
        self.agents.network.down.add("")
        self.ec2.faults.cut_off = whole

    def mend(self) -> None:
        self.agents.network.up.discard("")
        self.agents.network.down.discard("")
        self.ec2.faults.cut_off = False

    def freeze(self, instance_id: str) -> None:
        self.agents.agent(instance_id).behaviour.frozen = True

    async def until(self, true: Callable[[], bool], seconds: float, every: float = 0.1) -> None:
        """Wait in virtual time, looking every so often. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not true():
                await self.clock.sleep(every)

    def in_service(self, group: str = "web") -> list[str]:
        return [
            status.instance.instance_id
            for status in self.engine.instances(group)
            if status.instance.state.value == "InService"
        ]

    def alive(self, group: str = "web") -> list[str]:
        """The group's instances that EC2 runs, whether the controller knows them or not."""
        return [machine.instance_id for machine in self.ec2.alive() if machine.group == group]

    async def _run_controller(self, fleet: Fleet) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fleet.run(), name="fleet")
            tasks.create_task(self.engine.run(), name="engine")

    def _unknown(self, instance_id: str) -> None:
        """What the agents' service does with a stranger; it only sets a flag."""
        self._told = self.loop.create_task(self.engine.agent_unknown(instance_id), name="unknown")

    def _new_id(self) -> str:
        self._ids += 1
        return f"activity-{self._ids:06d}"
