"""All policies of a group, asked and combined: scaling out takes the highest vote, scaling in needs every consent."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.decision import Step, Vote
from controller_asg.model.immutable import immutable
from controller_asg.model.record import LastChange
from controller_asg.model.scaling_policy import (
    DemandTracking,
    Policy,
    Predictive,
    ScalingPolicy,
    SimpleScaling,
    StepScaling,
    TargetTracking,
    Thresholds,
    observes,
)
from controller_asg.policy import demand_tracking, predictive, step, target_tracking, thresholds
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.forecast import Forecast
from controller_asg.policy.serving import Fleet


@immutable
class Wish:
    """What the policies want together. `victims`: who should go, if anyone. `winners`: whose votes it came from."""

    capacity: int
    votes: tuple[Vote, ...]
    steps: tuple[Step, ...]
    victims: tuple[str, ...]
    winners: tuple[str, ...]


def ask(
    policy: Policy,
    fleet: Fleet,
    memories: Mapping[str, DemandMemory],
    now: datetime,
    forecast: Forecast | None = None,
    overdue: frozenset[str] = frozenset(),
) -> Vote:
    """Its vote as it counts: without scaling in where that is disabled, and without effect where it only observes."""
    vote = _ask(policy, fleet, memories, now, forecast)
    if not isinstance(policy, Predictive):
        if vote.capacity is None and policy.name in overdue:
            vote = _on_missing_data(policy, vote, fleet.desired)
        if policy.disable_scale_in and vote.capacity is not None and vote.capacity < fleet.desired:
            vote = Vote(policy.name, fleet.desired, f"{vote.reason}: scale-in is disabled", consents=True)
    return replace(vote, victims=(), observed=True) if observes(policy) else vote


def _on_missing_data(policy: ScalingPolicy, vote: Vote, desired: int) -> Vote:
    """At least the floor; at that size it abstains as ever, and so consents to no scaling in."""
    floor = policy.missing_data_floor or 0
    reason = f"{vote.reason} for {policy.missing_data_seconds:g} s: {floor} instances at least"
    return replace(vote, capacity=floor if floor > desired else None, reason=reason, on_missing_data=True)


def _ask(
    policy: Policy,
    fleet: Fleet,
    memories: Mapping[str, DemandMemory],
    now: datetime,
    forecast: Forecast | None,
) -> Vote:
    match policy:
        case Thresholds():
            return thresholds.vote(policy, fleet)
        case TargetTracking():
            return target_tracking.vote(policy, fleet)
        case StepScaling() | SimpleScaling():
            return step.vote(policy, fleet)
        case DemandTracking():
            return demand_tracking.vote(policy, memories[policy.name], fleet, now.timestamp())
        case Predictive():
            return predictive.vote(policy, forecast, now.timestamp())


def combine(
    policies: tuple[Policy, ...],
    fleet: Fleet,
    last_changes: tuple[LastChange, ...],
    now: datetime,
    memories: Mapping[str, DemandMemory],
    forecast: Forecast | None = None,
    overdue: frozenset[str] = frozenset(),
) -> Wish:
    """A policy in its cooldown keeps its vote on record, and counts as wanting the present size in that direction.

    One that abstains consents to nothing: no data never counts as low load. `memories` hold one for each policy of type
    demand_tracking, by its name; they learn from this fleet. A predictive policy is a floor by the `forecast`: it
    scales out like any other, lets the others scale in down to it, and never scales in itself. `overdue` are the
    policies that have had nothing to go by for longer than their missing_data_seconds.
    """
    desired = fleet.desired
    asked = tuple(
        (policy, ask(policy, fleet, memories, now, forecast, overdue))
        for policy in policies
        if policy.enabled
    )
    votes = tuple(vote for _, vote in asked)
    steps: list[Step] = []
    outs: list[Vote] = []
    ins: list[Vote] = []
    floors: list[tuple[int, str]] = []
    for policy, vote in asked:
        if isinstance(policy, Predictive) and vote.capacity is not None and vote.capacity <= desired:
            if not vote.observed:
                floors.append((vote.capacity, policy.name))
            continue
        if vote.capacity is None or vote.capacity == desired:
            continue
        if vote.observed:
            steps.append(Step("observe", vote.capacity, desired, f"{policy.name} only observes"))
            continue
        until_at = cooldown_end(policy, vote.capacity > desired, last_changes)
        if until_at is not None and now < until_at:
            left = (until_at - now).total_seconds()
            steps.append(Step("cooldown", vote.capacity, desired, f"{policy.name}: {left:.0f} s left"))
        elif vote.capacity > desired:
            outs.append(vote)
        else:
            ins.append(vote)
    if outs:
        highest = max(vote.capacity or 0 for vote in outs)
        winners = tuple(vote.policy for vote in outs if vote.capacity == highest)
        return Wish(highest, votes, tuple(steps), (), winners)
    if ins:
        highest = max(vote.capacity or 0 for vote in ins)
        against = tuple(
            vote.policy for vote in votes if vote not in ins and not (vote.consents or vote.observed)
        )
        if against:
            steps.append(
                Step("consent", highest, desired, f"{', '.join(against)} does not consent to scale in")
            )
            return Wish(desired, votes, tuple(steps), (), ())
        lowest, by = max(floors, default=(0, ""))
        if highest < lowest:
            steps.append(Step("forecast", highest, lowest, f"{by}: not below what is foretold"))
            highest = lowest
        victims = tuple(dict.fromkeys(victim for vote in ins for victim in vote.victims))
        return Wish(highest, votes, tuple(steps), victims, tuple(vote.policy for vote in ins))
    return Wish(desired, votes, tuple(steps), (), ())


def cooldown_end(policy: Policy, out: bool, last_changes: tuple[LastChange, ...]) -> datetime | None:
    """When it may change the size in that direction again; None: now."""
    if isinstance(policy, Predictive):
        return None
    seconds = policy.scale_out_cooldown_seconds if out else policy.scale_in_cooldown_seconds
    direction = "out" if out else "in"
    for change in last_changes:
        if change.policy == policy.name and change.direction == direction:
            return change.at + timedelta(seconds=seconds)
    return None
