"""What a group costs an hour, and the ceilings on it: its own, and its part of the one that all groups share.

A ceiling is a bound like max_size. Desired capacity stays at what it pays for at the cheapest the document allows, and
no launch raises the cost above it. What is being terminated is not counted: EC2 charges nothing for it any more. What
waits in Terminating:Wait is paid for, and may be taken back: it leaves less to launch, and desired capacity alone. What
stands by is paid for too; what is being detached is the group's no more.
"""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from controller_asg.model.activity import Activity
from controller_asg.model.decision import Step
from controller_asg.model.document import place
from controller_asg.model.errors import Fault
from controller_asg.model.group import Group, LaunchParameters
from controller_asg.model.instance import LEAVING_STATES, Instance, LifecycleState
from controller_asg.model.offering import Market, Offering, Prices
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import Health
from controller_asg.planner.snapshot import Member

UNPAID_STATES = {*LEAVING_STATES, LifecycleState.DETACHING} - {LifecycleState.TERMINATING_WAIT}
ROUNDING = 1e-9  # sums of prices that are equal on paper


class Ceiling(NamedTuple):
    usd: float
    whose: str


def ceiling(draft: Draft) -> Ceiling | None:
    """The lower of the two; None: there is none."""
    own, left = draft.group.max_hourly_cost, draft.snapshot.cost_left
    if left is not None and (own is None or left < own):
        return Ceiling(max(left, 0.0), "what the controller's max_hourly_cost leaves to the group")
    return None if own is None else Ceiling(own, "max_hourly_cost")


def cost(offerings: Iterable[Offering], prices: Prices) -> float:
    """USD an hour; what has no price counts nothing."""
    counts = Counter((each.instance_type, each.market) for each in offerings)
    return sum(count * (prices.of(*kind) or 0.0) for kind, count in counts.items())


def recorded(instances: Iterable[Instance], activities: Iterable[Activity]) -> list[Offering]:
    """What a group has by its records: all that was asked for and is not on its way out."""
    instances = tuple(instances)
    known = Counter(instance.activity_id for instance in instances)
    asked = [
        each.launch.offering
        for each in activities
        if each.launch is not None and not each.acknowledged
        for _ in range(each.instance_count - known[each.activity_id])
    ]
    here = [each.offering for each in instances if each.state not in UNPAID_STATES]
    return [*here, *asked]


def planned(draft: Draft) -> float | None:
    """What the group costs once this plan is carried out; None: nobody asks."""
    if draft.snapshot.cost_left is None:
        return None
    new = [plan.offering for plan in draft.launches for _ in range(plan.count)]
    here = [m.instance.offering for m in draft.live()] + _beside(draft)
    return cost([*here, *draft.launching(), *new], draft.snapshot.prices)


def cheapest(
    launch: LaunchParameters, prices: Prices, more: int, total: int = 0, on_demand: int = 0
) -> float:
    """What so many `more` cost at the least; inf: a price is unknown.

    They come to `total` instances, of which `on_demand` are On-Demand.
    """
    dear = min(max(launch.on_demand_of(total + more) - on_demand, 0), more)
    lowest = {m: min(prices.at_most(name, m) for name in launch.types) for m in Market}
    spot = min(lowest.values())
    return (dear * lowest[Market.ON_DEMAND] if dear else 0.0) + ((more - dear) * spot if more > dear else 0.0)


def set_aside(launch: LaunchParameters, prices: Prices, min_size: int) -> float:
    """What of the ceiling of all groups is kept for one of them; nothing where no price is known."""
    least = cheapest(launch, prices, min_size)
    return least if least < math.inf else 0.0


def apply_ceiling(draft: Draft) -> None:
    """Keep desired capacity at what the ceiling pays for, but for min_size."""
    top = ceiling(draft)
    if top is None:
        return
    healthy = [m for m in draft.live() if draft.verdict(m).health is not Health.UNHEALTHY]
    there = [*(m.instance.offering for m in healthy), *draft.launching()]
    parked = cost((m.instance.offering for m in draft.parked()), draft.snapshot.prices)
    desired, paid = draft.record.desired_capacity, _pays_for(draft, there, top.usd - parked)
    bounded = max(min(desired, paid), min(desired, draft.record.min_size))
    if bounded != desired:
        now = cost(there, draft.snapshot.prices)
        reason = f"${top.usd:.4g} an hour ({top.whose}) pays for {paid}: {len(there)} cost ${now:.4g}"
        draft.steps.append(Step("max_hourly_cost", desired, bounded, reason))
        draft.conditions.append(("MaxHourlyCost", reason))
        draft.record = replace(draft.record, desired_capacity=bounded)


