"""Members that stand apart: on standby, on their way out of the group alive, or on their way in by an operator's word.

Standby and Detaching count in no size. A member leaves by its tags: it is Detaching until EC2 has not shown them for so
long that no late answer brings it back. One that is attached counts as a launch from the moment it is asked for, so
that nothing is launched in its place.
"""

from collections.abc import Mapping
from dataclasses import replace

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.decision import Step
from controller_asg.model.errors import ConflictError
from controller_asg.model.hold import Process
from controller_asg.model.instance import Ec2State, Instance, LifecycleState
from controller_asg.model.record import GroupRecord
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import MISSING_SECONDS
from controller_asg.planner.plan import TaggingPlan
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby, Member, Move, Outcome

# EC2 answers DeleteTags within seconds; an instance that still shows ours after so long is asked for again.
DETACH_AGAIN_SECONDS = 120.0

_IN_SERVICE, _STANDBY = LifecycleState.IN_SERVICE, LifecycleState.STANDBY
_DETACHING, _ENTERING = LifecycleState.DETACHING, LifecycleState.ENTERING_STANDBY


def moving(
    order: Move, record: GroupRecord, instances: Mapping[str, Instance], activities: Mapping[str, Activity]
) -> tuple[tuple[str, ...], int]:
    """(the instances that move, by how much desired capacity changes); those that moved already are left out.

    `activities` are the open ones. Raises ConflictError for the first instance, the bound or the suspended process that
    does not allow it.
    """
    suspension = record.suspension(Process.LAUNCH) if isinstance(order, ExitStandby | Attach) else None
    if suspension is not None:
        what = f"{suspension[0]} is suspended {suspension[1].said()}, so nothing comes into service"
        mend = f"controller-asg resume {record.group.name} Launch"
        raise ConflictError(what, f"groups.{record.group.name}", mend)
    match order:
        case EnterStandby():
            ids = _in_states(order, instances, "enter standby", (_IN_SERVICE,), (_ENTERING, _STANDBY))
            change = -len(ids) if order.decrement else 0
        case ExitStandby():
            already = (LifecycleState.PENDING, _IN_SERVICE)
            ids = _in_states(order, instances, "exit standby", (_STANDBY,), already)
            change = len(ids)
        case Detach():
            ids = _in_states(order, instances, "be detached", (_IN_SERVICE, _STANDBY), (_DETACHING,))
            for instance_id in ids:
                launch = activities.get(instances[instance_id].activity_id)
                if launch is not None and not launch.acknowledged:
                    # Its answer would bring the instance back.
                    what = "is of a launch that EC2 has not answered yet"
                    raise ConflictError(what, instance_id, "ask again in a moment")
            serving = sum(instances[instance_id].state is _IN_SERVICE for instance_id in ids)
            change = -serving if order.decrement else 0
        case Attach():
            coming = {i for a in activities.values() if a.kind is ActivityKind.ATTACH for i in a.instance_ids}
            ids = tuple(i for i in order.instance_ids if i not in instances and i not in coming)
            change = len(ids)
    _within(record, change)
    return ids, change


def _in_states(
    order: EnterStandby | ExitStandby | Detach,
    instances: Mapping[str, Instance],
    verb: str,
    movable: tuple[LifecycleState, ...],
    already: tuple[LifecycleState, ...],
) -> tuple[str, ...]:
    for instance_id in order.instance_ids:
        state = instances[instance_id].state if instance_id in instances else None
        if state not in movable + already:
            words = " or ".join(movable)
            raise ConflictError(f"is {state or 'gone'}", instance_id, f"only what is {words} can {verb}")
    return tuple(i for i in order.instance_ids if instances[i].state in movable)


def _within(record: GroupRecord, change: int) -> None:
    wanted, where = record.desired_capacity + change, f"groups.{record.group.name}"
    if change < 0 and wanted < record.min_size:
        what = f"desired capacity {wanted} would be below min_size {record.min_size}"
        raise ConflictError(
            what, where, "lower min_size, or leave the size as it is: a replacement is launched"
        )
    if change > 0 and wanted > record.max_size:
        what = f"desired capacity {wanted} would be above max_size {record.max_size}"
        raise ConflictError(what, where, "raise max_size, or make room first")


