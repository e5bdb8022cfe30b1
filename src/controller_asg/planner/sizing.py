"""How many instances there should be, and what brings the group there.

The fixed order: scheduled actions, orders of operators, mass silence, votes of the policies (with their cooldowns),
behavior (stabilization windows, then rates), bounds, then replacement and the launches or terminations that close the
gap, held back by backoffs and min_healthy_percentage.
"""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Literal

from controller_asg.model.decision import Step
from controller_asg.model.hold import Process
from controller_asg.model.instance import (
    APART_STATES,
    LEAVING_STATES,
    PENDING_STATES,
    AgentView,
    Leaving,
    LifecycleState,
)
from controller_asg.model.offering import Offering
from controller_asg.model.record import LastChange
from controller_asg.model.scaling_policy import metrics_of
from controller_asg.planner import (
    backoff,
    behavior,
    costs,
    execution,
    hooks,
    launches,
    leaving,
    maintenance,
    membership,
    missing_data,
    offerings,
    projection,
    rebalance,
    refresh,
    suspension,
    zones,
)
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import Health, hold_mass_silence
from controller_asg.planner.snapshot import (
    Attach,
    CompleteAction,
    Detach,
    EnterStandby,
    ExecutePolicy,
    ExitStandby,
    Member,
    Protect,
    RecordHeartbeat,
    RefreshOrder,
    SetDesired,
    SetHealth,
    Terminate,
)
from controller_asg.policy.serving import LEAD_SECONDS, Fleet
from controller_asg.policy.voting import Wish, combine


def set_desired(draft: Draft, capacity: int, step: str, reason: str) -> None:
    """Desired capacity, kept within the bounds; each change stands in the decision."""
    before = draft.record.desired_capacity
    if capacity != before:
        draft.steps.append(Step(step, before, capacity, reason))
    draft.record = replace(draft.record, desired_capacity=capacity)
    apply_bounds(draft)


def apply_bounds(draft: Draft) -> None:
    desired = draft.record.desired_capacity
    bounded = min(max(desired, draft.record.min_size), draft.record.max_size)
    if bounded != desired:
        name: Literal["min_size", "max_size"] = "min_size" if bounded > desired else "max_size"
        word = "fewer" if bounded > desired else "more"
        _, action = draft.record.bound(name)
        by = f" (scheduled action {action})" if action else ""
        draft.steps.append(Step(name, desired, bounded, f"never {word} than {bounded}{by}"))
        draft.record = replace(draft.record, desired_capacity=bounded)
    costs.apply_ceiling(draft)


def take_orders(draft: Draft) -> None:
    """What operators (and agents that want out) have asked for; the API has checked it against the bounds."""
    for order in draft.snapshot.orders:
        match order:
            case SetDesired():
                set_desired(draft, order.capacity, "order", f"asked for by {order.actor}")
            case Terminate():
                _release(
                    draft, order.instance_id, order.decrement, f"terminated on the word of {order.actor}"
                )
            case SetHealth():
                member = draft.members.get(order.instance_id)
                if member is not None and member.instance.state not in LEAVING_STATES:
                    draft.put(replace(member.instance, marked_unhealthy="" if order.healthy else order.actor))
            case ExecutePolicy():
                _execute(draft, order)
            case Protect():
                for instance_id in order.instance_ids:
                    member = draft.members.get(instance_id)
                    if member is not None and member.instance.state not in LEAVING_STATES:
                        suspension.protect(draft, order, instance_id)
            case CompleteAction() | RecordHeartbeat():
                hooks.take(draft, order)
            case RefreshOrder():
                refresh.take_order(draft, order)
            case EnterStandby() | ExitStandby() | Detach() | Attach():
                change, reason = membership.take(draft, order)
                set_desired(draft, draft.record.desired_capacity + change, "order", reason)
    for instance_id in draft.wants_out:
        _release(draft, instance_id, True, "its agent asked to leave the group (/unregister)")


def _execute(draft: Draft, order: ExecutePolicy) -> None:
    wanted = execution.wanted(draft, order)
    if wanted is not None:
        before = draft.record.desired_capacity
        set_desired(draft, wanted[0], "execute_policy", wanted[1])
        _note_change(draft, (order.policy,), before)


