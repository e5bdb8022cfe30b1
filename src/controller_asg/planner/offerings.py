"""Which types and markets a group launches and gives up: EC2's mixed instances policy.

Zone balance comes first, then the market that is short of its share, then the order of the types; what failed a moment
ago is passed over. Where Spot has nothing in a zone, On-Demand stands in, and goes again once Spot has: one at a time,
the Spot instance launched first.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from controller_asg.model.decision import Step
from controller_asg.model.group import LaunchParameters
from controller_asg.model.hold import Process
from controller_asg.model.offering import Market, Offering, Prices
from controller_asg.planner import backoff, costs, maintenance, termination, victims
from controller_asg.planner.draft import Draft
from controller_asg.planner.snapshot import Member


def wanted(launch: LaunchParameters, total: int, on_demand: int) -> Market:
    """The market of one more instance that makes them `total`, of which `on_demand` are On-Demand by now."""
    return Market.ON_DEMAND if on_demand < launch.on_demand_of(total) else Market.SPOT


def in_order(launch: LaunchParameters, market: Market, prices: Prices) -> list[tuple[str, Market]]:
    """(type, market) in the order they are tried; On-Demand stands in for Spot, never Spot for On-Demand."""
    types = list(launch.types)
    if launch.allocation_strategy == "lowest-price":
        types.sort(key=lambda name: prices.at_most(name, market))
    found = [(name, market) for name in types]
    return found if market is Market.ON_DEMAND else found + in_order(launch, Market.ON_DEMAND, prices)


def available(draft: Draft, zone: str, launch: LaunchParameters, market: Market) -> list[Offering]:
    """Those of the zone that are not avoided now, in the order they are tried."""
    offerings = [Offering(zone, *each) for each in in_order(launch, market, draft.snapshot.prices)]
    return [each for each in offerings if backoff.holding(draft.record, each, draft.now) is None]


def anything(draft: Draft, zone: str) -> bool:
    """Something the group launches is to be had there."""
    market = Market.SPOT if _mixed(draft) else Market.ON_DEMAND
    return bool(available(draft, zone, draft.group.launch, market))


def least(draft: Draft, launch: LaunchParameters) -> float:
    """USD an hour of the cheapest that is to be had now; inf: nothing is."""
    market = Market.SPOT if launch.on_demand_percentage < 100 else Market.ON_DEMAND
    places = {zone for _, zone in draft.snapshot.subnets or (("", ""),)}
    prices = draft.snapshot.prices
    at_hand = [each for zone in places for each in available(draft, zone, launch, market)]
    return min((prices.at_most(e.instance_type, e.market) for e in at_hand), default=math.inf)


def learn_markets(draft: Draft) -> None:
    """Instances of an earlier release have no market on record."""
    if draft.record.spot_returned_at is not None and draft.record.spot_returned_at > draft.now:
        draft.record = replace(draft.record, spot_returned_at=draft.now)
    if not _mixed(draft):
        return
    for member in draft.live():
        if member.cloud is not None and member.cloud.market is Market.SPOT is not member.instance.market:
            draft.put(replace(member.instance, market=Market.SPOT))


def choose(draft: Draft, members: Sequence[Member], count: int, named: Sequence[str]) -> tuple[Member, ...]:
    """Whom `victims.choose` takes, so that the markets keep their shares among those who stay."""
    turn = termination.turn(draft.record, draft.now)
    if not _mixed(draft):
        return victims.choose(members, count, named, turn)
    on_demand = [m for m in members if m.instance.market is Market.ON_DEMAND]
    spot = [m for m in members if m.instance.market is Market.SPOT]
    surplus = len(on_demand) - draft.group.launch.on_demand_of(len(members) - count)
    going = min(max(surplus, count - len(spot), 0), count)
    chosen = victims.choose(on_demand, going, named, turn)
    chosen += victims.choose(spot, count - len(chosen), named, turn)
    if len(chosen) < count:  # the others are protected
        rest = [m for m in on_demand if m not in chosen]
        chosen += victims.choose(rest, count - len(chosen), named, turn)
    return chosen


def zone_of_return(draft: Draft, members: Sequence[Member]) -> str | None:
    """The zone in which a Spot instance is to be launched for an On-Demand one to go; None: not now."""
    seconds, last_at = draft.group.spot_return_seconds, draft.record.spot_returned_at
    # Without Terminate it would only grow.
    if draft.record.suspension(Process.LAUNCH, Process.TERMINATE) is not None or not stands_in(
        draft, members
    ):
        return None
    if last_at is not None and draft.now < last_at + timedelta(seconds=seconds):
        return None
    launch = draft.group.launch
    zones = {m.instance.zone for m in members}
    with_spot = {
        zone
        for zone in zones
        if any(each.market is Market.SPOT for each in available(draft, zone, launch, Market.SPOT))
    }
    going = [m for m in members if m.instance.market is Market.ON_DEMAND and m.instance.zone in with_spot]
    turn = termination.turn(draft.record, draft.now)
    return next((m.instance.zone for m in victims.choose(going, 1, (), turn)), None)


def stands_in(draft: Draft, members: Sequence[Member]) -> bool:
    """An On-Demand instance is in the place of a Spot one, and Spot is to be returned to."""
    if not draft.group.spot_return_seconds:
        return False
    on_demand = sum(m.instance.market is Market.ON_DEMAND for m in members)
    return on_demand > draft.group.launch.on_demand_of(draft.record.desired_capacity)


def return_under_way(draft: Draft, members: Sequence[Member], surplus: int, launching: int) -> bool:
    """The surplus is the one Spot instance that was launched for this, and it is not ready yet."""
    if surplus != 1 or not draft.group.spot_return_seconds:
        return False
    booting = sum(not maintenance.is_ready(draft, m.instance) for m in members)
    return booting + launching == 1 and stands_in(draft, members)


def explain(draft: Draft, need: int, launched: int) -> None:
    """What kept launches from being made, or from being what comes first."""
    avoided = list(backoff.avoided(draft.record, draft.now))
    held = "; ".join(f"{b.offering}: {b.reason}" for b in avoided)
    if launched == need:
        types = {name for plan in draft.launches for name in plan.template.launch.types}
        if any(b.offering and b.offering.instance_type in types for b in avoided):
            draft.steps.append(Step("offering_backoff", need, need, f"avoided for now: {held}"))
        return
    if draft.snapshot.subnets and not any(anything(draft, zone) for _, zone in draft.snapshot.subnets):
        draft.steps.append(Step("no_capacity", need, launched, f"every offering is avoided for now: {held}"))
        draft.conditions.append(("CapacityShort", held))
        return
    top = costs.ceiling(draft)
    if top is None:
        return
    reason = f"${top.usd:.4g} an hour ({top.whose}) pays for {launched} of {need} launches"
    if held:
        reason += f"; avoided for now: {held}"
    draft.steps.append(Step("max_hourly_cost", need, launched, reason))
    draft.conditions.append(("MaxHourlyCost", reason))


def _mixed(draft: Draft) -> bool:
    """Its instances may be of two markets."""
    return draft.group.launch.on_demand_percentage < 100
