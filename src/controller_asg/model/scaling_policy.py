"""What each policy type is told by the operator. How it votes stands in the file of the same name in `policy/`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from controller_asg.model.expression import parse
from controller_asg.model.metric import Statistic

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Size = Annotated[int, Field(ge=0, le=10_000)]
NAME_PATTERN = r"^[a-zA-Z][a-zA-Z0-9_-]{0,62}$"

Comparison = Literal["above", "below"]
AdjustmentType = Literal["ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ScalingPolicy:
    """What every policy has beside its rule."""

    # act, or observe: it votes and its votes are logged, and they change nothing.
    mode: Literal["act", "observe"] = "act"
    # Only ever scale out by this policy. Where it would scale in, it lets the others do so.
    disable_scale_in: bool = False
    # A policy that is switched off has no vote, and no veto.
    enabled: bool = True
    # hold, or floor: while it has nothing to go by, it wants missing_data_floor instances at least. Either way it then
    # consents to no scaling in.
    on_missing_data: Literal["hold", "floor"] = "hold"
    # Instances; where on_missing_data is floor, and nowhere else.
    missing_data_floor: Size | None = None
    # So long must it have had nothing to go by, as far as the controller watched, before the floor counts.
    missing_data_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0


@dataclass(frozen=True, slots=True, config=STRICT)
class Thresholds(ScalingPolicy):
    """The first design's rule: an instance above one bound creates an instance, one below the other goes itself."""

    type: Literal["thresholds"] = "thresholds"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "thresholds"
    # One of the agent's metrics (the page "metrics"), or app.<name> for one of the application's own.
    metric: str = "cpu_percent"
    # An instance above creates an instance.
    create_above: float = 80.0
    # An instance below is deleted itself.
    delete_below: float = 10.0
    # The mean over this many seconds is compared. At 1 the newest sample decides, which reacts fastest.
    window_seconds: Annotated[float, Field(ge=1, le=3600)] = 1.0
    # After scaling out, this long without doing so again.
    scale_out_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 30.0
    # After scaling in, this long without doing so again.
    scale_in_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 30.0


@dataclass(frozen=True, slots=True, config=STRICT)
class TargetTracking(ScalingPolicy):
    """Hold a statistic of a metric, or an expression of several, at its target by sizing the group in proportion.

    Write either `metric` or `expression`. An expression is made of numbers, `+ - * /`, parentheses, `min(a, b)` and
    `max(a, b)`; of `average(m)`, `maximum(m)`, `minimum(m)`, `p95(m)` and `sum(m)`, where m is a metric, over the
    instances in service that are warm; of `in_service`, how many these are; and of `desired`, the group's desired
    capacity. Its value is one instance's share of the work, as in `sum(app.backlog) / in_service`: at twice the target
    the policy wants twice `in_service`.

    An instance that doesn't report a metric counts as nothing for scaling out and as at target for scaling in. With an
    expression that means: while an instance is silent in one of its metrics the policy doesn't scale in; nor out, where
    more of that metric makes the value smaller (it stands right of a `-` or a `/`). It abstains while nobody reports
    one of the metrics, and where it would divide by zero.
    """

    # What the statistic or the expression is held at, in its own unit; of a sum, one instance's share of it.
    target: Annotated[float, Field(gt=0)]
    # One of the agent's metrics (the page "metrics"), or app.<name> for one of the application's own.
    metric: str | None = None
    # In place of the metric, 1,000 characters at the most: see above.
    expression: str | None = None
    type: Literal["target_tracking"] = "target_tracking"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "target_tracking"
    # Of the metric over the instances in service; a sum is the whole group's work, the others one instance's share.
    statistic: Statistic = "average"
    # Each instance counts with its mean over this many seconds.
    window_seconds: Annotated[float, Field(ge=1, le=3600)] = 10.0
    # No scaling out while the statistic is above the target by no more than this share of it.
    scale_out_tolerance_ratio: Annotated[float, Field(ge=0, lt=10)] = 0.1
    # No scaling in while the statistic is below the target by no more than this share of it.
    scale_in_tolerance_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    # After scaling out, this long without doing so again.
    scale_out_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0
    # After scaling in, this long without doing so again.
    scale_in_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 300.0


