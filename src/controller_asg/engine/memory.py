"""The controller's own state in memory: always what the store holds, changed only after a commit."""

from dataclasses import replace

from controller_asg.model.activity import Activity, ActivityStatus
from controller_asg.model.errors import NotFoundError
from controller_asg.model.instance import Instance
from controller_asg.model.record import Change, GroupRecord, State


class Memory:
    """Groups, their instances and the open activities, each by name or id."""

    def __init__(self, state: State) -> None:
        self.groups: dict[str, GroupRecord] = {record.group.name: record for record in state.groups}
        self.instances: dict[str, Instance] = {}
        self.by_group: dict[str, dict[str, Instance]] = {name: {} for name in self.groups}
        self.open_activities: dict[str, Activity] = {}
        self.apply(Change(instances=state.instances, activities=state.open_activities))

    def apply(self, change: Change) -> None:
        """What was just committed."""
        for record in change.groups:
            self.groups[record.group.name] = record
            self.by_group.setdefault(record.group.name, {})
        for instance_id in change.deleted_instances:
            instance = self.instances.pop(instance_id, None)
            if instance is not None:
                self.by_group[instance.group].pop(instance_id, None)
        for instance in change.instances:
            self.instances[instance.instance_id] = instance
            self.by_group[instance.group][instance.instance_id] = instance
        for activity in change.activities:
            if activity.status is ActivityStatus.IN_PROGRESS:
                self.open_activities[activity.activity_id] = activity
            else:
                self.open_activities.pop(activity.activity_id, None)
        for name in change.deleted_groups:
            self.groups.pop(name, None)
            for instance_id in self.by_group.pop(name, {}):
                self.instances.pop(instance_id, None)

    def reload(self, group: str, state: State) -> list[Activity]:
        """One group anew from the store. Returns open activities that were not known and whose call is to be made."""
        known = {activity.activity_id for activity in self.activities_of(group)}
        for activity_id in known:
            del self.open_activities[activity_id]
        for instance_id in self.by_group.pop(group, {}):
            self.instances.pop(instance_id, None)
        self.groups.pop(group, None)
        activities = tuple(a for a in state.open_activities if a.group == group)
        self.apply(
            Change(
                groups=tuple(record for record in state.groups if record.group.name == group),
                instances=tuple(one for one in state.instances if one.group == group),
                activities=activities,
            )
        )
        return [a for a in activities if a.activity_id not in known and not a.acknowledged]

    def activities_of(self, group: str) -> tuple[Activity, ...]:
        return tuple(a for a in self.open_activities.values() if a.group == group)

    def record(self, group: str) -> GroupRecord:
        """Raises NotFoundError."""
        if group not in self.groups:
            known = ", ".join(sorted(self.groups)) or "none yet"
            raise NotFoundError("no group has that name", f"groups.{group}", f"known groups: {known}")
        return self.groups[group]

    def instance(self, instance_id: str) -> Instance:
        """Raises NotFoundError."""
        if instance_id not in self.instances:
            raise NotFoundError(
                "is no instance of a group of ours",
                instance_id,
                "see `controller-asg instances`; nothing was touched",
            )
        return self.instances[instance_id]

    def link(self, activity_ids: list[str], decision_id: int) -> None:
        """Activities of a pass learn their decision's id, which the store gives at the commit."""
        for activity_id in activity_ids:
            activity = self.open_activities[activity_id]
            self.open_activities[activity_id] = replace(activity, decision_id=decision_id)