def take(draft: Draft, order: Move) -> tuple[int, str]:
    """Carry the order out; returns by how much desired capacity changes, and why.

    The door asked `moving` before; what does not hold any more is left, and a step says so.
    """
    desired = draft.record.desired_capacity
    instances = {i: draft.members[i].instance for i in order.instance_ids if i in draft.members}
    try:
        ids, change = moving(order, draft.record, instances, draft.activities)
    except ConflictError as error:
        draft.steps.append(Step("order", desired, desired, f"not done: {error}"))
        return 0, ""
    verb = {
        EnterStandby: "on standby",
        ExitStandby: "back from standby",
        Detach: "detached",
        Attach: "attached",
    }
    reason = f"{verb[type(order)]} on the word of {order.actor}"
    state = {EnterStandby: _ENTERING, ExitStandby: LifecycleState.PENDING, Detach: _DETACHING}.get(
        type(order)
    )
    for instance_id in ids:
        if state is None:
            # One activity each: what EC2 refuses for one leaves the others.
            draft.taggings.append(TaggingPlan(ActivityKind.ATTACH, (instance_id,), reason))
        else:
            draft.move(instances[instance_id], state, reason)
    if ids and isinstance(order, Detach):
        draft.taggings.append(TaggingPlan(ActivityKind.DETACH, ids, reason))
    said = f"{', '.join(ids)} {reason}"
    if ids and not change:
        draft.steps.append(Step("order", desired, desired, said))
    return change, said


def stay_apart(draft: Draft, member: Member) -> None:
    """A member that no rule of size or health touches; forgotten when EC2 says that it is gone, or not ours."""
    instance, cloud, missing = member.instance, member.cloud, member.missing_seconds
    dead = cloud is not None and cloud.state in (Ec2State.SHUTTING_DOWN, Ec2State.TERMINATED)
    if dead or (missing is not None and missing >= MISSING_SECONDS):
        draft.forget(instance.instance_id)
    elif instance.state is _ENTERING:
        draft.move(instance, _STANDBY)
    elif (
        instance.state is _DETACHING
        and draft.watched_seconds(instance.state_since_at) >= DETACH_AGAIN_SECONDS
    ):
        _detach_again(draft, instance)


def _detach_again(draft: Draft, instance: Instance) -> None:
    for activity in list(draft.activities.values()):
        of_it = activity.kind is ActivityKind.DETACH and instance.instance_id in activity.instance_ids
        if not of_it or activity.status is not ActivityStatus.IN_PROGRESS:
            continue
        if not activity.acknowledged:
            return  # its call is still being made
        draft.end(activity, ActivityStatus.FAILED, f"{instance.instance_id} still carries our tags")
    draft.put(replace(instance, state_since_at=draft.now))
    draft.taggings.append(TaggingPlan(ActivityKind.DETACH, (instance.instance_id,), instance.reason))


def detach_ended(draft: Draft, activity: Activity, outcome: Outcome) -> None:
    if outcome.error is not None:
        draft.end(activity, ActivityStatus.FAILED, str(outcome.error))
    else:
        draft.update(replace(activity, acknowledged=True))


def attach_failed(draft: Draft, activity: Activity, outcome: Outcome) -> None:
    """EC2 refused, so nobody comes."""
    draft.end(activity, ActivityStatus.FAILED, str(outcome.error))
    _give_back(draft, activity.instance_ids, str(outcome.error))


def send_back(draft: Draft, instance: Instance, reason: str) -> None:
    """An attached instance that can't serve leaves as it came, alive: it is somebody's own."""
    if draft.held(f"detach {instance.instance_id}: {reason}", Process.TERMINATE):
        return
    draft.move(instance, _DETACHING, reason)
    draft.taggings.append(TaggingPlan(ActivityKind.DETACH, (instance.instance_id,), reason))
    _give_back(draft, (instance.instance_id,), reason)


def _give_back(draft: Draft, instance_ids: tuple[str, ...], why: str) -> None:
    """Desired capacity is what it was before it was raised for the one that was attached."""
    desired = draft.record.desired_capacity
    reason = f"{', '.join(instance_ids)} was not attached: {why}"
    draft.steps.append(Step("attach", desired, max(desired - 1, 0), reason))
    draft.record = replace(draft.record, desired_capacity=max(desired - 1, 0))