@dataclass(frozen=True, slots=True, config=STRICT)
class StepAdjustment:
    """What is done while the metric's distance from the threshold lies between `lower` and `upper`."""

    # An instance count, a percentage or an exact size, as the policy's adjustment_type says; up to 10,000 instances or
    # 100,000 percent.
    adjustment: int
    # In the metric's unit, from the threshold. Left out: without an end.
    lower: float | None = None
    # In the metric's unit, from the threshold. Left out: without an end.
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AlarmScaling(ScalingPolicy):
    """What step and simple scaling have in common: a metric beyond its threshold, and how the size is adjusted.

    As in EC2 it may be executed by hand too (`controller-asg execute-policy`), and with `webhook` by a signed message
    to /v1/webhooks/<group>/<policy>.
    """

    # One of the agent's metrics (the page "metrics"), or app.<name> for one of the application's own. Left out, with
    # threshold: it acts when it is executed, and only then.
    metric: str | None = None
    # In the metric's own unit.
    threshold: float | None = None
    # Whether a signed message executes it.
    webhook: bool = False
    # On which side of the threshold the policy acts; the threshold itself belongs to both.
    comparison: Comparison = "above"
    # ExactCapacity, ChangeInCapacity (instances) or PercentChangeInCapacity (of what no longer warms up).
    adjustment_type: AdjustmentType = "ChangeInCapacity"
    # The least change of a percentage, in instances.
    min_adjustment_magnitude: Annotated[int, Field(ge=0, le=10_000)] = 0
    # Over the instances in service.
    statistic: Statistic = "average"
    # Each instance counts with its mean over this many seconds.
    window_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class StepScaling(AlarmScaling):
    """EC2's step scaling: the further a metric is beyond its threshold, the larger the adjustment."""

    # Without gaps or overlaps; one list for one direction, as in EC2.
    steps: Annotated[tuple[StepAdjustment, ...], Field(min_length=1, max_length=20)]
    type: Literal["step"] = "step"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "step"
    # After scaling out, this long without doing so again; EC2 has none, for instances that warm up count already.
    scale_out_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0
    # After scaling in, this long without doing so again.
    scale_in_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SimpleScaling(AlarmScaling):
    """EC2's simple scaling: one adjustment while a metric is beyond its threshold, then a cooldown."""

    # An instance count, a percentage or an exact size, as adjustment_type says; up to 10,000 instances or 100,000
    # percent.
    adjustment: int
    type: Literal["simple"] = "simple"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "simple"
    # After scaling out, this long without doing so again.
    scale_out_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 300.0
    # After scaling in, this long without doing so again.
    scale_in_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 300.0


@dataclass(frozen=True, slots=True, config=STRICT)
class DemandTracking(ScalingPolicy):
    """Enough instances for the demand one launch ahead. It learns how wrong it is, and keeps headroom for that."""

    type: Literal["demand_tracking"] = "demand_tracking"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "demand_tracking"
    # How busy an instance is: one of the agent's metrics (the page "metrics"), or app.<name> for one of the
    # application's own. With another metric, or another `full`, it learns from the beginning.
    metric: str = "cpu_percent"
    # The metric's value of an instance that can do no more, in the metric's own unit.
    full: Annotated[float, Field(gt=0)] = 100.0
    # How much a moment with too little capacity is worth avoiding. The size follows from the errors of the forecasts.
    headroom: Literal["lean", "normal", "ample"] = "normal"
    # Scale in to what was wanted at the most within so many seconds; by a few instances only after six times as long.
    patience_seconds: Annotated[float, Field(ge=60, le=86400)] = 600.0
    # auto: what a day and a week ago looked like raises the vote where it was right lately.
    forecast: Literal["auto", "off"] = "auto"
    # Each instance counts with its mean over this many seconds. At 1 a step is seen whole, and answered at once.
    window_seconds: Annotated[float, Field(ge=1, le=3600)] = 1.0
    # After scaling out, this long without doing so again.
    scale_out_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0
    # After scaling in, this long without doing so again.
    scale_in_cooldown_seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Predictive:
    """EC2's predictive scaling, by minutes: a floor under the group, from a forecast of its demand.

    The forecast is made every 15 minutes from the demand recorded of the group (its `cpu_percent`), for 48 hours ahead,
    from 24 hours of data on, and of 14 days at the most. The policy never scales in, and lets the others do so down to
    its floor; scaling out, the highest wish counts, as in EC2.
    """

    # cpu_percent of each instance that the forecast is sized for.
    target: Annotated[float, Field(gt=0, le=100)]
    type: Literal["predictive"] = "predictive"
    # What decisions call it; two policies of a group need two names. A letter, then letters, digits, - and _, up to 63.
    name: str = "predictive"
    # forecast_and_scale, or forecast_only: its votes are logged, and they change nothing.
    mode: Literal["forecast_only", "forecast_and_scale"] = "forecast_only"
    # A policy that is switched off has no vote.
    enabled: bool = True
    # So long before the demand is expected its instances are launched.
    scheduling_buffer_seconds: Annotated[float, Field(ge=0, lt=3600)] = 300.0
    # increase_max_capacity lets the forecast go beyond max_size. Other than in EC2, max_size is back when the forecast
    # has passed.
    max_capacity_breach_behavior: Literal["honor_max_capacity", "increase_max_capacity"] = (
        "honor_max_capacity"
    )
    # With increase_max_capacity: so much above the forecast the others may go.
    max_capacity_buffer_percent: Annotated[float, Field(ge=0, le=100)] = 0.0


Policy = Annotated[
    Thresholds | TargetTracking | StepScaling | SimpleScaling | DemandTracking | Predictive,
    Field(discriminator="type"),
]


def observes(policy: Policy) -> bool:
    """Its votes are logged, and change nothing."""
    return policy.mode in ("observe", "forecast_only")


def window_seconds(policy: Policy) -> float:
    """How far back it looks at samples."""
    return 0.0 if isinstance(policy, Predictive) else policy.window_seconds


def metrics_of(policy: Policy) -> tuple[str, ...]:
    """The names of the metrics it looks at, each once. Raises ExpressionError where an expression is none."""
    if isinstance(policy, Predictive):
        return ()
    if isinstance(policy, TargetTracking) and policy.expression is not None:
        return tuple(dict.fromkeys(term.metric for term in parse(policy.expression).terms))
    return () if policy.metric is None else (policy.metric,)
