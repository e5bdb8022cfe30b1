"""In which order instances of one zone go when the group shrinks: EC2's termination policies, one after another."""

from collections.abc import Callable
from datetime import datetime, timedelta

from controller_asg.model.group import TerminationPolicy
from controller_asg.model.record import GroupRecord
from controller_asg.planner.snapshot import Member

HOUR = timedelta(hours=1)

Key = Callable[[Member], float]
# Smaller goes first. The last two make it an order: what EC2 leaves to chance, age and id decide here.
Turn = Callable[[Member], tuple[float | str, ...]]


def turn(record: GroupRecord, now: datetime) -> Turn:
    """Whose turn it is by the group's `termination_policies`."""
    age = [template.version for template in record.templates]

    def template(member: Member) -> float:
        """The oldest first; one that nobody knows is older than all, the applied one the newest."""
        version = member.instance.launch_version
        if version == record.launch_version:
            return len(age)
        return age.index(version) if version in age else -1

    def launched(member: Member) -> float:
        return member.instance.launched_at.timestamp()

    def to_next_hour(member: Member) -> float:
        """In whole minutes, so that those of one launch are alike."""
        return 59 - (now - member.instance.launched_at) % HOUR // timedelta(minutes=1)

    def load(member: Member) -> float:
        """One that has said nothing goes last."""
        return member.agent.metrics.get("cpu_percent", 101.0) if member.agent is not None else 101.0

    keys: dict[TerminationPolicy, tuple[Key, ...]] = {
        "Default": (template, to_next_hour),
        "OldestInstance": (launched,),
        "NewestInstance": (lambda member: -launched(member),),
        "OldestLaunchTemplate": (template,),
        "OldestLaunchConfiguration": (template,),
        "ClosestToNextInstanceHour": (to_next_hour,),
        "LeastLoaded": (load,),
    }
    chosen = [key for policy in record.group.termination_policies for key in keys[policy]]
    return lambda member: (*(key(member) for key in chosen), launched(member), member.instance.instance_id)
