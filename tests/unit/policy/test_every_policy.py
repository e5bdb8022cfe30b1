"""What holds for every policy type: silence changes no size, and a forecast is a floor."""

from dataclasses import replace

import pytest

from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import (
    DemandTracking,
    Policy,
    Predictive,
    SimpleScaling,
    StepAdjustment,
    StepScaling,
    TargetTracking,
    Thresholds,
)
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.demand_tracking import SMALL_PATIENCE
from controller_asg.policy.forecast import Forecast
from controller_asg.policy.serving import Fleet
from controller_asg.policy.voting import Wish, ask, combine
from tests.making import NOW, ago

CPU = "cpu_percent"
DOWN = StepAdjustment(-2, upper=0.0)
UP = StepAdjustment(2, lower=0.0)
SCALING_IN = (
    Thresholds(delete_below=20),
    TargetTracking(metric=CPU, target=60),
    TargetTracking(expression=f"average({CPU})", target=60, name="expression"),
    StepScaling(metric=CPU, threshold=20, comparison="below", steps=(DOWN,)),
    SimpleScaling(metric=CPU, threshold=20, comparison="below", adjustment=-2),
    DemandTracking(patience_seconds=60),
)
SCALING_OUT = (
    Thresholds(),
    TargetTracking(metric=CPU, target=60),
    TargetTracking(expression=f"average({CPU})", target=60, name="expression"),
    StepScaling(metric=CPU, threshold=80, steps=(UP,)),
    SimpleScaling(metric=CPU, threshold=80, adjustment=2),
    DemandTracking(),
)
EXECUTED = SimpleScaling(adjustment=1, webhook=True)


def fleet(*cpus: float | None, silent: int = 0) -> Fleet:
    """None: it is heard, and does not tell its CPU; `silent` more are not heard at all."""
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=(Sample(-0.5, {CPU: c} if c is not None else {"x": 1.0}),))
        for n, c in enumerate(cpus)
    )
    unheard = tuple(AgentView(f"j-{n}", silent_seconds=None) for n in range(silent))
    return Fleet(members + unheard, len(cpus) + silent, 0)


def idle_for_long(policy: Policy) -> dict[str, DemandMemory]:
    """One that has learnt the load of its ten instances, and is patient no more."""
    memory = DemandMemory()
    for second in range(round(SMALL_PATIENCE * 60) + 4000, 0, -10):
        ask(policy, fleet(*[2.0] * 10), {policy.name: memory}, ago(second))
    return {policy.name: memory}


def memories(policy: Policy, idle: bool = False) -> dict[str, DemandMemory]:
    if not isinstance(policy, DemandTracking):
        return {}
    return idle_for_long(policy) if idle else {policy.name: DemandMemory()}


@pytest.mark.parametrize("policy", [*SCALING_IN, *SCALING_OUT], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "dumb", [fleet(None, None), fleet(silent=2), fleet()], ids=["empty", "unheard", "none"]
)
def test_without_a_reading_a_policy_abstains_and_consents_to_nothing(policy: Policy, dumb: Fleet) -> None:
    vote = ask(policy, dumb, memories(policy), NOW)
    assert (vote.capacity, vote.consents) == (None, False)


@pytest.mark.parametrize("policy", SCALING_IN, ids=lambda each: each.name)
def test_the_idle_scale_in_when_all_speak(policy: Policy) -> None:
    assert (ask(policy, fleet(*[2.0] * 10), memories(policy, idle=True), NOW).capacity or 99) < 10


@pytest.mark.parametrize("policy", SCALING_IN, ids=lambda each: each.name)
@pytest.mark.parametrize("unheard", [False, True])
def test_the_silent_count_as_at_target_so_they_are_no_reason_to_scale_in(
    policy: Policy, unheard: bool
) -> None:
    # What is proportional stays even where the one that speaks is idle; a threshold wants an average beyond it.
    spoken = 2.0 if isinstance(policy, TargetTracking | DemandTracking) else 21.0
    dumb = fleet(spoken, silent=9) if unheard else fleet(spoken, *[None] * 9)
    assert ask(policy, dumb, memories(policy, idle=True), NOW).capacity == 10


def test_of_the_silent_thresholds_sends_nobody_away() -> None:
    assert set(ask(SCALING_IN[0], fleet(2.0, silent=9), {}, NOW).victims) == {"i-0"}


