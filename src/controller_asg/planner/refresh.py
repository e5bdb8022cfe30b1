"""An instance refresh, decided anew by every pass from its record and what is there: a killed controller just goes on.

Old are the instances of another version than the refresh's, and those of its own that stand in `matching`. Never are
fewer ready than min_healthy_percentage by its act, nor more there than max_healthy_percentage. A rollback is a refresh
back: the group gets its earlier launch parameters again, as in EC2, and its instances follow.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from controller_asg.model.decision import Step
from controller_asg.model.hold import Process
from controller_asg.model.instance import PARKED_STATES, PENDING_STATES, Instance, Leaving, LifecycleState
from controller_asg.model.record import GroupRecord, LaunchTemplate
from controller_asg.model.refresh import REPLACING, InstanceRefresh, RefreshStatus
from controller_asg.planner import launches, leases, maintenance
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import Health
from controller_asg.planner.snapshot import Member, RefreshOrder

# EC2 waits so long for protected and Standby instances; here for everything that keeps a refresh from going on.
WAIT_SECONDS = 3600.0
# A pause between two steps is no wait.
TELL_WAIT_SECONDS = 30.0


@dataclass(slots=True)
class _Seen:
    """The group's members as the refresh looks at them; counts where nobody asks which."""

    old: list[Member] = field(default_factory=list)  # may be replaced
    kept: list[str] = field(default_factory=list)  # old, and waited for
    launching_old: bool = False
    parked: list[Member] = field(default_factory=list)  # old, in Standby, and to be terminated
    ready: int = 0
    on_their_way: int = 0
    sick: list[str] = field(default_factory=list)


# Orders


def take_order(draft: Draft, order: RefreshOrder) -> None:
    """What the API has let through. Where the state has changed since, it is without effect."""
    refresh = draft.record.refresh
    active = refresh is not None and refresh.active
    if order.action == "start":
        if not active:
            _start(draft, order)
        return
    if refresh is None:
        return
    match order.action:
        case "cancel" if active:
            _put(
                draft,
                replace(refresh, paused=False, status=RefreshStatus.CANCELLING),
                _by("cancelled", order),
            )
        case "rollback" if earlier(draft.record) is not None:
            _roll_back(draft, refresh, _by("rolled back", order))
        case "pause" if active:
            _put(draft, replace(refresh, paused=True, waiting_since_at=None), _by("paused", order))
        case "resume" if active:
            _put(draft, replace(refresh, paused=False), _by("resumed", order))


def _by(what: str, order: RefreshOrder) -> str:
    return f"{what} on the word of {order.actor}"


def _start(draft: Draft, order: RefreshOrder) -> None:
    assert order.preferences is not None
    record = draft.record
    live = [member.instance for member in (*draft.live(), *draft.parked())]
    matching = tuple(i.instance_id for i in live if i.launch_version == record.launch_version)
    known = {template.version: template for template in launches.earlier_templates(record)}
    held = Counter(
        i.launch_version for i in live if i.in_service_at is not None and i.launch_version in known
    )
    good = launches.fall_back(record)
    # Only what has served: a rollback takes it for proven.
    previous = max(held, key=lambda version: (held[version], version), default=good.version if good else "")
    began = InstanceRefresh(
        order.refresh_id,
        record.launch_version,
        previous,
        order.preferences,
        RefreshStatus.PENDING,
        draft.now,
        order.actor,
        matching=() if order.preferences.skip_matching else matching,
        total=-1,
    )
    draft.record = replace(record, templates=tuple(known.values()))
    _put(draft, began, _by("started", order))


def earlier(record: GroupRecord) -> LaunchTemplate | None:
    """What a rollback of the last refresh would bring back; None: there is nothing to go back to."""
    refresh = record.refresh
    if refresh is None or refresh.version != record.launch_version:
        return None
    return next((t for t in record.templates if t.version == refresh.previous), None)


def _roll_back(draft: Draft, refresh: InstanceRefresh, reason: str) -> None:
    """The group's launch parameters are the earlier ones again, and proven: they worked before."""
    record, template = draft.record, earlier(draft.record)
    assert template is not None
    failures = tuple(entry for entry in record.launch_memory.failures if entry[0] != template.version)
    draft.record = replace(
        record,
        group=replace(record.group, launch=template.launch, bootstrap=template.bootstrap),
        version=record.version + 1,
        image_id=template.image_id,
        launch_version=template.version,
        launch_memory=replace(record.launch_memory, good=template, failures=failures),
        templates=launches.remembered(record),
    )
    back = replace(
        refresh,
        version=template.version,
        previous="",
        preferences=replace(
            refresh.preferences, skip_matching=True, checkpoint_percentages=(), bake_time_seconds=0
        ),
        status=RefreshStatus.ROLLBACK_IN_PROGRESS,
        ended_at=None,
        status_reason=reason,
        matching=(),
        sick=(),
        total=-1,
        to_update=0,
        over=0,
        percentage_complete=0,
        checkpoint=0,
        holding_since_at=None,
        waiting_since_at=None,
        paused=False,
    )
    _put(draft, back, f"rolls back to image {template.image_id}: {reason}")


