"""Zones made level again, one instance at a time: launched in the emptiest zone first, then the fullest gives one up.

Off unless the group asks for it. What follows the launch is the ordinary shrinking, which takes from the fullest zone;
here is only when to begin, and that nobody goes before the new one serves.
"""

from collections import Counter
from collections.abc import Sequence

from controller_asg.model.hold import Process
from controller_asg.model.instance import PENDING_STATES
from controller_asg.planner import leases, maintenance, offerings
from controller_asg.planner.draft import Draft
from controller_asg.planner.snapshot import Member

# Two zones that differ by one are level: an odd number can't be split.
UNEVEN_BY = 2


def emptiest(draft: Draft, members: Sequence[Member]) -> tuple[str, str] | None:
    """(subnet, zone) where one more would make zones more level; None when they are level, or no launch is allowed."""
    if not draft.group.rebalance_zones or not draft.snapshot.subnets:
        return None
    # Without Terminate it would only grow, as EC2's own rebalancing does then.
    if draft.record.suspension(Process.AZ_REBALANCE, Process.LAUNCH, Process.TERMINATE) is not None:
        return None
    serving = [m.instance for m in members if m.instance.state not in PENDING_STATES]
    counts = Counter(instance.zone for instance in serving)
    # A zone gives one up only where shrinking would take it from there.
    givers = {
        m.instance.zone
        for m in members
        if m.instance.state not in PENDING_STATES
        and not leases.protected(m.instance, m.agent)
        and not leases.busy(m)
    }
    allowed = [(subnet, zone) for subnet, zone in draft.snapshot.subnets if offerings.anything(draft, zone)]
    if not allowed or not givers:
        return None
    best = min(allowed, key=lambda place: counts[place[1]])
    return best if max(counts[zone] for zone in givers) - counts[best[1]] >= UNEVEN_BY else None


def under_way(draft: Draft, members: Sequence[Member], surplus: int, launching: int) -> bool:
    """The surplus is the one instance that was launched for this, and it is not ready yet."""
    if surplus != 1 or not draft.group.rebalance_zones:
        return False
    booting = sum(not maintenance.is_ready(draft, m.instance) for m in members)
    return booting + launching == 1 and emptiest(draft, members) is not None
