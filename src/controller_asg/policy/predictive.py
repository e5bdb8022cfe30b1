"""Predictive scaling: a floor under the group, from a forecast of its demand. It never scales in."""

import math
from datetime import UTC, datetime

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import Predictive
from controller_asg.policy.forecast import Forecast
from controller_asg.policy.serving import LARGEST


def vote(policy: Predictive, forecast: Forecast | None, now: float) -> Vote:
    """The least capacity from now until `scheduling_buffer_seconds` ahead; `now` in Unix seconds.

    A vote below the present size is consent to scaling in down to it, never a wish for it. Without a forecast it
    abstains and consents, for it knows nothing of the load that the others see.
    """
    if forecast is None:
        reason = "no forecast yet: it wants 24 hours of recorded demand"
        return Vote(policy.name, None, reason, consents=True)
    found = forecast.highest(now, now + policy.scheduling_buffer_seconds)
    if found is None:
        return Vote(policy.name, None, "the forecast does not cover this time", consents=True)
    demand, at = found
    wanted = needed(policy, demand)
    error = "not known yet" if forecast.error is None else f"{100 * forecast.error:.0f} % over the last day"
    reason = (
        f"forecast for {datetime.fromtimestamp(at, UTC):%H:%M}Z: demand {demand:.1f}, {wanted} instances at"
        f" {policy.target:g} %; from {forecast.basis}; error {error}"
    )
    return Vote(policy.name, wanted, reason, consents=True)


def needed(policy: Predictive, demand: float) -> int:
    """Instances that are `target` per cent busy with it."""
    return math.ceil(min(demand * 100 / policy.target, LARGEST) - 1e-9)


def max_size(policy: Predictive, forecast: Forecast | None, now: float) -> int:
    """The max_size that it asks for; 0: it asks for none."""
    if forecast is None or not policy.enabled or policy.mode == "forecast_only":
        return 0
    if policy.max_capacity_breach_behavior == "honor_max_capacity":
        return 0
    found = forecast.highest(now, now + policy.scheduling_buffer_seconds)
    if found is None:
        return 0
    share = 1 + policy.max_capacity_buffer_percent / 100
    return min(math.ceil(needed(policy, found[0]) * share - 1e-9), LARGEST)