# Pass by pass


def carry_on(draft: Draft) -> None:
    """One step of the group's refresh, as far as the facts allow."""
    refresh = draft.record.refresh
    if refresh is None:
        return
    if not refresh.active:
        if refresh.version == draft.record.launch_version and refresh.status in (
            RefreshStatus.FAILED,
            RefreshStatus.ROLLBACK_FAILED,
        ):
            draft.conditions.append(("InstanceRefreshFailed", f"{refresh.status}: {refresh.status_reason}"))
        return
    refresh = _mended(refresh, draft.now)
    if refresh.version != draft.record.launch_version:
        _end(
            draft,
            refresh,
            RefreshStatus.CANCELLED,
            "other launch parameters were applied; start another refresh",
        )
        return
    if refresh.status is RefreshStatus.PENDING:
        refresh = replace(refresh, status=RefreshStatus.IN_PROGRESS)
    refresh, seen = _look(draft, refresh)
    fault = _fault(draft, refresh)
    if fault:
        _fail(draft, refresh, fault)
        return
    of = _bounds(draft, refresh)
    refresh = _counted(draft, refresh, seen)
    if refresh.status is RefreshStatus.CANCELLING:
        maintenance.hold(draft, of, refresh.over)
        if not (draft.over and seen.on_their_way):
            _end(draft, refresh, RefreshStatus.CANCELLED, refresh.status_reason)
            return
    elif refresh.paused:
        maintenance.hold(draft, of, refresh.over)
    elif refresh.status is RefreshStatus.BAKING and _is_done(refresh, seen):
        refresh = _bake(draft, refresh)
    else:
        if refresh.status is RefreshStatus.BAKING:
            # EC2 told of a launch of before only now.
            refresh = replace(refresh, status=RefreshStatus.IN_PROGRESS, holding_since_at=None)
        refresh = _replace(draft, refresh, seen, of)
    if refresh is not draft.record.refresh:
        draft.record = replace(draft.record, refresh=refresh)
    if refresh.active:
        # What scaling in leaves is ready too.
        assert refresh.preferences.min_healthy_percentage is not None
        draft.min_healthy_percentage = max(
            draft.min_healthy_percentage, refresh.preferences.min_healthy_percentage
        )
        _tell(draft, refresh, seen)


def _mended(refresh: InstanceRefresh, now: datetime) -> InstanceRefresh:
    """A clock that was set back leaves times in the future; they count from now."""
    holding, waiting = refresh.holding_since_at, refresh.waiting_since_at
    if (holding is None or holding <= now) and (waiting is None or waiting <= now):
        return refresh
    return replace(
        refresh,
        holding_since_at=holding and min(holding, now),
        waiting_since_at=waiting and min(waiting, now),
    )


def _bounds(draft: Draft, refresh: InstanceRefresh) -> maintenance.Bounds:
    low, high = refresh.preferences.min_healthy_percentage, refresh.preferences.max_healthy_percentage
    assert low is not None
    assert high is not None
    return maintenance.bounds(draft.record.desired_capacity, low, high)


def _look(draft: Draft, refresh: InstanceRefresh) -> tuple[InstanceRefresh, _Seen]:
    seen, matching = _Seen(), frozenset(refresh.matching)
    asked = refresh.preferences
    for member in (*draft.live(), *draft.parked()):
        instance = member.instance
        old = is_old(refresh, instance, matching)
        health = draft.verdict(member).health
        if instance.state in PARKED_STATES:
            if old and asked.standby_instances == "Terminate":
                seen.parked.append(member)
            elif old and asked.standby_instances == "Wait":
                seen.kept.append(instance.instance_id)
        elif instance.state in PENDING_STATES:
            if old:
                seen.old.append(member)
            else:
                seen.on_their_way += 1
        elif instance.state is LifecycleState.IN_SERVICE:
            if old:
                seen.ready += health is Health.HEALTHY
                protected = leases.protected(instance, member.agent)
                if not protected or asked.scale_in_protected_instances == "Refresh":
                    seen.old.append(member)
                elif asked.scale_in_protected_instances == "Wait":
                    seen.kept.append(instance.instance_id)
            elif health is Health.UNHEALTHY:
                seen.sick.append(instance.instance_id)
            elif health is Health.HEALTHY and is_warm(draft, refresh, instance):
                seen.ready += 1
            else:
                seen.on_their_way += 1
    seen.on_their_way += len(draft.launching())
    seen.launching_old = any(
        launch.launch is not None and launch.launch.launch_version != refresh.version
        for launch in draft.open_launches()
        if not launch.acknowledged
    )
    if matching:
        left = tuple(i for i in refresh.matching if i in draft.members)
        refresh = refresh if left == refresh.matching else replace(refresh, matching=left)
    new = tuple(i for i in seen.sick if i not in refresh.sick)
    return (replace(refresh, sick=(*refresh.sick, *new)) if new else refresh), seen


