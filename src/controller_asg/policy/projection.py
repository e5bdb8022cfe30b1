"""How far a group may shrink before a policy scales it out again: the work of now, carried by fewer instances.

A metric is taken for utilisation: n instances at u are k at u x n / k. Source: Azure Monitor, "Autoscale flapping".
"""

import math

from controller_asg.model.scaling_policy import (
    Policy,
    SimpleScaling,
    StepScaling,
    TargetTracking,
    Thresholds,
)
from controller_asg.policy import target_tracking
from controller_asg.policy.readings import statistic
from controller_asg.policy.serving import LARGEST, Fleet


def smallest(policy: Policy, fleet: Fleet) -> int:
    """The smallest size at which it would not scale out at once; 0: any, or nobody can tell.

    A sum of step scaling stays as it is however few carry it, and demand_tracking plans ahead by itself.
    """
    match policy:
        case Thresholds():
            return _of_thresholds(policy, fleet)
        case TargetTracking():
            share = target_tracking.lowest_share(policy, fleet)
            bound = policy.target * (1 + policy.scale_out_tolerance_ratio)
            if share is None or share <= 0:
                return 0
            staying = math.ceil(min(len(fleet.serving) * share / bound, LARGEST) - 1e-9)
            return _sized(fleet, staying, len(fleet.serving))
        case StepScaling() | SimpleScaling():
            return _of_steps(policy, fleet)
    return 0


def _of_thresholds(policy: Thresholds, fleet: Fleet) -> int:
    """The idlest go, and the others carry their load evenly."""
    values = sorted(fleet.readings(policy.metric, policy.window_seconds)[1])
    carried = 0.0
    for going, value in enumerate(values[:-1], 1):
        carried += value
        if values[-1] + carried / (len(values) - going) > policy.create_above:
            return _sized(fleet, len(values) - going + 1, len(values))
    return 0


def _of_steps(policy: StepScaling | SimpleScaling, fleet: Fleet) -> int:
    if policy.metric is None or policy.threshold is None or policy.comparison != "above":
        return 0
    if policy.statistic == "sum" or policy.adjustment_type == "ExactCapacity":
        return 0
    if isinstance(policy, SimpleScaling):
        outs = [0.0] if policy.adjustment > 0 else []
    else:
        outs = [max(step.lower or 0.0, 0.0) for step in policy.steps if step.adjustment > 0]
    _, values = fleet.readings(policy.metric, policy.window_seconds)
    value = statistic(policy.statistic, values)
    bound = policy.threshold + min(outs, default=math.inf)
    if value is None or value <= 0 or bound <= 0 or math.isinf(bound):
        return 0
    # The threshold itself is reached already.
    return _sized(fleet, math.floor(len(values) * value / bound + 1e-9) + 1, len(values))


def _sized(fleet: Fleet, staying: int, known: int) -> int:
    """The group's size when so many of those `known` stay."""
    return max(0, fleet.desired - known + staying)
