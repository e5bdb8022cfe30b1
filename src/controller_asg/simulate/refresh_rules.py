"""What must be true of instance refreshes, and of whatever else replaces instances, at every commit and at rest."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.group import healthy_range
from controller_asg.model.instance import (
    APART_STATES,
    LEAVING_STATES,
    PARKED_STATES,
    Instance,
    LifecycleState,
)
from controller_asg.model.record import Change, GroupRecord
from controller_asg.model.refresh import ACTIVE, InstanceRefresh, RefreshStatus
from controller_asg.planner import launches
from controller_asg.planner.maintenance import bounds

BY_REFRESH, BY_AGE = "instance refresh", "was in service for nine tenths"
BACK = frozenset(
    {RefreshStatus.ROLLBACK_IN_PROGRESS, RefreshStatus.ROLLBACK_SUCCESSFUL, RefreshStatus.ROLLBACK_FAILED}
)

Violate = Callable[[str, str], None]


def range_of(record: GroupRecord) -> tuple[int, int]:
    """Between which percentages the group's instances are replaced now."""
    refresh = record.refresh
    if refresh is None or refresh.status not in ACTIVE:
        return healthy_range(record.group)
    low, high = refresh.preferences.min_healthy_percentage, refresh.preferences.max_healthy_percentage
    assert low is not None
    assert high is not None
    return low, high


def allowance(record: GroupRecord) -> int:
    """How many instances the group may have. Unhealthy ones are replaced by its own policy during a refresh too."""
    desired = record.desired_capacity
    ceilings = [bounds(desired, *each).ceiling for each in (range_of(record), healthy_range(record.group))]
    return max(record.max_size, *ceilings)


def floor_of(record: GroupRecord, reason: str) -> int:
    """How many must stay in service when one goes for that reason."""
    low = range_of(record)[0]
    if not reason.startswith((BY_REFRESH, BY_AGE)):
        low = (
            max(record.group.min_healthy_percentage, low)
            if is_refreshed(record)
            else record.group.min_healthy_percentage
        )
    return math.ceil(record.desired_capacity * low / 100)


def is_refreshed(record: GroupRecord) -> bool:
    return record.refresh is not None and record.refresh.active


def committed(
    change: Change,
    groups: Mapping[str, GroupRecord],
    instances: Mapping[str, Instance],
    open_activities: Iterable[Activity],
    violate: Violate,
) -> None:
    """`groups`, `instances` and `open_activities` are those before the change."""
    for record in change.groups:
        known = groups.get(record.group.name)
        now, before = record.refresh, known.refresh if known is not None else None
        if now is None:
            continue
        after = {**instances, **{one.instance_id: one for one in change.instances}}
        gone = set(change.deleted_instances)
        own = [
            one
            for one in after.values()
            if one.group == record.group.name
            and one.state not in LEAVING_STATES
            and one.instance_id not in gone
        ]
        if before is not None and before.refresh_id == now.refresh_id:
            _goes_on(before, now, violate)
        if now.status is RefreshStatus.SUCCESSFUL and (before is None or before.status in ACTIVE):
            _nobody_is_outdated(record, now, own, violate)
        if now.active and now.status is not RefreshStatus.CANCELLING:
            _within_the_allowance(record, change, own, instances, open_activities, violate)


def _goes_on(before: InstanceRefresh, now: InstanceRefresh, violate: Violate) -> None:
    same_way = (before.status in BACK) == (now.status in BACK)
    if same_way and now.percentage_complete < before.percentage_complete:
        what = f"{now.refresh_id} {before.percentage_complete} became {now.percentage_complete}"
        violate("a refresh never goes back", what)
    if not before.active and now != before and now.status not in BACK:
        violate("what ended stays so", f"{now.refresh_id} {before.status} became {now.status}")


def _nobody_is_outdated(
    record: GroupRecord, refresh: InstanceRefresh, own: Iterable[Instance], violate: Violate
) -> None:
    ignored = refresh.preferences.scale_in_protected_instances == "Ignore"
    for one in own:
        if one.state is LifecycleState.DETACHING:
            continue
        if one.launch_version != record.launch_version and not (one.protected_from_scale_in and ignored):
            violate("nobody is outdated after a refresh", f"{one.instance_id} of {one.launch_version}")


def _within_the_allowance(
    record: GroupRecord,
    change: Change,
    own: list[Instance],
    instances: Mapping[str, Instance],
    open_activities: Iterable[Activity],
    violate: Violate,
) -> None:
    """What it launches; an unhealthy instance and its replacement may be there together below max_size."""
    new = [a for a in change.activities if a.kind is ActivityKind.LAUNCH and not a.instance_ids]
    new = [a for a in new if a.status is ActivityStatus.IN_PROGRESS and not a.acknowledged]
    if not new or any(activity.cause.startswith("replace ") for activity in new):
        return
    ended = {
        a.activity_id
        for a in change.activities
        if a.status is not ActivityStatus.IN_PROGRESS or a.acknowledged
    }
    here = {**instances, **{one.instance_id: one for one in change.instances}}
    known = Counter(one.activity_id for one in here.values())
    waiting = {
        a.activity_id: max(0, a.instance_count - known[a.activity_id])
        for a in (*open_activities, *new)
        if a.kind is ActivityKind.LAUNCH
        and a.group == record.group.name
        and not a.acknowledged
        and a.activity_id not in ended
    }
    there = sum(one.state not in APART_STATES for one in own) + sum(waiting.values())
    allowed = bounds(record.desired_capacity, *range_of(record)).ceiling
    if there > allowed:
        violate("a refresh stays within its allowance", f"{record.group.name} has {there} of {allowed}")


def unsettled(record: GroupRecord, own: Iterable[Instance]) -> list[str]:
    """What is not as it should be at rest. One that waits for somebody's hand may wait."""
    refresh, name = record.refresh, record.group.name
    if refresh is None:
        return []
    own = list(own)
    asked = refresh.preferences
    kept = any(
        (one.protected_from_scale_in and asked.scale_in_protected_instances == "Wait")
        or (one.state in PARKED_STATES and asked.standby_instances == "Wait")
        for one in own
    )
    if refresh.active and not kept:
        return [f"{name}: its refresh is {refresh.status}, {refresh.percentage_complete} %"]
    # Who was refreshed while it had no instances has proven nothing, and may launch its last good version.
    proven = launches.fall_back(record) is None
    if refresh.status is RefreshStatus.SUCCESSFUL and refresh.version == record.launch_version and proven:
        outdated = [
            one.instance_id
            for one in own
            if one.launch_version != record.launch_version
            and not one.protected_from_scale_in
            and not one.reason.startswith("adopted")
            and one.state is LifecycleState.IN_SERVICE
        ]
        return [f"{name}: outdated after a refresh: {outdated}"] if outdated else []
    return []
