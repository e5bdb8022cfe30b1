"""What operators do to the members of groups, and what they hold back for a while; all of it ends by itself."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

from controller_asg.model.errors import AsgError
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import LifecycleState
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby
from controller_asg.simulate.world import World

ACTOR = "operator"


async def regroup(world: World, chance: random.Random, tell: Callable[[str], None]) -> None:
    """One thing at random. What the controller refuses it may refuse."""
    if world.listening() is None or not world.disk.groups:
        return
    group = chance.choice(sorted(world.disk.groups))
    states = {i: one.state for i, one in world.disk.instances.items() if one.group == group}
    serving = sorted(i for i, state in states.items() if state is LifecycleState.IN_SERVICE)
    standby = sorted(i for i, state in states.items() if state is LifecycleState.STANDBY)
    strangers = sorted(i for i, machine in world.ec2.running.items() if not machine.group)
    decrement = chance.random() < 0.5
    until_at = world.clock.now() + timedelta(seconds=chance.choice((5, 30, 120)))
    hold = Hold(ACTOR, "a test", world.clock.now(), until_at)
    engine = world.engine
    try:
        async with asyncio.timeout(20):
            match chance.randrange(10):
                case 0 | 1 if serving:
                    one = chance.choice(serving)
                    tell(f"operator: enter-standby {one}, decrement {decrement}")
                    await world.ask(engine.move_instances(EnterStandby((one,), decrement, ACTOR), False))
                    if chance.random() < 0.2:
                        world.ec2.shut_down(one)
                    elif chance.random() < 0.2:
                        tell(f"operator: terminate {one}")
                        await world.ask(engine.terminate_instance(one, decrement, ACTOR))
                case 2 | 3 if standby:
                    tell(f"operator: exit-standby {standby[0]}")
                    await world.ask(engine.move_instances(ExitStandby((standby[0],), ACTOR), False))
                case 4 | 5 if serving + standby:
                    one = chance.choice(serving + standby)
                    tell(f"operator: detach {one}, decrement {decrement}")
                    await world.ask(engine.move_instances(Detach((one,), decrement, ACTOR), False))
                case 6 if strangers:
                    one = chance.choice(strangers)
                    world.ec2.machines[one].mute |= chance.random() < 0.3
                    tell(f"operator: attach {group} {one}, mute {world.ec2.machines[one].mute}")
                    await world.ask(engine.move_instances(Attach((one,), ACTOR), False, group))
                case 7 if serving:
                    one = chance.choice(serving)
                    tell(f"operator: protect {one} until {until_at}")
                    await world.ask(engine.protect_instances((one,), True, ACTOR, False, "a test", until_at))
                case 8:
                    everywhere = chance.random() < 0.3
                    held = tuple(Process) if everywhere else tuple(chance.sample(list(Process), 2))
                    tell(f"operator: suspend {', '.join(held)} until {until_at}")
                    await world.ask(engine.suspend("" if everywhere else group, held, hold, False))
                case 9 if chance.random() < 0.3:
                    tell(f"operator: thaw {group}")
                    await world.ask(engine.resume(group, tuple(Process), False))
                case _:
                    pass
    except (AsgError, TimeoutError, ConnectionResetError) as error:
        tell(f"operator: refused: {error}")


async def leave_standby(world: World, tell: Callable[[str], None]) -> None:
    """At the end nobody stands by in a group whose ceiling might not pay for those that serve then."""
    while parked := sorted(
        one.instance_id
        for one in world.disk.instances.values()
        if one.state is LifecycleState.STANDBY
        and (world.max_hourly_cost or world.disk.groups[one.group].group.max_hourly_cost is not None)
    ):
        if world.listening() is not None:
            tell(f"operator: terminate {parked[0]}")
            try:
                async with asyncio.timeout(20):
                    await world.ask(world.engine.terminate_instance(parked[0], False, ACTOR))
            except (AsgError, TimeoutError, ConnectionResetError) as error:
                tell(f"operator: refused: {error}")
        await asyncio.sleep(2)