def is_old(refresh: InstanceRefresh, instance: Instance, matching: frozenset[str]) -> bool:
    """It is to be replaced, or would be if it were not protected or in Standby."""
    return instance.launch_version != refresh.version or instance.instance_id in matching


def is_warm(draft: Draft, refresh: InstanceRefresh, instance: Instance) -> bool:
    assert refresh.preferences.instance_warmup_seconds is not None
    return maintenance.is_warm(draft, instance, refresh.preferences.instance_warmup_seconds)


def _fault(draft: Draft, refresh: InstanceRefresh) -> str:
    """Why it can't succeed any more; empty when it can."""
    limit = draft.group.failed_launches_limit
    failures = launches.failures_of(draft.record.launch_memory, refresh.version)
    if refresh.status is RefreshStatus.CANCELLING:
        return ""
    if failures >= limit:
        return f"{failures} instances in a row of image {draft.record.image_id} did not come into service"
    if len(refresh.sick) >= limit:
        return f"{len(refresh.sick)} of the new instances fell ill: {', '.join(refresh.sick[:5])}"
    if _waited_seconds(draft, refresh) >= WAIT_SECONDS:
        return f"nothing could be replaced for {WAIT_SECONDS / 60:.0f} minutes"
    return ""


def _waited_seconds(draft: Draft, refresh: InstanceRefresh) -> float:
    return draft.watched_seconds(refresh.waiting_since_at) if refresh.waiting_since_at is not None else 0.0


def _fail(draft: Draft, refresh: InstanceRefresh, reason: str) -> None:
    if refresh.status is RefreshStatus.ROLLBACK_IN_PROGRESS:
        _end(draft, refresh, RefreshStatus.ROLLBACK_FAILED, reason)
    elif refresh.preferences.auto_rollback and earlier(draft.record) is not None:
        _roll_back(draft, refresh, reason)
        carry_on(draft)
    else:
        _end(draft, refresh, RefreshStatus.FAILED, reason)


def _counted(draft: Draft, refresh: InstanceRefresh, seen: _Seen) -> InstanceRefresh:
    """How far it is: an old instance is done with once it left and desired capacity is ready again."""
    left = len(seen.old) + len(seen.kept) + len(seen.parked)
    total = left if refresh.total < 0 else refresh.total
    short = max(0, draft.record.desired_capacity - seen.ready)
    to_update = min(total, left + short)
    percentage = 100 * (total - to_update) // total if total else 100
    percentage = max(refresh.percentage_complete, percentage)
    if (total, to_update, percentage) == (refresh.total, refresh.to_update, refresh.percentage_complete):
        return refresh
    return replace(refresh, total=total, to_update=to_update, percentage_complete=percentage)


def _replace(draft: Draft, refresh: InstanceRefresh, seen: _Seen, of: maintenance.Bounds) -> InstanceRefresh:
    asked = refresh.preferences
    steps = asked.checkpoint_percentages or (100,)
    reached = max((step for step in steps if step <= refresh.percentage_complete), default=0)
    left = len(seen.old) + len(seen.kept) + len(seen.parked)
    if reached == steps[-1] and _is_done(refresh, seen):
        return _done(draft, refresh)
    if refresh.checkpoint < reached < steps[-1]:
        refresh = replace(refresh, checkpoint=reached, holding_since_at=draft.now, waiting_since_at=None)
    if refresh.holding_since_at is not None:
        if draft.now < refresh.holding_since_at + timedelta(seconds=asked.checkpoint_delay_seconds):
            maintenance.hold(draft, of, refresh.over)
            return refresh
        refresh = replace(refresh, holding_since_at=None)
    if draft.held("replace instances", Process.INSTANCE_REFRESH, Process.LAUNCH, Process.TERMINATE):
        maintenance.hold(draft, of, refresh.over)
        return replace(refresh, waiting_since_at=None)
    upto = next((step for step in steps if step > refresh.checkpoint), steps[-1])
    goal = math.ceil(refresh.total * upto / 100) - (refresh.total - left)
    cause = f"instance refresh {refresh.refresh_id[:8]} to image {draft.record.image_id}"
    if seen.parked:
        # They serve nobody, so they need no turn.
        draft.terminate(tuple(m.instance.instance_id for m in seen.parked), cause)
    before = len(draft.terminations) + len(draft.waits)
    maintenance.replace_some(draft, seen.old, seen.ready, min(goal, len(seen.old)), of, cause)
    going = (
        seen.on_their_way
        or seen.parked
        or any(m.instance.leaving is Leaving.REPLACED for m in draft.waiting())
    )
    idle = len(draft.terminations) + len(draft.waits) == before and not going
    waiting = (refresh.waiting_since_at or draft.now) if idle else None
    if (waiting, draft.over) == (refresh.waiting_since_at, refresh.over):
        return refresh
    return replace(refresh, waiting_since_at=waiting, over=draft.over)


