"""Demand tracking as a follower of a rehearsal.

It calls the policy's own `decide` with the load of the tick before: building a Fleet with a reading for each instance,
and a Vote with its line, would take longer than the whole rest of a tick.
"""

from collections.abc import Callable

from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.demand_tracking import FULL, Load, decide, explain
from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import Follower, Seen


def demand_tracking(
    policy: DemandTracking,
    delay_seconds: float = 120.0,
    tell: Callable[[int, str], None] = lambda tick, line: None,
) -> Follower:
    """A fresh one, with an empty memory. `tell` hears each change it asks for: the tick, and its line."""
    memory = DemandMemory()

    def follow(seen: Seen) -> int:
        if not seen.tick:
            return seen.desired
        load = Load(seen.utilisation * seen.served_by, seen.served_by, 0, seen.utilisation >= FULL)
        now = float(seen.tick * TICK_SECONDS)
        wish = decide(policy, memory, load, seen.desired, seen.booting, now, delay_seconds)
        if policy.disable_scale_in and wish.capacity < seen.desired:
            return seen.desired
        if wish.capacity != seen.desired:
            tell(seen.tick, explain(memory, load, wish, seen.desired, delay_seconds))
        return wish.capacity

    return follow
