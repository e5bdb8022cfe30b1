"""Demand tracking: enough instances for the demand one launch ahead, at the least cost.

Demand is utilisation times instances, so it doesn't change by the group's own size. The vote is what is foretold for
the moment at which a launch called now would serve, plus headroom sized by how wrong such forecasts were lately.
Scaling in waits for the highest wish of a while to fall. A reading at its end says nothing of the demand above it; one
that was reached at a bound is answered boldly, at once.
"""

import math
from typing import NamedTuple

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.policy.demand import (
    LEAST_HEADROOM,
    REACTION_SECONDS,
    UNLEARNT_HEADROOM,
    UNLEARNT_MINUTES,
    DemandMemory,
    Forecaster,
)
from controller_asg.policy.readings import readings
from controller_asg.policy.serving import Fleet

FULL = 0.99  # of the metric's end: beyond it nothing more can be seen
# What goes on where cpu_percent ends. Counted at one moment, so more than BOLD is taken for a burst.
QUEUE = {"cpu_percent": "run_queue_per_cpu"}
# Instances that are full all of a sudden, of which nobody knows what waits, may have met any demand: five times the one
# of a minute ago is provided for, with the headroom there is, up to that of a policy that has learnt nothing.
BOLD, SUDDEN = 5.0, 1.04
FULL_STILL = 1.4  # of those in service, where the load came slowly, so that its trend is known
EXTRA = 0.04  # on each change, so that the next one comes later
# Taking away a tenth or less of the group saves little: it waits for so many times the patience.
SMALL_SHARE, SMALL_PATIENCE = 0.1, 6.0
TURN_SECONDS = (
    600.0  # no scale-in within it after a scale-out; after a scale-in, little headroom wakes a scale-out
)
TURN_HEADROOM = 0.1
BEYOND = 1.25  # of the usual peak
ROUNDING = 1e-9  # 6 * 1.1 / 0.6 is eleven instances
# What a moment of shortage is worth, in moments of the whole demand's cost.
PRICES = {"lean": 25.0, "normal": 50.0, "ample": 150.0}


class Load(NamedTuple):
    """What a pass read: the demand of those that report, in instances, and how many are `serving` and `silent`.

    `clipped`: they are full, so the demand is at least so much. `queued`: with what waits, where that can be seen.
    """

    demand: float
    serving: int
    silent: int
    clipped: bool
    queued: float | None = None


class Wish(NamedTuple):
    """`capacity` now; `wanted` without patience, in instances; `peak`: cut to the usual peak; `held`: why not less."""

    capacity: int
    wanted: float
    forecaster: Forecaster
    peak: bool
    season: bool
    bold: bool
    held: str


def vote(policy: DemandTracking, memory: DemandMemory, fleet: Fleet, now: float) -> Vote:
    """Folds what the fleet reports into the memory, and votes. Call it once a pass; `now` in Unix seconds.

    The memory learns what was seen and never what was decided: a vote that nobody acts on spoils nothing. Members that
    don't report count as no demand for scaling out, and as a full instance each for scaling in. When none reports, the
    policy abstains, and the memory stays as it is.
    """
    load = measure(policy, fleet)
    if load is None:
        return Vote(policy.name, None, fleet.unreported(policy.metric))
    wish = decide(policy, memory, load, fleet.desired, fleet.warming, now, fleet.lead_seconds)
    return Vote(policy.name, wish.capacity, explain(memory, load, wish, fleet.desired, fleet.lead_seconds))


def measure(policy: DemandTracking, fleet: Fleet) -> Load | None:
    """None when no instance past its warmup reports.

    One in its warmup counts with what it says, and with no more than the others' mean: it may be busy with itself.
    """
    _, values = fleet.readings(policy.metric, policy.window_seconds)
    known = [min(max(value / policy.full, 0.0), 1.0) for value in values if math.isfinite(value)]
    if not known:
        return None
    demand, count = math.fsum(known), len(known)
    mean, clipped = demand / count, demand >= FULL * count
    _, new = readings(fleet.fresh, policy.metric, policy.window_seconds)
    fresh = math.fsum(min(max(value / policy.full, 0.0), mean) for value in new if math.isfinite(value))
    queued = None
    if clipped and policy.metric in QUEUE:
        _, queues = fleet.readings(QUEUE[policy.metric], policy.window_seconds)
        if len(queues) == count:
            queued = fresh + math.fsum(min(max(queue, 1.0), BOLD) for queue in queues)
    serving = len(fleet.serving)
    return Load(demand + fresh, serving + len(new), serving - count, clipped, queued)