@pytest.mark.parametrize(
    "policy", [each for each in SCALING_OUT if not isinstance(each, Thresholds)], ids=lambda e: e.name
)
def test_the_silent_count_as_nothing_for_scaling_out(policy: Policy) -> None:
    vote = ask(policy, fleet(95.0, silent=9), memories(policy), NOW)
    assert (vote.capacity or 0) <= 10
    assert (ask(policy, fleet(*[95.0] * 10), memories(policy), NOW).capacity or 0) > 10


def test_nobody_heard_and_nobody_telling_are_told_apart() -> None:
    policy = SCALING_OUT[1]
    assert ask(policy, fleet(silent=2), {}, NOW).reason == "no agent is heard"
    assert ask(policy, fleet(None), {}, NOW).reason == "no instance in service reports cpu_percent"


def test_a_policy_that_is_executed_alone_stands_in_nobodys_way() -> None:
    wish = combine((SCALING_IN[1], EXECUTED), fleet(5.0, 5.0), (), NOW, {})
    assert wish.capacity == 1


@pytest.mark.parametrize("policy", SCALING_OUT, ids=lambda each: each.name)
def test_on_missing_data_the_floor_scales_out_and_never_in(policy: Policy) -> None:
    floored = replace(policy, on_missing_data="floor", missing_data_floor=4)
    other = TargetTracking(metric="x", target=60, name="other", scale_in_cooldown_seconds=0)

    def wish(*policies: Policy, size: int = 2, overdue: bool = True) -> Wish:
        names = frozenset({policy.name} if overdue else ())
        return combine(policies, fleet(*[None] * size), (), NOW, memories(policy), None, names)

    assert wish(floored).capacity == 4
    assert wish(floored, overdue=False).capacity == 2
    assert wish(floored, size=6).capacity == 6
    held = wish(floored, other, size=6)  # the other one's metric is low
    assert (held.capacity, held.steps[-1].name) == (6, "consent")


def predicted(demand: float) -> Forecast:
    begins = NOW.timestamp() // 300 * 300
    return Forecast(begins, (demand,) * 20, "a test", None)


PREDICTIVE = Predictive(target=50, mode="forecast_and_scale")


@pytest.mark.parametrize(
    ("demand", "cpu", "size", "capacity"),
    [
        (4.0, 50.0, 5, 8),  # the forecast wants more
        (4.0, 90.0, 5, 9),  # the reactive one wants more still
        (1.0, 50.0, 5, 5),  # it never scales in
        (1.0, 5.0, 5, 2),  # others do, down to it
        (0.0, 5.0, 5, 1),  # and as far as they wish where it is below
        (9.0, 5.0, 5, 18),
    ],
)
def test_a_forecast_is_a_floor(demand: float, cpu: float, size: int, capacity: int) -> None:
    track = TargetTracking(metric=CPU, target=50, scale_in_tolerance_ratio=0)
    wish = combine((track, PREDICTIVE), fleet(*[cpu] * size), (), NOW, {}, predicted(demand))
    assert wish.capacity == capacity


@pytest.mark.parametrize("forecast", [predicted(9.0), predicted(4.0)])
def test_forecast_only_changes_nothing(forecast: Forecast) -> None:
    track = TargetTracking(metric=CPU, target=50, scale_in_tolerance_ratio=0)
    only = replace(PREDICTIVE, mode="forecast_only")
    with_it, without = (
        combine(policies, fleet(*[20.0] * 10), (), NOW, {}, forecast)
        for policies in ((track, only), (track,))
    )
    assert with_it.capacity == without.capacity == 4


def test_the_decision_tells_the_moment_the_basis_and_the_error() -> None:
    vote = ask(PREDICTIVE, fleet(50.0), {}, NOW, replace(predicted(4.0), error=0.123))
    assert "demand 4.0, 8 instances at 50 %; from a test; error 12 % over the last day" in vote.reason
    assert vote.reason.startswith("forecast for ")


def test_without_a_forecast_it_stands_in_nobodys_way() -> None:
    track = TargetTracking(metric=CPU, target=50, scale_in_tolerance_ratio=0)
    assert combine((track, PREDICTIVE), fleet(*[20.0] * 10), (), NOW, {}, None).capacity == 4
