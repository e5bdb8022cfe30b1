"""Target tracking: hold a metric, or an expression of several, at its target by sizing the group in proportion."""

import math

from controller_asg.model.decision import Vote
from controller_asg.model.expression import parse
from controller_asg.model.scaling_policy import TargetTracking
from controller_asg.policy.readings import statistic
from controller_asg.policy.serving import LARGEST, Fleet


def vote(policy: TargetTracking, fleet: Fleet) -> Vote:
    """The capacity that would bring the metric or the expression back to its target.

    Instances that don't report count as nothing for scaling out and as at target for scaling in, so that silence
    changes no size. While instances warm up, their effect isn't seen yet, so the policy doesn't scale in.

    Source: desired = ceil(serving x value / target), the rule of Kubernetes' horizontal pod autoscaler and, for
    scaling out, of EC2's target tracking.
    """
    measured = _of_metric(policy, fleet) if policy.expression is None else _of_expression(policy, fleet)
    if isinstance(measured, str):
        return Vote(policy.name, None, measured)
    low, high, seen = measured
    if low > policy.target * (1 + policy.scale_out_tolerance_ratio):
        return Vote(policy.name, max(_sized(policy, fleet, low), fleet.desired), seen)
    if high < policy.target * (1 - policy.scale_in_tolerance_ratio):
        wanted = max(_sized(policy, fleet, high), 1)
        if wanted >= fleet.desired:
            return Vote(policy.name, fleet.desired, seen)
        if fleet.warming:
            return Vote(policy.name, fleet.desired, f"{seen}: {fleet.warming} still warming up")
        return Vote(policy.name, wanted, seen)
    return Vote(policy.name, fleet.desired, seen if math.isinf(high) else f"{seen}: within tolerance")


def lowest_share(policy: TargetTracking, fleet: Fleet) -> float | None:
    """What is compared with the target before scaling out; None: there is no reading."""
    measured = _of_metric(policy, fleet) if policy.expression is None else _of_expression(policy, fleet)
    return None if isinstance(measured, str) else measured[0]


# One instance's share at the least and at the most, whatever the silent ones would say, and how the vote is explained;
# or why there is none.
Measured = tuple[float, float, str] | str


def _of_metric(policy: TargetTracking, fleet: Fleet) -> Measured:
    assert policy.metric is not None
    _, known = fleet.readings(policy.metric, policy.window_seconds)
    missing = len(fleet.serving) - len(known)
    if not known:
        return fleet.unreported(policy.metric)
    low = _share(policy, known + [0.0] * missing)
    high = _share(policy, known + [policy.target] * missing)
    seen = f"{policy.statistic} {policy.metric} {high:.4g}, target {policy.target:g}"
    if policy.statistic == "sum":
        seen += " (an instance's share)"
    if missing:
        seen += f", {missing} of {len(fleet.serving)} silent"
    return low, high, seen


def _of_expression(policy: TargetTracking, fleet: Fleet) -> Measured:
    assert policy.expression is not None
    expression = parse(policy.expression)
    serving = len(fleet.serving)
    names = {"in_service": float(serving), "desired": float(fleet.desired)}
    silent, unbounded = 0, False
    for term in expression.terms:
        _, known = fleet.readings(term.metric, policy.window_seconds)
        if not known:
            return fleet.unreported(term.metric)
        missing = serving - len(known)
        value = statistic(term.statistic, known + [0.0] * missing)
        assert value is not None
        names[str(term)] = value
        silent, unbounded = max(silent, missing), unbounded or (missing > 0 and term.lowers)
    share = expression.value(names)
    seen = ", ".join(f"{name} {value:.4g}" for name, value in names.items() if name in expression.steps)
    if share is None:
        return f"{seen}: the expression divides by zero, or has too large a value"
    seen = f"value {share:.4g} of {seen}, target {policy.target:g}"
    if not silent:
        return share, share, seen
    held = "no scaling" if unbounded else "no scaling in"
    return -math.inf if unbounded else share, math.inf, f"{seen}, {silent} of {serving} silent: {held}"


def _share(policy: TargetTracking, values: list[float]) -> float:
    """What is compared with the target: a sum is the group's whole work, the others are shares of one instance."""
    value = statistic(policy.statistic, values)
    assert value is not None
    return value / len(values) if policy.statistic == "sum" else value


def _sized(policy: TargetTracking, fleet: Fleet, share: float) -> int:
    # Multiply first: 100 * (66 / 60) is 110.00000000000001, which ceil makes 111.
    return math.ceil(min(max(len(fleet.serving) * share / policy.target, 0), LARGEST) - 1e-9)
