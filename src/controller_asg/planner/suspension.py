"""What somebody holds back for a while, and what holds end: suspended processes of a group, protected instances.

A process that is suspended is asked for where its rule stands (`Draft.held`); here is what is left.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from controller_asg.model.decision import Step
from controller_asg.model.errors import ConflictError
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Instance
from controller_asg.model.record import GroupRecord
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import Health, Verdict
from controller_asg.planner.snapshot import Protect


def end_due(draft: Draft) -> None:
    """Holds whose time is over end; so does the protection of an instance that is gone."""
    record, now = draft.record, draft.now
    if not record.suspended and not record.protections:
        return
    suspended = tuple((process, hold.mended(now)) for process, hold in record.suspended)
    protections = tuple(
        (name, hold.mended(now)) for name, hold in record.protections if name in draft.members
    )
    for process, hold in suspended:
        if hold.over(now):
            _note(draft, "resumed", f"{process} was suspended {hold.said()}")
    for name, hold in protections:
        if hold.over(now):
            draft.put(replace(draft.members[name].instance, protected_from_scale_in=False))
            _note(draft, "unprotected", f"{name} was protected from scale-in {hold.said()}")
    draft.record = replace(
        record,
        suspended=tuple(each for each in suspended if not each[1].over(now)),
        protections=tuple(each for each in protections if not each[1].over(now)),
    )


def _note(draft: Draft, name: str, reason: str) -> None:
    desired = draft.record.desired_capacity
    draft.steps.append(Step(name, desired, desired, reason))


def protect(draft: Draft, order: Protect, instance_id: str) -> None:
    """Protection is set, with who set it, why and until when; or it is taken back."""
    draft.put(replace(draft.members[instance_id].instance, protected_from_scale_in=order.protected))
    others = tuple(each for each in draft.record.protections if each[0] != instance_id)
    hold = Hold(order.actor, order.reason, draft.now, order.until_at)
    new = ((instance_id, hold),) if order.protected else ()
    draft.record = replace(draft.record, protections=(*others, *new))


def protected_by(record: GroupRecord) -> str:
    """` (i-… until … by anna: reason; …)` of up to three whose protection somebody set."""
    said = [f"{name} {hold.said()}" for name, hold in record.protections[:3]]
    more = "; …" if len(record.protections) > len(said) else ""
    return f" ({'; '.join(said)}{more})" if said else ""


def protection_differs(record: GroupRecord, instance: Instance, order: Protect) -> bool:
    """Whether the order changes anything: the protection itself, or its reason or end where the order tells one."""
    if instance.protected_from_scale_in != order.protected:
        return True
    if not order.protected or not (order.reason or order.until_at):
        return False
    hold = dict(record.protections).get(instance.instance_id)
    return hold is None or (hold.reason, hold.until_at) != (order.reason, order.until_at)


def judged(draft: Draft, instance_id: str, verdict: Verdict) -> Verdict:
    """The verdict as it counts: while HealthCheck is suspended only what somebody told makes an instance unhealthy."""
    if verdict.health is not Health.UNHEALTHY or verdict.told:
        return verdict
    if not draft.held(f"take {instance_id} for unhealthy: {verdict.reason}", Process.HEALTH_CHECK):
        return verdict
    reason = f"{verdict.reason}; held, HealthCheck is suspended"
    return replace(verdict, health=Health.SUSPECT, reason=reason)


def taken(draft: Draft, capacity: int) -> int:
    """The policies' wish, or desired capacity as it is while they may not scale in that direction."""
    desired = draft.record.desired_capacity
    if capacity == desired:
        return capacity
    ways = (
        (Process.SCALE_OUT, Process.LAUNCH) if capacity > desired else (Process.SCALE_IN, Process.TERMINATE)
    )
    return desired if draft.held(f"scale to {capacity}", Process.ALARM_NOTIFICATION, *ways) else capacity


def note_condition(draft: Draft) -> None:
    if draft.record.suspended:
        draft.conditions.append(("Frozen" if frozen(draft.record) else "Suspended", said(draft.record)))


def frozen(record: GroupRecord) -> bool:
    return len(record.suspended) == len(Process)


def said(record: GroupRecord) -> str:
    """`Launch, Terminate until 2028-02-28 14:00Z by anna: reason`; several of them where they differ."""
    by_hold: dict[Hold, list[str]] = {}
    for process, hold in record.suspended:
        by_hold.setdefault(hold, []).append(process)
    return "; ".join(
        ("everything" if len(names) == len(Process) else ", ".join(names)) + f" {hold.said()}"
        for hold, names in by_hold.items()
    )


def refuse_termination(record: GroupRecord, where: str) -> None:
    """Raises ConflictError while nothing may be terminated."""
    suspension = record.suspension(Process.TERMINATE)
    if suspension is not None:
        what = f"{suspension[0]} is suspended {suspension[1].said()}"
        raise ConflictError(what, where, f"controller-asg resume {record.group.name} Terminate")


def suspend(record: GroupRecord, processes: tuple[Process, ...], hold: Hold) -> GroupRecord:
    """The record with the processes held; what held them before gives way, unless it differs in its begin only."""
    before = dict(record.suspended)
    after = before | {
        process: hold
        for process in processes
        if process not in before or replace(before[process], since_at=hold.since_at) != hold
    }
    return replace(record, suspended=tuple(after.items()))


def inherited(records: Iterable[GroupRecord], now: datetime) -> tuple[tuple[Process, Hold], ...]:
    """What a new group begins with: the holds on all groups."""
    found = {
        process: hold
        for record in records
        for process, hold in record.suspended
        if hold.everywhere and not hold.over(now)
    }
    return tuple(found.items())


def resume(record: GroupRecord, processes: tuple[Process, ...]) -> GroupRecord:
    return replace(record, suspended=tuple(each for each in record.suspended if each[0] not in processes))
