"""Does an instance work? What its agent said of its leases, and what it is taken for while it said nothing."""

from controller_asg.model.instance import AgentView, Instance
from controller_asg.planner.snapshot import Member


def busy(member: Member) -> bool:
    """It holds a lease, or may have served before (adopted, attached) and was not heard since the start.

    One whose agent speaks and tells no leases has none: an older agent knows no such word.
    """
    agent = member.agent
    if agent is None or agent.leases is None:
        return not member.instance.is_new and (agent is None or not agent.samples)
    return bool(agent.leases)


def protected(instance: Instance, agent: AgentView | None) -> bool:
    """From scale-in: by the operator's word or by a lease."""
    if instance.protected_from_scale_in:
        return True
    if agent is None or not agent.leases:
        return False
    return any(lease.protect_from_scale_in for lease in agent.leases)
