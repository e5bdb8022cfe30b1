"""Does an instance work? What its agent said of its leases, and what it is taken for while it said nothing."""

from controller_asg.model.instance import PENDING_STATES
from controller_asg.planner.snapshot import Member


def busy(member: Member) -> bool:
    """It holds a lease, or served before and was not heard since the controller's start.

    One whose agent speaks and tells no leases has none: an older agent knows no such word.
    """
    agent = member.agent
    if agent is None or agent.leases is None:
        return (agent is None or not agent.samples) and member.instance.state not in PENDING_STATES
    return bool(agent.leases)


def protected(member: Member) -> bool:
    """From scale-in: by the operator's word or by a lease."""
    if member.instance.protected_from_scale_in:
        return True
    agent = member.agent
    if agent is None or not agent.leases:
        return False
    return any(lease.protect_from_scale_in for lease in agent.leases)