def _is_done(refresh: InstanceRefresh, seen: _Seen) -> bool:
    """Nobody is left to replace, or the last checkpoint leaves the rest as it is."""
    partial = (refresh.preferences.checkpoint_percentages or (100,))[-1] < 100
    return partial or not (seen.old or seen.kept or seen.parked or seen.launching_old)


def _done(draft: Draft, refresh: InstanceRefresh) -> InstanceRefresh:
    if refresh.status is RefreshStatus.IN_PROGRESS and refresh.preferences.bake_time_seconds:
        baking = replace(
            refresh, status=RefreshStatus.BAKING, holding_since_at=draft.now, waiting_since_at=None
        )
        return _step(draft, baking, f"bakes for {refresh.preferences.bake_time_seconds} s")
    back = refresh.status is RefreshStatus.ROLLBACK_IN_PROGRESS
    status = RefreshStatus.ROLLBACK_SUCCESSFUL if back else RefreshStatus.SUCCESSFUL
    return _end(draft, refresh, status, refresh.status_reason)


def _bake(draft: Draft, refresh: InstanceRefresh) -> InstanceRefresh:
    assert refresh.holding_since_at is not None
    bake = timedelta(seconds=refresh.preferences.bake_time_seconds)
    if draft.now < refresh.holding_since_at + bake:
        return refresh
    return _end(draft, refresh, RefreshStatus.SUCCESSFUL, refresh.status_reason)


def _end(draft: Draft, refresh: InstanceRefresh, status: RefreshStatus, reason: str) -> InstanceRefresh:
    ended = replace(
        refresh,
        status=status,
        status_reason=reason,
        ended_at=draft.now,
        holding_since_at=None,
        waiting_since_at=None,
        paused=False,
        matching=(),
    )
    return _put(draft, ended, f"{status}" + (f": {reason}" if reason else ""))


def _put(draft: Draft, refresh: InstanceRefresh, reason: str) -> InstanceRefresh:
    draft.record = replace(draft.record, refresh=refresh)
    return _step(draft, refresh, reason)


def _step(draft: Draft, refresh: InstanceRefresh, reason: str) -> InstanceRefresh:
    desired = draft.record.desired_capacity
    draft.steps.append(Step("instance_refresh", desired, desired, f"{refresh.refresh_id[:8]} {reason}"))
    return refresh


def _tell(draft: Draft, refresh: InstanceRefresh, seen: _Seen) -> None:
    """Where it stands, in one step of the decision; what it waits for is a condition of the group."""
    said = f"{refresh.status}, {refresh.percentage_complete} %"
    if refresh.paused:
        said += ", paused"
    elif refresh.holding_since_at is not None and refresh.status in REPLACING:
        said += f", at the checkpoint of {refresh.checkpoint} %"
    elif seen.on_their_way:
        said += f", {seen.on_their_way} new ones are not ready yet"
    elif seen.kept and not seen.old:
        said += f", waits for {', '.join(seen.kept[:5])}, protected from scale-in or in Standby"
    if _waited_seconds(draft, refresh) >= TELL_WAIT_SECONDS:
        draft.conditions.append(("InstanceRefreshWaits", f"{refresh.refresh_id[:8]} {said}"))
    _step(draft, refresh, said)


# What is shown of one instance


def progress_of(
    refresh: InstanceRefresh, instance: Instance, protected: bool, matching: frozenset[str], now: datetime
) -> str:
    """`Outdated`, `Ignored`, `Waiting` (protected or in Standby), `Pending`, `WarmingUp` or `Ready`."""
    asked = refresh.preferences
    if is_old(refresh, instance, matching):
        wish = ""
        if instance.state in PARKED_STATES:
            wish = asked.standby_instances
        elif protected:
            wish = asked.scale_in_protected_instances
        return {"Ignore": "Ignored", "Wait": "Waiting"}.get(wish, "Outdated")
    if instance.in_service_at is None:
        return "Pending"
    assert asked.instance_warmup_seconds is not None
    warm = instance.in_service_at + timedelta(seconds=asked.instance_warmup_seconds) <= now
    return "Ready" if warm else "WarmingUp"
