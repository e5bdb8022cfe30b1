"""Whether instances may be attached to a group: EC2 is asked before anything is journalled."""

from collections.abc import Collection

from controller_asg.cloud.port import Cloud
from controller_asg.engine.memory import Memory
from controller_asg.model.activity import ActivityKind
from controller_asg.model.errors import ConflictError, NotFoundError
from controller_asg.model.instance import APART_STATES, Ec2State


async def check_attachable(
    cloud: Cloud, memory: Memory, group: str, instance_ids: tuple[str, ...], zones: Collection[str]
) -> None:
    """Raises ConflictError for one that is in a group or in none of its `zones`, or does not run.

    Raises NotFoundError for one that EC2 does not know.
    """
    elsewhere = {
        instance_id: activity.group
        for activity in memory.open_activities.values()
        if activity.kind is ActivityKind.ATTACH
        for instance_id in activity.instance_ids
    }
    for instance_id in instance_ids:
        known = memory.instances.get(instance_id)
        if known is not None and known.group == group and known.state not in APART_STATES:
            continue
        if known is not None:
            raise ConflictError(f"is {known.state} in group {known.group}", instance_id, "detach it first")
        if elsewhere.get(instance_id, group) != group:
            what = f"is being attached to group {elsewhere[instance_id]}"
            raise ConflictError(what, instance_id, "detach it there first")
        seen = await cloud.instance(instance_id)
        if seen is None:
            raise NotFoundError("EC2 knows no such instance", instance_id, "name one of this region")
        if seen.group and instance_id not in elsewhere:
            raise ConflictError(f"is in group {seen.group}", instance_id, "detach it there first")
        if seen.state is not Ec2State.RUNNING:
            raise ConflictError(f"is {seen.state}", instance_id, "attach one that runs")
        if zones and seen.zone not in zones:
            where = ", ".join(sorted(zones))
            raise ConflictError(
                f"is in {seen.zone}, and the group in {where}", instance_id, "add its zone to launch.zones"
            )
