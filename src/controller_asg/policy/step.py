"""Step and simple scaling: while a metric is beyond its threshold, adjust the capacity, by how far beyond it is."""

import math

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import SimpleScaling, StepAdjustment, StepScaling
from controller_asg.policy.adjustment import adjusted
from controller_asg.policy.readings import statistic
from controller_asg.policy.serving import Fleet


def vote(policy: StepScaling | SimpleScaling, fleet: Fleet) -> Vote:
    """The capacity that the step asks for into which the metric's distance from the threshold falls.

    Scaling out, the adjustment is of what does not warm up any more, so a higher step while instances still warm up
    adds only the difference; scaling in waits until nothing warms up. Instances that don't report count as nothing
    where the policy acts above its threshold, and as just short of it where it acts below, so silence never reaches it.

    Source: EC2 Auto Scaling user guide, "Step and simple scaling policies": step adjustments, and instance warmup.
    """
    if policy.metric is None or policy.threshold is None:
        return Vote(policy.name, fleet.desired, "acts when it is executed", consents=True)
    _, known = fleet.readings(policy.metric, policy.window_seconds)
    if not known:
        return Vote(policy.name, None, fleet.unreported(policy.metric))
    missing = len(fleet.serving) - len(known)
    share = policy.threshold / (len(fleet.serving) if policy.statistic == "sum" else 1)
    # The threshold itself is reached already.
    silent = math.nextafter(share, math.inf if policy.comparison == "below" else -math.inf)
    if policy.comparison == "above":
        silent = min(0.0, silent)
    value = statistic(policy.statistic, known + [silent] * missing)
    assert value is not None
    seen = f"{policy.statistic} {policy.metric} {value:.4g}, threshold {policy.threshold:g}"
    if missing:
        seen += f", {missing} of {len(fleet.serving)} silent"
    beyond = value - policy.threshold
    if beyond < 0 if policy.comparison == "above" else beyond > 0:
        # As in EC2, a policy whose threshold is not reached has no say.
        return Vote(policy.name, fleet.desired, f"{seen}: not {policy.comparison}", consents=True)
    step = step_of(policy, beyond)
    if step is None:
        return Vote(policy.name, fleet.desired, f"{seen}: in no step", consents=True)
    wanted, why = adjusted_by(policy, step, fleet.desired, fleet.warming)
    return Vote(policy.name, wanted, seen + why)


def adjusted_by(
    policy: StepScaling | SimpleScaling, step: int, desired: int, warming: int
) -> tuple[int, str]:
    """The capacity that this adjustment asks for, and how that came about."""
    settled = max(0, desired - warming)
    wanted = adjusted(policy.adjustment_type, step, policy.min_adjustment_magnitude, settled)
    why = (
        f": {policy.adjustment_type} {step:+d}" if policy.adjustment_type != "ExactCapacity" else f": {step}"
    )
    if wanted > settled or (policy.adjustment_type == "ExactCapacity" and wanted >= desired):
        return max(wanted, desired), why
    if warming:
        return desired, f": {warming} still warming up"
    return wanted, why


def step_of(policy: StepScaling | SimpleScaling, beyond: float) -> int | None:
    """The adjustment at this distance from the threshold; None: it lies in no step."""
    if isinstance(policy, SimpleScaling):
        return policy.adjustment
    above = policy.comparison == "above"
    return next((step.adjustment for step in policy.steps if _holds(step, beyond, above)), None)


def _holds(step: StepAdjustment, beyond: float, above: bool) -> bool:
    """Above the threshold the lower bound belongs to the step, below it the upper one."""
    low = -math.inf if step.lower is None else step.lower
    high = math.inf if step.upper is None else step.upper
    return low <= beyond < high if above else low < beyond <= high
