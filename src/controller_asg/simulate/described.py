"""A rehearsal in a world that the operator describes: the daemon's own engine, with boots, deaths and outages.

Instances in service share the demand evenly, and report it each second as cpu_percent. What can't be served is lost,
not queued. Every chance hangs on the seed.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from controller_asg.model.group import Group, group_to_dict
from controller_asg.model.instance import LifecycleState
from controller_asg.model.scaling_policy import STRICT
from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import START_UTILISATION, Schedule
from controller_asg.simulate.agents import SETTLES_SECONDS
from controller_asg.simulate.ec2 import GOOD_IMAGE, ZONES
from controller_asg.simulate.logs import captured_logs
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.world import World

ZONE_NAMES = tuple(zone for _, zone in ZONES)
IN_SERVICE_SECONDS = 4 * 3600.0  # the first instances are in service by then, however slowly they boot


@checked(frozen=True, slots=True, config=STRICT)
class Outage:
    """A zone in which everything dies, and nothing can be launched."""

    zone: Annotated[str, Field(pattern="^(" + "|".join(ZONE_NAMES) + ")$")]
    at_seconds: Annotated[float, Field(ge=0)]
    lasts_seconds: Annotated[float, Field(gt=0)]


@checked(frozen=True, slots=True, config=STRICT)
class Surroundings:
    """What an operator describes."""

    # From a launch to in service; each launch takes one of these at random. Write what real ones took.
    launch_delay_seconds: Annotated[
        tuple[Annotated[float, Field(ge=2, le=3600)], ...], Field(min_length=1, max_length=10_000)
    ] = (120.0,)
    # So many zones, from us-east-1a on.
    zones: Annotated[int, Field(ge=1, le=len(ZONE_NAMES))] = len(ZONE_NAMES)
    # Of an instance that runs, in any currency.
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    # Mean time to an instance's death, its kernel halted. None: they live for ever.
    hours_between_failures: Annotated[float, Field(gt=0)] | None = None
    # Of launches: so many per cent die while they boot.
    failed_launches_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    outages: tuple[Outage, ...] = ()
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Lived:
    """What became of it. `instance_hours` are paid, booting or in service."""

    schedule: Schedule
    instance_hours: float
    launches: int
    deaths: int


def live(
    demand: Sequence[float],
    group: Group,
    surroundings: Surroundings,
    begin: datetime,
    tell: Callable[[int, str], None] = lambda tick, line: None,
) -> Lived:
    """The group under that demand, in instances at 100 %, a value a tick of 10 s.

    It begins with as many as the first tick's demand makes 60 % busy, within its bounds. `tell` hears each change of
    desired capacity: the tick, and the decision's summary.
    """
    with captured_logs(lambda event, values: None):
        return run_virtual(_Life(demand, group, surroundings, begin, tell).play(), VirtualLoop())


class _Life:
    def __init__(
        self,
        demand: Sequence[float],
        group: Group,
        surroundings: Surroundings,
        begin: datetime,
        tell: Callable[[int, str], None],
    ) -> None:
        self._demand, self._surroundings, self._begin, self._tell = demand, surroundings, begin, tell
        first = math.ceil(demand[0] / START_UTILISATION)
        first = min(max(first, group.min_size), group.max_size)
        self._group = replace(group, initial_capacity=first)
        self._chance = random.Random(f"{surroundings.seed}:described")  # noqa: S311 - a world that can be replayed
        self._serving: list[str] = []
        self._percent = 100 * START_UTILISATION

    async def play(self) -> Lived:
        surroundings, name = self._surroundings, self._group.name
        world = self._world = World(surroundings.seed, start=self._begin)
        world.ec2.boot_seconds = lambda: max(
            0.0, self._chance.choice(surroundings.launch_delay_seconds) - SETTLES_SECONDS
        )
        world.load = lambda instance_id: self._percent  # who begins is as busy as it will be
        await world.start()
        await world.apply(**{name: self._document()})
        first = self._group.initial_capacity or 0
        await world.until(lambda: len(self._in_service()) >= first, IN_SERVICE_SECONDS, every=1.0)
        world.load = lambda instance_id: self._percent if instance_id in self._serving else 0.0
        world.ec2.faults.dies_pending_ratio = surroundings.failed_launches_percent / 100
        for outage in surroundings.outages:
            world.loop.call_later(outage.at_seconds, self._break, outage)
            world.loop.call_later(
                outage.at_seconds + outage.lasts_seconds, world.ec2.faults.full.discard, (outage.zone, "")
            )
        launched_before = len(world.ec2.launches)
        schedule, paid, deaths, before = Schedule([], []), 0, 0, -1
        for tick, needed in enumerate(self._demand):
            deaths += self._die()
            for _ in range(TICK_SECONDS):
                self._serving = self._in_service()
                self._percent = min(100.0, 100 * needed / max(1, len(self._serving)))
                await world.clock.sleep(1.0)
            status = world.engine.groups(name)[0]
            desired = status.record.desired_capacity
            if desired != before and before >= 0 and status.last_decision is not None:
                self._tell(tick, status.last_decision.summary)
            before = desired
            schedule.desired.append(desired)
            schedule.in_service.append(len(self._serving))
            paid += len(world.ec2.alive())
        launches = sum(len(ids) for _, ids in world.ec2.launches[launched_before:])
        await world.stop()
        return Lived(schedule, paid * TICK_SECONDS / 3600, launches, deaths)

    def _document(self) -> dict[str, Any]:
        """The group's own, launched where this world has zones; nobody here would carry a hook or a drain out."""
        document = group_to_dict(self._group)
        del document["name"]
        document |= {"lifecycle_hooks": [], "drain": False}
        document["launch"] = {"image": {"id": GOOD_IMAGE}, "zones": ZONE_NAMES[: self._surroundings.zones]}
        return document

    def _in_service(self) -> list[str]:
        """Those that truly serve: the controller may not have heard yet that one has died."""
        running = self._world.ec2.running
        return [
            one.instance_id
            for one in self._world.disk.instances.values()
            if one.state is LifecycleState.IN_SERVICE and one.instance_id in running
        ]

    def _die(self) -> int:
        hours = self._surroundings.hours_between_failures
        if hours is None:
            return 0
        dying = [i for i in self._in_service() if self._chance.random() < TICK_SECONDS / 3600 / hours]
        for instance_id in dying:
            self._world.ec2.stop(instance_id)
        return len(dying)

    def _break(self, outage: Outage) -> None:
        ec2 = self._world.ec2
        ec2.faults.full.add((outage.zone, ""))
        for machine in list(ec2.machines.values()):
            if machine.zone == outage.zone:
                ec2.stop(machine.instance_id)
