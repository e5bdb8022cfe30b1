"""Scheduled actions: which are due, what they set, and which end."""

from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.decision import Step
from controller_asg.model.group import Group
from controller_asg.model.hold import Process
from controller_asg.model.record import GroupRecord, Scheduled
from controller_asg.model.scheduled_action import ScheduledAction, latest_time, times_after
from controller_asg.planner.draft import Draft

# A desired capacity that is later than this was meant for another load.
LATE_SECONDS = 300.0
# A time that was done with and lies further ahead comes of a clock that was wrong; one nearer is not done again.
AHEAD_SECONDS = 86_400.0


def carry_out(draft: Draft) -> None:
    """End what has run its time, then do what is due, the earliest first. Bounds are applied after it."""
    if not draft.group.scheduled_actions:
        return
    done = {each.action: each for each in draft.record.scheduled}
    for action in draft.group.scheduled_actions:
        last = done.get(action.name)
        until = action.until(last.at) if last and last.in_force else None
        if last and until and until <= draft.now:
            _note(draft, replace(last, in_force=False), f"{action.name} ends: {action.sizes()}")
    due = [(at, a) for a in draft.group.scheduled_actions if (at := _due(draft.record, a, draft.now))]
    due.sort(key=lambda each: each[0])
    if due and draft.held(
        f"carry out {', '.join(action.name for _, action in due)}", Process.SCHEDULED_ACTIONS
    ):
        _skip(draft, due)
        return
    for at, action in due:
        _note(
            draft,
            Scheduled(action.name, at, True),
            f"{action.name} of {at:%Y-%m-%d %H:%M:%SZ}: {action.sizes()}",
        )
    for at, action in [each for each in due if each[1].desired_capacity is not None][-1:]:
        before, desired = draft.record.desired_capacity, action.desired_capacity or 0
        late = draft.now - at > timedelta(seconds=LATE_SECONDS)
        if desired == before or (desired < before and late):
            continue
        draft.steps.append(Step("scheduled_action", before, desired, f"{action.name} sets desired capacity"))
        draft.record = replace(draft.record, desired_capacity=desired)


def _skip(draft: Draft, due: list[tuple[datetime, ScheduledAction]]) -> None:
    """As in EC2 only times that come after the suspension are carried out; what was in force for good stays so."""
    done = {each.action: each for each in draft.record.scheduled}
    for at, action in due:
        before = done.get(action.name)
        in_force = before is not None and before.in_force and action.duration_seconds is None
        done[action.name] = Scheduled(action.name, at, in_force)
    draft.record = replace(draft.record, scheduled=tuple(done.values()))


def _note(draft: Draft, done: Scheduled, what: str) -> None:
    draft.scheduled.append(f"scheduled action {what}")
    others = tuple(each for each in draft.record.scheduled if each.action != done.action)
    draft.record = replace(draft.record, scheduled=(*others, done))


def _due(record: GroupRecord, action: ScheduledAction, now: datetime) -> datetime | None:
    """The latest time that is to be done now; None: there is none, or its duration is over."""
    at = latest_time(action, _done_until(record, action, now), now)
    if at is None:
        return None
    until = action.until(at)
    return at if until is None or until > now else None


def _done_until(record: GroupRecord, action: ScheduledAction, now: datetime) -> datetime:
    for each in record.scheduled:
        if each.action == action.name:
            return each.at if each.at <= now + timedelta(seconds=AHEAD_SECONDS) else now
    # A new action that would be running is to run; any other counts from the document on.
    duration = timedelta(seconds=action.duration_seconds or 0)
    return min(record.applied_at, now) - duration


def carried(old: GroupRecord, group: Group) -> tuple[Scheduled, ...]:
    """What stays of `GroupRecord.scheduled` when the group's document becomes this one.

    An action that changed starts anew. What holds without an end gives way to new sizes of the document, as in EC2 to
    an update of the group.
    """
    resized = (group.min_size, group.max_size) != (old.group.min_size, old.group.max_size)
    kept = {
        action.name: action for action in old.group.scheduled_actions if action in group.scheduled_actions
    }
    done = {each.action: each for each in old.scheduled if each.action in kept}
    never = {name: Scheduled(name, old.applied_at, False) for name in kept if name not in done}
    return tuple(
        replace(each, in_force=False) if resized and kept[each.action].duration_seconds is None else each
        for each in (never | done).values()
    )


def next_times(
    record: GroupRecord, now: datetime, count: int
) -> tuple[tuple[datetime, ScheduledAction], ...]:
    """The next firings of all actions, the earliest first."""
    found = []
    for action in record.group.scheduled_actions:
        for at, _ in zip(
            times_after(action, max(now, _done_until(record, action, now))), range(count), strict=False
        ):
            found.append((at, action))
    return tuple(sorted(found, key=lambda each: each[0])[:count])