def _release(draft: Draft, instance_id: str, decrement: bool, cause: str) -> None:
    member = draft.members.get(instance_id)
    if member is None or member.instance.state is LifecycleState.DETACHING:
        return
    if member.instance.state in LEAVING_STATES:
        draft.put(replace(member.instance, leaving=Leaving.ORDER))  # it is not taken back any more
        return
    if draft.held(f"terminate {instance_id}: {cause}", Process.TERMINATE):
        return
    _give_up(draft, (instance_id,), cause, Leaving.ORDER)
    if decrement and member.instance.state not in APART_STATES:
        # At min_size the bound raises it again, and the instance is replaced.
        set_desired(draft, draft.record.desired_capacity - 1, "order", f"{instance_id}: {cause}")


def _give_up(draft: Draft, instance_ids: tuple[str, ...], cause: str, leaving: Leaving) -> None:
    """Terminate what is no longer wanted; what is launched in its place later is no runaway."""
    if draft.record.suspension(Process.TERMINATE) is None:
        draft.record = launches.launched(draft.record, -len(instance_ids), draft.now)
    draft.terminate(instance_ids, cause, leaving=leaving)


def vote(draft: Draft) -> Wish:
    """Let the policies vote, and take their wish as far as the bounds allow."""
    warming = len(draft.pending()) + len(draft.launching())
    warm_at = draft.now - timedelta(seconds=draft.group.default_instance_warmup_seconds)
    verdicts, serving, fresh = draft.verdicts, [], []
    for member in draft.serving():
        instance, agent = member.instance, member.agent
        if instance.in_service_at is not None and instance.in_service_at > warm_at:
            warming += 1
            if agent is not None:
                fresh.append(agent)
        elif agent is not None and instance.instance_id not in verdicts:
            serving.append(agent)
        elif draft.verdict(member).health is not Health.UNHEALTHY:
            # A suspect one is shown as silent.
            serving.append(AgentView(instance.instance_id, silent_seconds=None))
    desired = draft.record.desired_capacity
    memories = draft.snapshot.memories
    lead_seconds = _lead_seconds(draft) if memories else LEAD_SECONDS
    draft.fleet = Fleet(tuple(serving), desired, warming, lead_seconds, tuple(fresh))
    wish = combine(
        draft.group.policies,
        draft.fleet,
        draft.record.last_changes,
        draft.now,
        memories,
        draft.snapshot.forecast,
        missing_data.overdue(draft),
    )
    missing_data.note(draft, wish.votes, bool(serving))
    draft.steps.extend(wish.steps)
    capacity = suspension.taken(draft, projection.held(draft, behavior.held(draft, wish.capacity)))
    if capacity != desired:
        draft.record = replace(draft.record, desired_capacity=capacity)
        apply_bounds(draft)
        if draft.record.desired_capacity != desired:
            _note_change(draft, wish.winners, desired)
            behavior.changed(draft, desired)
    if serving:
        for policy in draft.group.policies:
            for metric in metrics_of(policy) if policy.enabled else ():
                if not any(s.samples and metric in s.samples[-1].values for s in serving):
                    draft.conditions.append(
                        ("MetricMissing", f"no agent reports {metric}, so policy {policy.name} abstains")
                    )
    return wish


def _note_change(draft: Draft, policies: tuple[str, ...], before: int) -> None:
    """They have changed the size from there: what cooldowns count from."""
    after = draft.record.desired_capacity
    if after == before:
        return
    direction = "out" if after > before else "in"
    kept = tuple(
        change
        for change in draft.record.last_changes
        if not (change.policy in policies and change.direction == direction)
    )
    new = tuple(LastChange(policy, direction, draft.now) for policy in policies)
    draft.record = replace(draft.record, last_changes=kept + new)


