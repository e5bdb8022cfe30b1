"""What operators of some worlds do with instance refreshes, by a chance of its own."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from controller_asg.model.errors import AsgError
from controller_asg.model.instance import LifecycleState
from controller_asg.model.record import GroupRecord
from controller_asg.model.refresh import RefreshStatus
from controller_asg.planner.snapshot import RefreshAction
from controller_asg.simulate.ec2 import BAD_IMAGE, GOOD_IMAGE
from controller_asg.simulate.world import World

# Worlds whose seed leaves this rest have refreshes, maintenance policies and termination policies.
SHARE, REST = 7, 4
BAD_SHARE = 0.25

ACTIONS: tuple[RefreshAction, ...] = ("start", "start", "start", "cancel", "rollback", "pause", "resume")
TERMINATION_POLICIES = (
    "OldestInstance",
    "NewestInstance",
    "OldestLaunchTemplate",
    "OldestLaunchConfiguration",
    "ClosestToNextInstanceHour",
    "LeastLoaded",
)


def _last_order(world: World, record: GroupRecord) -> RefreshAction | None:
    refresh = record.refresh
    if refresh is None or not refresh.active or refresh.status is RefreshStatus.CANCELLING:
        return None
    name = record.group.name
    stand_by = any(
        one.group == name and one.state is LifecycleState.STANDBY for one in world.disk.instances.values()
    )
    if stand_by or record.group.max_hourly_cost is not None or world.max_hourly_cost:
        return "cancel"
    return "resume" if refresh.paused else None


class Refreshes:
    """The refreshes of one world. `tell` gets a line for each order."""

    def __init__(self, seed: int, tell: Callable[[str], None]) -> None:
        self._chance = random.Random(f"{seed}:refreshes")  # noqa: S311 - so that it moves nothing else
        self._tell = tell
        self._rounds = 0

    def keys(self) -> dict[str, Any]:
        """What a document of such a world has beside the others' keys."""
        chance = self._chance
        low = chance.choice((0, 50, 90, 100))
        high = min(low + 100, chance.choice((100, 110, 150, 200)))
        policy = {"min_healthy_percentage": low, "max_healthy_percentage": high}
        return {
            "instance_maintenance_policy": policy if chance.random() < 0.5 else None,
            "max_instance_lifetime_seconds": chance.choice((0, 86_400)),
            "termination_policies": [*chance.sample(TERMINATION_POLICIES, chance.randint(0, 2)), "Default"],
        }

    async def operate(self, world: World, documents: dict[str, dict[str, Any]], seconds: float) -> None:
        """Order something now and then. What the controller refuses it may refuse."""
        ends = world.loop.time() + seconds
        while world.loop.time() < ends:
            await asyncio.sleep(self._chance.uniform(5, 40))
            if world.listening() is None or not world.disk.groups:
                continue
            group = self._chance.choice(sorted(world.disk.groups))
            action = self._chance.choice(ACTIONS)
            preferences = self._preferences()
            if action == "start" and self._chance.random() < 0.7:
                self._rounds += 1
                image = BAD_IMAGE if self._chance.random() < BAD_SHARE else GOOD_IMAGE
                launch = {"image": {"id": image}, "tags": {"refreshed": str(self._rounds)}}
                documents[group] = {**documents[group], "launch": launch}
                if not await self._ask(
                    world, f"apply {group} {launch}", self._apply, group, documents[group]
                ):
                    continue
            await self._ask(world, f"{action} refresh of {group}", self._order, group, action, preferences)

    async def leave_to_end(self, world: World) -> None:
        """At the end nobody keeps one paused, and what waits for Standby, or for money, is cancelled."""
        while waiting := [
            (record.group.name, action)
            for record in world.disk.groups.values()
            if (action := _last_order(world, record)) is not None
        ]:
            group, action = waiting[0]
            if world.listening() is not None:
                await self._ask(world, f"{action} refresh of {group}", self._order, group, action, {})
            await asyncio.sleep(2)

    async def _ask(self, world: World, said: str, ask: Callable[..., Any], *arguments: Any) -> bool:
        self._tell(f"operator: {said}")
        try:
            async with asyncio.timeout(20):
                await world.ask(ask(world, *arguments))
        except (AsgError, TimeoutError, ConnectionResetError) as error:
            self._tell(f"operator: refused: {error}")
            return False
        return True

    async def _apply(self, world: World, group: str, document: dict[str, Any]) -> None:
        await world.engine.apply_groups({group: document}, False)

    async def _order(
        self, world: World, group: str, action: RefreshAction, preferences: dict[str, Any]
    ) -> None:
        if action == "start":
            await world.engine.start_instance_refresh(group, preferences, "operator", False)
        else:
            await world.engine.change_instance_refresh(group, action, "operator", False)

    def _preferences(self) -> dict[str, Any]:
        chance = self._chance
        low = chance.choice((None, 0, 50, 90, 100))
        steps = chance.sample((10, 30, 50, 80), chance.randint(0, 2))
        return {
            "min_healthy_percentage": low,
            "max_healthy_percentage": None if low is None else min(low + 100, chance.choice((100, 120, 200))),
            "instance_warmup_seconds": chance.choice((None, 0, 10)),
            "checkpoint_percentages": [*sorted(steps), 100],
            "checkpoint_delay_seconds": chance.choice((5, 40)),
            "bake_time_seconds": chance.choice((0, 0, 20)),
            "skip_matching": chance.random() < 0.5,
            "auto_rollback": chance.random() < 0.5,
            "scale_in_protected_instances": chance.choice(("Refresh", "Ignore", "Wait")),
        }