def _pays_for(draft: Draft, there: Sequence[Offering], usd: float) -> int:
    """How many instances, with those that are there; fewer than these where they cost too much by now."""
    prices, launch = draft.snapshot.prices, draft.group.launch
    room = usd - cost(there, prices) + ROUNDING
    if room < 0:
        dearest = sorted((prices.of(each.instance_type, each.market) or 0.0 for each in there), reverse=True)
        going = 0
        while room < 0 and going < len(dearest):
            room += dearest[going]
            going += 1
        return len(there) - going
    missing = max(0, draft.record.desired_capacity - len(there))
    costs = lambda more: next_ones(launch, prices, more, there)  # noqa: E731
    return len(there) + bisect.bisect_right(range(missing + 1), room, key=costs) - 1


def next_ones(launch: LaunchParameters, prices: Prices, more: int, there: Sequence[Offering]) -> float:
    """What so many `more` than those that are there cost at the least."""
    on_demand = sum(each.market is Market.ON_DEMAND for each in there)
    return cheapest(launch, prices, more, len(there), on_demand)


def going_first(draft: Draft, unhealthy: Sequence[Member], staying: Sequence[Offering], unpaid: float) -> int:
    """How many of the unhealthy must be terminated for the ceiling's sake.

    So many that what stays, the launches of this pass included, keeps it; and that it pays for others too, of `unpaid`
    USD an hour, once those are gone.
    """
    top = ceiling(draft)
    if top is None:
        return 0
    dying = [member.instance.offering for member in unhealthy]
    staying = [*staying, *_beside(draft)]
    prices, going = draft.snapshot.prices, 0
    while going < len(dying) and cost([*staying, *dying[going:]], prices) + unpaid > top.usd + ROUNDING:
        going += 1
    return going


def room(draft: Draft, there: Sequence[Offering]) -> float:
    """USD an hour that launches may still cost."""
    top = ceiling(draft)
    return math.inf if top is None else top.usd - cost([*there, *_beside(draft)], draft.snapshot.prices)


def _beside(draft: Draft) -> list[Offering]:
    """Paid for, and in no size."""
    return [member.instance.offering for member in (*draft.waiting(), *draft.parked())]


def faults(
    groups: Sequence[Group], others: Sequence[Group], prices: Prices, shared: float | None, source: str = ""
) -> Iterator[Fault]:
    """What of documents can't be: a ceiling that min_size is above at its cheapest, or one without prices.

    `others` are the groups that stay as they are; `shared` is the ceiling of all. The prices are no matter of groups
    that need none.
    """
    least = 0.0
    for group in groups:
        launch, ceilinged = group.launch, group.max_hourly_cost is not None or shared is not None
        if not ceilinged and launch.allocation_strategy == "prioritized":
            continue
        unknown = False
        for index, name in enumerate(launch.types):
            if prices.of(name, Market.ON_DEMAND) is None:
                key = f"launch.instance_types[{index - 1}]" if index else "launch.instance_type"
                what = f"{name} has no on_demand price in {prices.region or 'an unknown region'}"
                mend = f"add it to {prices.source or 'prices_file'}, and reload the controller"
                if not prices.region:
                    mend = "set the controller's region"
                yield Fault(place(group.name, key, source), what, mend)
                unknown = True
        if unknown or not ceilinged:
            continue
        size = _least_size(group)
        costs = cheapest(launch, prices, size)
        least += costs
        if group.max_hourly_cost is not None and costs > group.max_hourly_cost + ROUNDING:
            what = (
                f"${group.max_hourly_cost:g} an hour does not pay for min_size {size}: that is ${costs:.4g}"
            )
            mend = f"raise it to {math.ceil(costs * 10_000) / 10_000:g} or more, or lower min_size"
            yield Fault(place(group.name, "max_hourly_cost", source), what, mend)
    if shared is None:
        return
    least += sum(set_aside(group.launch, prices, _least_size(group)) for group in others)
    if least > shared + ROUNDING:
        names = ", ".join(sorted(group.name for group in groups))
        what = f"with {names}, min_size of all groups costs ${least:.4g} an hour, above ${shared:g}"
        yield Fault("max_hourly_cost", what, "raise it in the controller's settings, or lower a min_size")


def _least_size(group: Group) -> int:
    """The highest min_size that may hold."""
    return max(group.min_size, *(action.min_size or 0 for action in group.scheduled_actions), 0)
