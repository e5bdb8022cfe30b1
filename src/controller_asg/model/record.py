"""What the controller itself keeps of a group beside its document, and one transaction's worth of changes to it all."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from controller_asg.model.activity import Activity
from controller_asg.model.decision import Decision
from controller_asg.model.group import Bootstrap, Group, LaunchParameters
from controller_asg.model.hold import Hold, Process
from controller_asg.model.immutable import immutable
from controller_asg.model.instance import Instance
from controller_asg.model.offering import Offering
from controller_asg.model.refresh import InstanceRefresh


@dataclass(frozen=True, slots=True)
class LaunchBackoff:
    """Failed launches in a row: no launch of that offering before `until_at`; None: none of the group."""

    offering: Offering | None
    failures: int
    until_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class LastChange:
    """When a policy last changed the size, in one direction ("out" or "in"); cooldowns count from it."""

    policy: str
    direction: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The time up to which an action is done with. `in_force`: it was carried out then, and its bounds hold."""

    action: str
    at: datetime
    in_force: bool


@dataclass(frozen=True, slots=True)
class WishedRange:
    """Between which capacities the policies' wish was meanwhile; `until_at` None: it still is there."""

    since_at: datetime
    until_at: datetime | None
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class LaunchTemplate:
    """What an instance is launched from, pinned when its document was applied: equal `version`, equal template."""

    version: str
    image_id: str
    launch: LaunchParameters
    bootstrap: Bootstrap


@dataclass(frozen=True, slots=True)
class LaunchMemory:
    """What earlier launches taught.

    `good` is the newest template of which an instance came into service. `failures` are (template version, how many of
    its instances in a row did not). `recent` are (when, how many) launches within the growth window.
    """

    good: LaunchTemplate | None = None
    failures: tuple[tuple[str, int], ...] = ()
    recent: tuple[tuple[datetime, int], ...] = ()


@immutable
class GroupRecord:
    """A group as the store holds it. `version` counts applied documents; `image_id` was found when it was applied.

    `scheduled` are those of the document's actions that were due once. `size_changes` are (when, by how many) policies
    changed the size, and `wished` is what they wished, as far back as the group's `behavior` looks. `templates`
    are those of earlier documents, the newest last; `refresh` is the last one, under way or ended.
    changed the size, and `wished` is what they wished, as far back as the group's `behavior` looks. `spot_returned_at`:
    when a Spot instance was last launched for an On-Demand one to go.
    """

    group: Group
    version: int
    image_id: str
    launch_version: str
    desired_capacity: int
    applied_at: datetime
    backoffs: tuple[LaunchBackoff, ...] = ()
    last_changes: tuple[LastChange, ...] = ()
    launch_memory: LaunchMemory = LaunchMemory()
    scheduled: tuple[Scheduled, ...] = ()
    size_changes: tuple[tuple[datetime, int], ...] = ()
    wished: tuple[WishedRange, ...] = ()
    templates: tuple[LaunchTemplate, ...] = ()
    refresh: InstanceRefresh | None = None
    spot_returned_at: datetime | None = None
    suspended: tuple[tuple[Process, Hold], ...] = ()  # each process once
    # By instance id, of those whose scale-in protection somebody set; others have it by the document, or from earlier.
    protections: tuple[tuple[str, Hold], ...] = ()
    # What a forecast raises max_size to; 0: nothing.
    forecast_max_size: int = 0
    # (policy, since when it has had nothing to go by), of those that fall back on a floor.
    missing_since: tuple[tuple[str, datetime], ...] = ()
    # (policy, id) of the signed messages that were carried out lately, the newest of a policy last.
    messages: tuple[tuple[str, str], ...] = ()

    def suspension(self, *processes: Process) -> tuple[Process, Hold] | None:
        """The first of the processes that is suspended."""
        return next((each for each in self.suspended if each[0] in processes), None)

    @property
    def min_size(self) -> int:
        """The bound that holds now, by the document or a scheduled action."""
        return self.bound("min_size")[0]

    @property
    def max_size(self) -> int:
        """As `min_size`; a forecast may have raised it."""
        return max(self.bound("max_size")[0], self.forecast_max_size)

    def bound(self, key: Literal["min_size", "max_size"]) -> tuple[int, str]:
        """(its value, the scheduled action that set it); "" where it is the document's.

        Actions that run for a time come first, the largest bound of them, then the action that set it last.
        """
        own: int = getattr(self.group, key)
        if not self.scheduled:
            return own, ""
        actions = {action.name: action for action in self.group.scheduled_actions}
        lasting: list[tuple[datetime, int, str]] = []
        running: list[tuple[int, str]] = []
        for done in self.scheduled:
            action = actions[done.action]
            value: int | None = getattr(action, key)
            if not done.in_force or value is None:
                continue
            if action.duration_seconds is None:
                lasting.append((done.at, value, action.name))
            else:
                running.append((value, action.name))
        if running:
            return max(running)
        return max(lasting)[1:] if lasting else (own, "")

    @property
    def template(self) -> LaunchTemplate:
        """What the applied document says."""
        return LaunchTemplate(self.launch_version, self.image_id, self.group.launch, self.group.bootstrap)


@dataclass(frozen=True, slots=True)
class PolicyMemories:
    """What the policies of a group remember, as JSON text (less than 400 kB a policy) that the engine alone reads."""

    group: str
    document: str


@dataclass(frozen=True, slots=True)
class DemandMinute:
    """Means over one minute: the demand in instances at 100 % CPU of those that report, and how many were in service.

    `minute_at` is its begin. Full instances hide what more was asked for.
    """

    group: str
    minute_at: datetime
    demand: float
    in_service: float


@dataclass(frozen=True, slots=True)
class State:
    """All that is durable and live: ended activities and decisions are asked for by themselves."""

    groups: tuple[GroupRecord, ...]
    instances: tuple[Instance, ...]
    open_activities: tuple[Activity, ...]


@immutable
class Change:
    """One transaction: all of it, or nothing."""

    groups: tuple[GroupRecord, ...] = ()
    deleted_groups: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    deleted_instances: tuple[str, ...] = ()
    activities: tuple[Activity, ...] = ()
    memories: tuple[PolicyMemories, ...] = ()
    demand: tuple[DemandMinute, ...] = ()
    # decision_id 0: a new row; else times, count and reasons of that row are written anew.
    decision: Decision | None = None
