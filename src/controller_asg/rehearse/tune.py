"""Other settings of a policy on one load: chosen by its first part, judged by the rest.

Each setting is rehearsed on the whole load, so that it enters the second part with what it has learnt in the first, and
is scored on the two parts apart. The clairvoyant of a part knows that part, and finds what its first tick needs.
"""

import itertools
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.group import Group
from controller_asg.model.scaling_policy import DemandTracking, TargetTracking, Thresholds
from controller_asg.rehearse.figures import Figures, figures
from controller_asg.rehearse.follow import demand_tracking
from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.whole_group import whole_group
from controller_asg.rehearse.world import Schedule, needs, rehearse

Tunable = DemandTracking | TargetTracking | Thresholds

# What is tried of each policy type: every combination. Targets and bounds are of cpu_percent, all a rehearsal knows.
DIALS: dict[str, dict[str, tuple[Any, ...]]] = {
    "demand_tracking": {
        "headroom": ("lean", "normal", "ample"),
        "patience_seconds": (300.0, 600.0, 1800.0),
        "forecast": ("auto", "off"),
    },
    "target_tracking": {
        "target": (40.0, 50.0, 60.0, 70.0, 80.0),
        "window_seconds": (10.0, 60.0),
        "scale_in_cooldown_seconds": (60.0, 300.0, 900.0),
    },
    "thresholds": {
        "create_above": (60.0, 70.0, 80.0, 90.0),
        "delete_below": (10.0, 20.0, 30.0, 40.0, 50.0),
    },
}
HOUR = 3600 // TICK_SECONDS
DAY = 24 * HOUR
LEAST_PART_HOURS = 6


@dataclass(frozen=True, slots=True)
class Tuned:
    """The figures of each setting on both parts. The first setting is the present one."""

    first: Mapping[Tunable, Figures]
    rest: Mapping[Tunable, Figures]


def settings(present: Tunable) -> list[Tunable]:
    """The present one, and those that its dials make; those that change fewer dials first."""
    dials = DIALS[present.type]
    made = (
        replace(present, **dict(zip(dials, each, strict=True))) for each in itertools.product(*dials.values())
    )

    def changed(policy: Tunable) -> int:
        return sum(getattr(policy, dial) != getattr(present, dial) for dial in dials)

    return sorted(dict.fromkeys([present, *made]), key=changed)


def written(policy: Tunable) -> dict[str, Any]:
    """As an operator writes it: its dials, and what is not a default."""
    document: dict[str, Any] = {"type": policy.type}
    for field in fields(policy):
        value = getattr(policy, field.name)
        if field.name in DIALS[policy.type] or value != field.default:
            document[field.name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return document


def split(name: str, ticks: int) -> int:
    """The second part's first tick: the middle, and from two days on the nearest end of a day, so that parts are alike.

    Raises SpecError where a part is too short to say anything.
    """
    middle = ticks // 2
    if middle < LEAST_PART_HOURS * HOUR:
        what = f"lasts {ticks / HOUR:.3g} h, and each of its two parts wants {LEAST_PART_HOURS} h"
        raise SpecError((Fault(name, what, f"give a trace of {2 * LEAST_PART_HOURS} h or more"),))
    return middle if ticks < 2 * DAY else round(middle / DAY) * DAY


def tune(
    demand: Sequence[float], at: int, present: Tunable, group: Group | None, delay_seconds: float = 120.0
) -> Tuned:
    """Every setting's figures before and from tick `at` on, by as many processes as there are CPUs.

    `group` is the one that the policy stands in, and its other policies and bounds stay; without it, the policy is a
    DemandTracking and alone.
    """
    tried = settings(present)
    score = partial(_score, demand, at, group, delay_seconds)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = dict(zip(tried, pool.map(score, tried), strict=True))
    return Tuned(
        {policy: first for policy, (first, _) in parts.items()},
        {policy: rest for policy, (_, rest) in parts.items()},
    )


def cheapest(of: Mapping[Tunable, Figures], tau_u: float) -> Tunable | None:
    """The least cost among those whose τU is at most this, the smaller τU of equal costs, the first of equals."""
    able = [policy for policy in of if of[policy].tau_u <= tau_u]
    return min(able, key=lambda policy: rank(of[policy]), default=None)


def frontier(of: Mapping[Tunable, Figures]) -> list[Tunable]:
    """Those with less τU than any that costs no more; the cheapest first, one of equals."""
    least, found = math.inf, []
    for policy in sorted(of, key=lambda policy: rank(of[policy])):
        if of[policy].tau_u < least:
            found.append(policy)
            least = of[policy].tau_u
    return found


def rank(of: Figures) -> tuple[float, float]:
    """Cheap goes before safe."""
    return of.cost, of.tau_u


def _score(
    demand: Sequence[float], at: int, group: Group | None, delay_seconds: float, policy: Tunable
) -> tuple[Figures, Figures]:
    if group is not None:
        policies = tuple(policy if each.name == policy.name else each for each in group.policies)
        follower = whole_group(replace(group, policies=policies), delay_seconds)
        schedule = rehearse(demand, follower, delay_seconds, math.inf)  # its own bounds hold
    else:
        assert isinstance(policy, DemandTracking)
        schedule = rehearse(demand, demand_tracking(policy, delay_seconds), delay_seconds)
    need = needs(demand)

    def part(ticks: slice) -> Figures:
        return figures(
            need[ticks], Schedule(schedule.desired[ticks], schedule.in_service[ticks]), delay_seconds
        )

    return part(slice(at)), part(slice(at, None))
