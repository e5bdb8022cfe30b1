"""Where new instances go: zones kept level, those that just had no capacity left out."""

import math
from collections import Counter

from controller_asg.model.offering import Market, Offering
from controller_asg.model.record import LaunchTemplate
from controller_asg.planner import costs, offerings
from controller_asg.planner.draft import Draft
from controller_asg.planner.plan import LaunchPlan

Subnets = tuple[tuple[str, str], ...]  # (id, zone)
ANYWHERE: Subnets = (("", ""),)  # EC2 chooses


def spread(
    draft: Draft,
    template: LaunchTemplate,
    count: int,
    subnets: Subnets,
    taken: list[Offering],
    cause: str,
    room: float = math.inf,
) -> tuple[LaunchPlan, ...]:
    """`count` instances over the zones, each to the emptiest; one launch a subnet, type and market.

    `taken` are those there and on their way; what it chose is added. Each costs so little that `room` (USD an hour)
    still pays for the rest at its cheapest. Fewer than `count` where it does not; none where every offering is avoided.
    """
    launch, prices = template.launch, draft.snapshot.prices
    places = subnets or ANYWHERE
    zones = {zone for _, zone in places}
    there = {
        market: {zone: offerings.available(draft, zone, launch, market) for zone in zones}
        for market in Market
        if market is Market.ON_DEMAND or launch.on_demand_percentage < 100
    }
    in_zone = Counter(each.zone for each in taken)
    in_subnet: Counter[tuple[str, str]] = Counter()
    on_demand = sum(each.market is Market.ON_DEMAND for each in taken)
    chosen: Counter[tuple[str, Offering]] = Counter()
    while count and costs.cheapest(launch, prices, count, len(taken), on_demand) > room + costs.ROUNDING:
        count -= 1
    for left in range(count - 1, -1, -1):
        market = offerings.wanted(launch, len(taken) + 1, on_demand)
        open_ = there[market]
        if room < math.inf:
            fixed = on_demand + (market is Market.ON_DEMAND)
            affordable = room - costs.cheapest(launch, prices, left, len(taken) + 1, fixed)
            open_ = {
                zone: [
                    e
                    for e in each
                    if prices.at_most(e.instance_type, e.market) <= affordable + costs.ROUNDING
                ]
                for zone, each in open_.items()
            }
        allowed = [place for place in places if open_[place[1]]]
        if not allowed:
            break
        # The operator's order breaks ties, so equal snapshots give equal plans.
        best = min(allowed, key=lambda place: (in_zone[place[1]], in_subnet[place]))
        offering = open_[best[1]][0]
        in_zone[best[1]] += 1
        in_subnet[best] += 1
        chosen[best[0], offering] += 1
        on_demand += offering.market is Market.ON_DEMAND
        taken.append(offering)
        if room < math.inf:
            room -= prices.at_most(offering.instance_type, offering.market)
    return tuple(LaunchPlan(template, n, subnet, cause, offering) for (subnet, offering), n in chosen.items())