def _lead_seconds(draft: Draft) -> float:
    """From launch to InService, the 90th percentile (nearest rank) of those in service.

    One that took longer than a registration may was adopted, or came up while nobody watched.
    """
    limit = timedelta(seconds=draft.group.registration_timeout_seconds)
    took = sorted(
        lead
        for member in draft.serving()
        if member.instance.in_service_at is not None
        and timedelta(0) < (lead := member.instance.in_service_at - member.instance.launched_at) <= limit
    )
    return took[-(-9 * len(took) // 10) - 1].total_seconds() if took else LEAD_SECONDS


def hold_silence(draft: Draft) -> None:
    for held in hold_mass_silence(draft.snapshot, draft.serving(), draft.verdicts):
        where = f" in {held.zone}" if held.zone else ""
        reason = (
            f"{held.silent} of {held.of_all}{where} fell silent together: none is replaced until they speak again"
            " or EC2 confirms their deaths"
        )
        desired = draft.record.desired_capacity
        draft.steps.append(Step("mass_silence", desired, desired, reason))
        draft.conditions.append(("MassSilence", reason))


def close_gap(draft: Draft, wanted_victims: tuple[str, ...], why: str) -> None:
    """Launch what is missing, replace what is dead, terminate what is too much."""
    desired = draft.record.desired_capacity
    live = draft.live()
    unhealthy = draft.unhealthy()
    healthy, serving = live, draft.serving()
    if unhealthy:
        healthy, serving = (
            [m for m in members if draft.verdict(m).health is not Health.UNHEALTHY]
            for members in (live, serving)
        )
    launching = draft.launching()
    need = desired + draft.over - len(healthy) - len(launching)
    if need > 0 and (back := leaving.take_back(draft, need)):
        healthy, serving, need = [*healthy, *back], [*serving, *back], need - len(back)
        draft.record = launches.launched(draft.record, len(back), draft.now)  # they counted as given up
    waiting: list[Member] = []
    ids = ", ".join(member.instance.instance_id for member in unhealthy)
    if unhealthy and draft.held(f"replace {ids}", Process.REPLACE_UNHEALTHY, Process.TERMINATE):
        unhealthy, waiting = [], unhealthy
    elif need > 0:
        unhealthy, waiting = _in_turn(draft, unhealthy)
    if need > 0:
        need = max(0, need - len(waiting))
    if need > 0:
        _launch(draft, need, [*healthy, *waiting], unhealthy, launching, why)
    elif need < 0 and rebalance.under_way(draft, healthy, -need, len(launching)):
        reason = "the one launched to level the zones does not serve yet"
        draft.steps.append(Step("rebalance", desired, desired, reason))
    elif need < 0 and offerings.return_under_way(draft, healthy, -need, len(launching)):
        reason = "the Spot instance launched for an On-Demand one to go does not serve yet"
        draft.steps.append(Step("spot_return", desired, desired, reason))
    elif need < 0:
        _shrink(draft, -need, healthy, len(serving), wanted_victims, why)
    elif draft.replacing or not len(serving) == len(live) == desired:
        pass
    elif (place := rebalance.emptiest(draft, healthy)) is not None:
        _launch_one_more(draft, (place,), f"{place[1]} has fewer than the others (rebalance_zones)")
    elif (zone := offerings.zone_of_return(draft, healthy)) is not None and _launch_one_more(
        draft, _in_zone(draft, zone), "Spot has capacity again (spot_return_seconds)"
    ):
        draft.record = replace(draft.record, spot_returned_at=draft.now)
    if unhealthy and need <= 0:
        ready = sum(maintenance.is_ready(draft, member.instance) for member in serving)
        for member in unhealthy if ready + len(waiting) >= desired else ():
            _end_unhealthy(draft, member)  # their replacements are ready, so they may go


def _in_turn(draft: Draft, unhealthy: list[Member]) -> tuple[list[Member], list[Member]]:
    """Those to be replaced now, of which somebody told first; and those that wait until they are."""
    budget = max(1, draft.record.desired_capacity * draft.group.replacement_budget_percentage // 100)
    if len(unhealthy) <= budget:
        return unhealthy, []
    in_turn = sorted(unhealthy, key=lambda m: (not draft.verdict(m).told, m.instance.instance_id))
    reason = (
        f"{len(unhealthy)} are unhealthy, {budget} are replaced at a time"
        f" ({draft.group.replacement_budget_percentage} % of {draft.record.desired_capacity})"
    )
    draft.steps.append(Step("replacement_budget", len(unhealthy), budget, reason))
    draft.conditions.append(("ReplacementsWait", reason))
    return in_turn[:budget], in_turn[budget:]


def _launch(
    draft: Draft,
    need: int,
    healthy: list[Member],
    unhealthy: list[Member],
    launching: list[Offering],
    why: str,
) -> None:
    desired = draft.record.desired_capacity
    if draft.held(f"launch {need}: {why}", Process.LAUNCH):
        return
    held = backoff.holding(draft.record, None, draft.now)
    if held:
        left = (held.until_at - draft.now).total_seconds()
        reason = f"{held.failures} failed in a row, next in {left:.0f} s: {held.reason}"
        draft.steps.append(Step("launch_backoff", need, 0, reason))
        draft.conditions.append(("LaunchesFailing", reason))
        return
    if draft.snapshot.subnets is None:
        draft.steps.append(Step("subnets", need, 0, "EC2 has not told yet where the group may launch"))
        return
    reasons = [f"{m.instance.instance_id} {draft.verdict(m).reason}" for m in unhealthy]
    reasons += [f"{instance_id} {reason}" for instance_id, reason in draft.lost]
    cause = f"replace {'; '.join(reasons[:5])}" if reasons else why
    allowed = min(need, launches.room_to_grow(draft.record, draft.now))
    if allowed < need:
        reason = (
            f"{need} wanted, {allowed} may be launched: more than {draft.group.growth_limit_percentage} % of max_size"
            f" within {draft.group.growth_window_seconds:g} s would be a runaway"
        )
        draft.steps.append(Step("growth_limit", need, allowed, reason))
        draft.conditions.append(("GrowthLimited", reason))
    if not allowed:
        return
    taken = [m.instance.offering for m in healthy] + launching
    # Who has to be waited for is paid until it is gone.
    lingering = [m.instance.offering for m in unhealthy if leaving.waits(draft, m)]
    unpaid = 0.0  # what the launches cost that the ceiling did not pay for
    for template, count in launches.share_out(draft, allowed):
        room = costs.room(draft, taken + lingering)
        plans = zones.spread(draft, template, count, draft.snapshot.subnets, taken, cause, room)
        draft.launches += plans
        missing = count - sum(plan.count for plan in plans)
        if missing and offerings.least(draft, template.launch) <= costs.room(draft, taken) + costs.ROUNDING:
            unpaid += costs.next_ones(template.launch, draft.snapshot.prices, missing, taken)
    launched = sum(plan.count for plan in draft.launches)
    offerings.explain(draft, allowed, launched)
    if draft.launches:
        draft.record = launches.launched(draft.record, launched, draft.now)
    # Launch before terminate, unless that leaves no room: then the dead go first.
    places = maintenance.most(draft) - len(healthy) - len(unhealthy) - len(launching)
    by_size = max(0, need - max(places, 0)) if draft.launches else 0
    by_cost = costs.going_first(draft, unhealthy, taken, unpaid)
    by_policy = (
        "max_size" if draft.group.instance_maintenance_policy is None else "instance_maintenance_policy"
    )
    bound = by_policy if by_size >= by_cost else "max_hourly_cost"
    for member in unhealthy[: max(by_size, by_cost)]:
        reason = f"no room to launch before {member.instance.instance_id} is terminated"
        draft.steps.append(Step(bound, desired, desired, reason))
        _end_unhealthy(draft, member)


def _end_unhealthy(draft: Draft, member: Member) -> None:
    instance_id = member.instance.instance_id
    cause = f"unhealthy: {draft.verdicts[instance_id].reason}"
    draft.terminate((instance_id,), cause, leaving=Leaving.UNHEALTHY)


def _in_zone(draft: Draft, zone: str) -> zones.Subnets:
    return tuple(place for place in draft.snapshot.subnets or () if place[1] == zone)


def _launch_one_more(draft: Draft, places: zones.Subnets, cause: str) -> bool:
    """Than desired capacity, where there is room; another one goes once it serves."""
    taken = [m.instance.offering for m in draft.live()]
    if len(taken) >= maintenance.most(draft) or backoff.holding(draft.record, None, draft.now) is not None:
        return False
    if not launches.room_to_grow(draft.record, draft.now) or launches.stopped(draft.record):
        return False
    room = costs.room(draft, taken)
    draft.launches = zones.spread(draft, draft.record.template, 1, places, taken, cause, room)
    if not draft.launches:
        return False
    draft.record = launches.launched(draft.record, 1, draft.now)
    return True


def _shrink(
    draft: Draft, surplus: int, healthy: list[Member], serving: int, wanted: tuple[str, ...], why: str
) -> None:
    desired = draft.record.desired_capacity
    chosen = offerings.choose(draft, healthy, surplus, wanted)
    if len(chosen) < surplus:
        held = surplus - len(chosen)
        reason = f"{held} too many, but protected from scale-in{suspension.protected_by(draft.record)}"
        draft.steps.append(Step("protection", desired, desired, reason))
    floor = math.ceil(desired * draft.min_healthy_percentage / 100)
    spare, held_back = max(0, serving - floor), False
    going = []
    for member in chosen:
        if member.instance.state not in PENDING_STATES:
            if spare == 0:
                held_back = True
                continue
            spare -= 1
        going.append(member.instance.instance_id)
    if held_back:
        reason = f"{serving} in service, {floor} must stay ({draft.min_healthy_percentage} %)"
        draft.steps.append(Step("min_healthy_percentage", desired, desired, reason))
    if going:
        _give_up(draft, tuple(going), why, Leaving.SCALE_IN)
