"""How well a capacity followed a demand, and what it cost over the least possible.

Source: N. Herbst et al., "Ready for Rain? A View from SPEC Research on the Future of Cloud Metrics"
(SPEC-RG-2016-01), elasticity. Shares are of the need in whole instances.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import Schedule

REVERSAL_SECONDS = 600
# Of these the geometric mean is taken over traces, and a smaller value counts as the floor. Of the others, the mean.
GEOMETRIC_FLOORS = {"tau_u": 0.01, "theta_u": 0.001, "cost": 0.01, "changes_per_hour": 0.01}


@dataclass(frozen=True, slots=True)
class Figures:
    """`tau_*`: share of time, `theta_*`: share of the need, in per cent; `u` too little capacity, `o` too much.

    `cost` is paid time (in service and booting) over the clairvoyant's.
    """

    tau_u: float
    theta_u: float
    tau_o: float
    theta_o: float
    cost: float
    changes_per_hour: float
    reversals_per_day: float
    mean_in_service: float


def figures(need: Sequence[int], schedule: Schedule, delay_seconds: float = 120.0) -> Figures:
    ticks = len(need)
    under, over, missing, surplus = 0, 0, 0.0, 0.0
    for needed, supply in zip(need, schedule.in_service, strict=True):
        if needed > supply:
            under += 1
            missing += (needed - supply) / needed
        elif supply > needed:
            over += 1
            surplus += (supply - needed) / needed
    changes, reversed_at = churn(schedule.desired)
    hours = ticks * TICK_SECONDS / 3600
    return Figures(
        100 * under / ticks,
        100 * missing / ticks,
        100 * over / ticks,
        100 * surplus / ticks,
        sum(schedule.desired) / least_paid(need, math.ceil(delay_seconds / TICK_SECONDS)),
        changes / hours,
        reversed_at * 24 / hours,
        sum(schedule.in_service) / ticks,
    )


def churn(desired: Sequence[int]) -> tuple[int, int]:
    """How many ticks changed the desired capacity, and how many of these turned back within ten minutes."""
    changes, reversals = 0, 0
    changed_at, grew = -math.inf, False
    for tick in range(1, len(desired)):
        if desired[tick] != desired[tick - 1]:
            grows = desired[tick] > desired[tick - 1]
            if changes and grows != grew and (tick - changed_at) * TICK_SECONDS <= REVERSAL_SECONDS:
                reversals += 1
            changes, changed_at, grew = changes + 1, tick, grows
    return changes, reversals


def least_paid(need: Sequence[int], delay: int) -> int:
    """Instance-ticks the clairvoyant pays: in service whenever needed, each launch `delay` ticks ahead.

    Instance i is needed whenever the need is i or more. A gap of up to `delay` ticks is cheaper run through.
    """
    paid = sum(need)
    idle_since: list[int | None] = [None] * max(need)
    before = need[0]
    for tick, needed in enumerate(need):
        for one in range(before, needed):
            since = idle_since[one]
            paid += delay if since is None else min(tick - since, delay)
        for one in range(needed, before):
            idle_since[one] = tick
        before = needed
    return paid


def over_traces(of: Sequence[Figures]) -> Figures:
    """One set of figures for many traces: geometric means where ratios count, plain means of the rest."""
    return Figures(
        *(
            geometric_mean([max(getattr(each, name), GEOMETRIC_FLOORS[name]) for each in of])
            if name in GEOMETRIC_FLOORS
            else sum(getattr(each, name) for each in of) / len(of)
            for name in (field.name for field in fields(Figures))
        )
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of values greater than 0."""
    return math.exp(sum(map(math.log, values)) / len(values))
