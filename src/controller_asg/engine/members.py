"""Whose agents may speak."""

from collections.abc import Iterable, Iterator, Mapping

from controller_asg.model.instance import LEAVING_STATES, CloudInstance, Instance, LifecycleState
from controller_asg.monitor.agent import Member

# In Terminating:Wait the agent still drains and runs hooks; once termination is called it falls silent, and rightly.
_MUTE = LEAVING_STATES - {LifecycleState.TERMINATING_WAIT}


def may_speak(instances: Iterable[Instance], seen: Mapping[str, CloudInstance]) -> Iterator[Member]:
    """For `Fleet.expect`. Addresses come from EC2's view, by instance id, as soon as it has one."""
    for instance in instances:
        if instance.state in _MUTE:
            continue
        cloud = seen.get(instance.instance_id)
        address = cloud.private_ip if cloud is not None and cloud.private_ip else instance.private_ip
        serving = instance.state is LifecycleState.IN_SERVICE
        yield Member(instance.instance_id, instance.group, address, watch=serving)
