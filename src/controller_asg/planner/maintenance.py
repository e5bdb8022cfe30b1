"""Instances replaced a few at a time, by an instance refresh or for their age, within two bounds of desired capacity.

What is here terminates old instances and says how many more than desired there may be meanwhile (`draft.over`); the
launches are those that close the gap. So a backoff, a growth limit and a version that is not proven hold replacing back
as they hold back everything, and the group scales on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from controller_asg.model.decision import Step
from controller_asg.model.group import healthy_range
from controller_asg.model.hold import Process
from controller_asg.model.instance import PENDING_STATES, Instance, LifecycleState
from controller_asg.planner import launches, leases
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import Health
from controller_asg.planner.snapshot import Member

# From nine tenths of its lifetime on an instance is replaced, a tenth of the group at a time (EC2's share too).
LIFETIME_SHARE = 0.9
AT_A_TIME_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Bounds:
    """Instances: so many stay in service and ready at least, and so many there are at the most."""

    floor: int
    ceiling: int


def bounds(desired: int, low_percentage: int, high_percentage: int) -> Bounds:
    """Both rounded towards desired capacity. Where that leaves no room for any replacement, one is launched first."""
    floor = math.ceil(desired * low_percentage / 100)
    ceiling = desired * high_percentage // 100
    return Bounds(floor, max(ceiling, desired + 1) if floor >= desired else ceiling)


def most(draft: Draft) -> int:
    """How many instances there may be while the unhealthy, or those of a full zone, are replaced."""
    desired = draft.record.desired_capacity
    if draft.group.instance_maintenance_policy is None:
        allowed = draft.record.max_size
    else:
        allowed = bounds(desired, *healthy_range(draft.group)).ceiling
    return max(allowed, desired + draft.over)


def is_ready(draft: Draft, instance: Instance) -> bool:
    """In service, and past its warmup where a maintenance policy promises a healthy share."""
    if instance.state is not LifecycleState.IN_SERVICE:
        return False
    if draft.group.instance_maintenance_policy is None:
        return True
    return is_warm(draft, instance, draft.group.default_instance_warmup_seconds)


def replace_some(
    draft: Draft, old: Sequence[Member], ready: int, at_most: int, of: Bounds, cause: str
) -> None:
    """Up to `at_most` of `old` go or get their replacement now, the booting and the sick first, then the oldest.

    `ready` are in service, plainly healthy, and count towards the floor, `old` ones among them.
    """
    desired = draft.record.desired_capacity
    surplus = _capacity(draft) - desired
    spare = max(0, ready - of.floor)
    risk = launches.risk_left(draft)
    in_turn = sorted(
        old,
        key=lambda member: (
            member.instance.state not in PENDING_STATES,
            draft.verdict(member).health is not Health.UNHEALTHY,
            member.instance.launched_at,
            member.instance.instance_id,
        ),
    )
    going: list[str] = []
    for member in in_turn[: max(0, at_most)]:
        if risk is not None and len(going) >= surplus + risk:
            break
        if member.instance.state not in PENDING_STATES:
            if not spare:
                break
            spare -= 1
        going.append(member.instance.instance_id)
    over = min(of.ceiling - desired, at_most - len(going))
    if risk is not None:
        over = min(over, surplus - len(going) + risk)
    draft.replacing, draft.over = True, max(0, over)
    if going:
        draft.record = launches.launched(draft.record, -len(going), draft.now)
        draft.terminate(tuple(going), cause)


def hold(draft: Draft, of: Bounds, over: int) -> None:
    """Nothing new is begun, and of the `over` more that are wanted already nothing is taken back."""
    desired = draft.record.desired_capacity
    draft.replacing = True
    draft.over = max(0, min(over, of.ceiling - desired, _capacity(draft) - desired))


def _capacity(draft: Draft) -> int:
    """As closing the gap counts it."""
    healthy = sum(draft.verdict(member).health is not Health.UNHEALTHY for member in draft.live())
    return healthy + len(draft.launching())


def is_warm(draft: Draft, instance: Instance, warmup_seconds: float) -> bool:
    since = instance.in_service_at
    return since is not None and since + timedelta(seconds=warmup_seconds) <= draft.now


def replace_aged(draft: Draft) -> None:
    """Those that come near `max_instance_lifetime_seconds`, while no refresh replaces instances anyway."""
    lifetime = draft.group.max_instance_lifetime_seconds
    if not lifetime or draft.replacing:
        return
    due_at = draft.now - timedelta(seconds=LIFETIME_SHARE * lifetime)
    serving = draft.serving()
    aged = [
        m
        for m in serving
        if m.instance.in_service_at is not None
        and m.instance.in_service_at <= due_at
        and not leases.protected(m.instance, m.agent)
        and draft.verdict(m).health is Health.HEALTHY
    ]
    if not aged or draft.held("replace what is old", Process.LAUNCH, Process.TERMINATE):
        return
    desired = draft.record.desired_capacity
    warmup = draft.group.default_instance_warmup_seconds
    ready = sum(
        draft.verdict(m).health is Health.HEALTHY and is_warm(draft, m.instance, warmup) for m in serving
    )
    of = bounds(desired, *healthy_range(draft.group))
    at_a_time = max(1, math.floor(AT_A_TIME_SHARE * desired))
    if of.ceiling == desired:
        at_a_time -= max(0, desired - ready)  # went before, and what replaces them is not ready yet
    reason = f"{len(aged)} come near {lifetime} s in service (max_instance_lifetime_seconds)"
    draft.steps.append(Step("max_instance_lifetime", desired, desired, reason))
    cause = f"was in service for nine tenths of max_instance_lifetime_seconds ({lifetime})"
    replace_some(draft, aged, ready, min(len(aged), at_a_time), of, cause)