def decide(
    policy: DemandTracking,
    memory: DemandMemory,
    load: Load,
    desired: int,
    warming: int,
    now: float,
    lead_seconds: float,
) -> Wish:
    """The wish at this reading. What became of the last one is seen by the desired capacity."""
    was_clipped = memory.clipped
    memory.note_size(desired)
    price, season = PRICES[policy.headroom], policy.forecast == "auto"
    memory.fold(now, load.demand, load.clipped, load.silent > 0, lead_seconds, price, season)
    season = season and memory.raises()
    wanted, peak = _bound(memory, 1.0, season)
    # What was launched for the last one is on its way, and nothing new is known until it serves.
    bold = load.clipped and (not warming or not was_clipped)
    if bold:
        room = min(memory.chosen.headroom, 1 + UNLEARNT_HEADROOM)
        if load.queued is not None:
            seen = load.queued * room
        else:
            before = memory.before()
            seen = BOLD * before * room if load.demand >= SUDDEN * before else 0.0
        wanted = max(wanted, FULL_STILL * load.demand, seen)
    roomy = max(1, math.ceil(wanted * (1 + EXTRA) - ROUNDING))
    rested = _note(memory, now, roomy + load.silent, policy.patience_seconds)
    waking = wanted
    if now - memory.scaled_in_at <= TURN_SECONDS and not load.clipped:
        waking, _ = _bound(memory, TURN_HEADROOM, season)
    capacity, held = desired, ""
    if waking - ROUNDING > desired:
        capacity = roomy
    elif rested < desired:
        rested, held = _scale_in(policy, memory, rested, desired, warming, now)
        capacity = desired if held else rested
    return Wish(capacity, wanted, memory.chosen, peak, season, bold, held)


def _scale_in(
    policy: DemandTracking, memory: DemandMemory, rested: int, desired: int, warming: int, now: float
) -> tuple[int, str]:
    """The capacity to go down to, and what holds that back; `rested` is the highest wish within the patience."""
    if warming:
        return rested, f"{warming} still warming up"
    if now - memory.began_at < UNLEARNT_MINUTES * 60:
        return rested, "too little learnt yet"
    if now - memory.scaled_out_at <= TURN_SECONDS:
        return rested, "scaled out a moment ago"
    if desired - rested < max(2, SMALL_SHARE * desired):
        rested = memory.wishes[0][1]
        if rested >= desired or now - memory.began_at < SMALL_PATIENCE * policy.patience_seconds:
            return rested, f"so few wait for {SMALL_PATIENCE * policy.patience_seconds:.0f} s"
    return rested, ""


def explain(memory: DemandMemory, load: Load, wish: Wish, desired: int, lead_seconds: float) -> str:
    """One line: demand now, trend, headroom and why, season, result."""
    forecaster = wish.forecaster
    parts = [f"demand {'at least ' * load.clipped}{load.demand:.1f} of {load.serving} in service"]
    if load.silent:
        parts[0] += f" ({load.silent} silent)"
    change = forecaster.foretold - memory.demand
    ahead = lead_seconds + REACTION_SECONDS
    parts.append(f"trend {change:+.1f} in {ahead:.0f} s" if forecaster.slow_seconds else "level, no trend")
    parts.append(f"headroom {100 * (forecaster.headroom - 1):.0f} % ({forecaster.why})")
    if wish.peak:
        parts.append(f"cut to the usual peak {memory.usual_peak:.1f}")
    if wish.season:
        parts.append(f"season foretells {memory.seasonal.foretold:.1f}")
    if wish.bold:
        known = "unknown" if load.queued is None else f"{load.queued:.1f} with what waits"
        parts.append(f"full, so the demand is {known}: a bold step")
    held = f", {wish.held}" if wish.held else ""
    parts.append(f"wants {wish.wanted:.1f}, {desired} -> {wish.capacity}{held}")
    return "; ".join(parts)


def _bound(memory: DemandMemory, share: float, season: bool) -> tuple[float, bool]:
    """The demand foretold with this share of the headroom, and whether the usual peak cut it."""
    chosen = memory.chosen
    foretold = chosen.foretold
    bound = foretold * chosen.headroom**share
    if season:
        seasonal = memory.seasonal
        bound = max(bound, seasonal.foretold * seasonal.headroom**share)
    # Below the usual peak a rise far beyond it is more likely a step than a trend.
    usual = memory.usual_peak
    beyond = foretold if memory.demand > usual else min(foretold, usual * BEYOND)
    usual = max(usual, beyond * (1 + LEAST_HEADROOM * share))
    if bound > usual:
        return max(usual, memory.demand), True
    return max(bound, memory.demand), False


def _note(memory: DemandMemory, now: float, wish: int, patience_seconds: float) -> int:
    """Remember the wish; the highest one within the patience."""
    wishes = memory.wishes
    while wishes and wishes[-1][1] <= wish:
        wishes.pop()
    wishes.append((now, wish))
    while wishes[0][0] < now - SMALL_PATIENCE * patience_seconds:
        wishes.popleft()
    highest = wish
    for at, each in reversed(wishes):
        if at < now - patience_seconds:
            break
        highest = each
    return highest
