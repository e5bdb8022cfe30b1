"""Does an instance work? What its agent said of its leases, and what it is taken for while it said nothing."""

from controller_asg.model.instance import AgentView, Instance
from controller_asg.planner.snapshot import Member

# So long after its last word nobody knows what an instance works on.
UNHEARD_SECONDS = 5.0


def busy(member: Member) -> bool:
    """It holds a lease, or may have served (adopted and attached ones may too) and is not heard: who knows?

    One whose agent speaks and tells no leases has none: an older agent knows no such word.
    """
    agent = member.agent
    if agent is None or (agent.leases is None and not agent.samples):
        return not member.instance.is_new
    unheard = agent.silent_seconds is not None and agent.silent_seconds >= UNHEARD_SECONDS
    return bool(agent.leases) or (unheard and not member.instance.is_new)


def protected(instance: Instance, agent: AgentView | None) -> bool:
    """From scale-in: by the operator's word or by a lease."""
    if instance.protected_from_scale_in:
        return True
    if agent is None or not agent.leases:
        return False
    return any(lease.protect_from_scale_in for lease in agent.leases)
