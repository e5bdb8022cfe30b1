"""Target tracking: hold a metric at its target by sizing the group in proportion."""

import math

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import TargetTracking
from controller_asg.policy.readings import statistic
from controller_asg.policy.serving import Fleet


def vote(policy: TargetTracking, fleet: Fleet) -> Vote:
    """The capacity that would bring the metric back to its target.

    Instances that don't report count as nothing for scaling out and as at target for scaling in, so that silence
    changes no size. While instances warm up, their effect isn't seen yet, so the policy doesn't scale in.

    Source: desired = ceil(serving x value / target), the rule of Kubernetes' horizontal pod autoscaler and, for
    scaling out, of EC2's target tracking.
    """
    _, known = fleet.readings(policy.metric, policy.window_seconds)
    missing = len(fleet.serving) - len(known)
    if not known:
        return Vote(policy.name, None, f"no instance in service reports {policy.metric}")
    low = _share(policy, known + [0.0] * missing)
    high = _share(policy, known + [policy.target] * missing)
    seen = f"{policy.statistic} {policy.metric} {high:.4g}, target {policy.target:g}"
    if policy.statistic == "sum":
        seen += " (an instance's share)"
    if missing:
        seen += f", {missing} of {len(fleet.serving)} silent"
    if low > policy.target * (1 + policy.scale_out_tolerance_ratio):
        return Vote(policy.name, max(_sized(policy, fleet, low), fleet.desired), seen)
    if high < policy.target * (1 - policy.scale_in_tolerance_ratio):
        wanted = max(_sized(policy, fleet, high), 1)
        if wanted >= fleet.desired:
            return Vote(policy.name, fleet.desired, seen)
        if fleet.warming:
            return Vote(policy.name, fleet.desired, f"{seen}: {fleet.warming} still warming up")
        return Vote(policy.name, wanted, seen)
    return Vote(policy.name, fleet.desired, f"{seen}: within tolerance")


def _share(policy: TargetTracking, values: list[float]) -> float:
    """What is compared with the target: a sum is the group's whole work, the others are shares of one instance."""
    value = statistic(policy.statistic, values)
    assert value is not None
    return value / len(values) if policy.statistic == "sum" else value


def _sized(policy: TargetTracking, fleet: Fleet, share: float) -> int:
    # Multiply first: 100 * (66 / 60) is 110.00000000000001, which ceil makes 111.
    return math.ceil(len(fleet.serving) * share / policy.target - 1e-9)
