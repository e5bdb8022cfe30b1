"""The first design's rule: an instance above one bound creates an instance, one below the other goes itself."""

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import Thresholds
from controller_asg.policy.serving import Fleet


def vote(policy: Thresholds, fleet: Fleet) -> Vote:
    """One more than desired while any instance is above `create_above`; one fewer while any is below `delete_below`.

    A hot instance outweighs an idle one. The idlest instance is the victim. No reading at all: the policy abstains.
    """
    ids, values = fleet.readings(policy.metric, policy.window_seconds)
    if not values:
        return Vote(policy.name, None, fleet.unreported(policy.metric))
    hottest, idlest = max(values), min(values)
    if hottest > policy.create_above:
        seen = f"{policy.metric} {hottest:.4g} on {ids[values.index(hottest)]}, above {policy.create_above:g}"
        return Vote(policy.name, fleet.desired + 1, seen)
    if idlest < policy.delete_below:
        idle = sorted(
            (value, name) for value, name in zip(values, ids, strict=True) if value < policy.delete_below
        )
        seen = f"{policy.metric} {idlest:.4g} on {idle[0][1]}, below {policy.delete_below:g}"
        victims = tuple(name for _, name in idle)
        return Vote(policy.name, max(fleet.desired - 1, 0), seen, victims)
    seen = f"{policy.metric} {idlest:.4g} to {hottest:.4g}, within {policy.delete_below:g} to {policy.create_above:g}"
    return Vote(policy.name, fleet.desired, seen)
