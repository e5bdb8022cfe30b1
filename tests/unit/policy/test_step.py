"""Step and simple scaling, by EC2's own documented examples."""

from dataclasses import replace

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import SimpleScaling, StepAdjustment, StepScaling
from controller_asg.policy import step
from controller_asg.policy.adjustment import adjusted
from controller_asg.policy.serving import Fleet

# "Step and simple scaling policies": threshold 50, a group of 10.
OUT = StepScaling(
    metric="cpu_percent",
    threshold=50,
    comparison="above",
    adjustment_type="PercentChangeInCapacity",
    steps=(StepAdjustment(0, 0, 10), StepAdjustment(10, 10, 20), StepAdjustment(30, 20)),
)
IN = StepScaling(
    metric="cpu_percent",
    threshold=50,
    comparison="below",
    adjustment_type="PercentChangeInCapacity",
    steps=(StepAdjustment(0, -10, 0), StepAdjustment(-10, -20, -10), StepAdjustment(-30, None, -20)),
)


def fleet(cpu: float | None, count: int = 10, warming: int = 0) -> Fleet:
    samples = () if cpu is None else (Sample(0.0, {"cpu_percent": cpu}),)
    members = tuple(AgentView(f"i-{n}", 0.0, samples=samples) for n in range(count))
    return Fleet(members, count + warming, warming)


@pytest.mark.parametrize(
    ("cpu", "count", "wanted"),
    [(50, 10, 10), (59, 10, 10), (60, 10, 11), (69.9, 10, 11), (70, 10, 13), (100, 10, 13), (60, 1, 2)],
)
def test_scaling_out_by_the_documented_steps(cpu: float, count: int, wanted: int) -> None:
    assert step.vote(OUT, fleet(cpu, count)).capacity == wanted


@pytest.mark.parametrize(("cpu", "wanted"), [(50, 10), (41, 10), (40, 9), (31, 9), (30, 7), (0, 7)])
def test_scaling_in_by_the_documented_steps(cpu: float, wanted: int) -> None:
    assert step.vote(IN, fleet(cpu)).capacity == wanted


def test_a_higher_step_while_instances_warm_up_adds_only_the_difference() -> None:
    # "Instance warmup": 60 % launched one of ten; at 70 % thirty percent of ten are three, of which one is on its way.
    assert step.vote(OUT, fleet(60, 10)).capacity == 11
    assert step.vote(OUT, fleet(70, 10, warming=1)).capacity == 13
    assert step.vote(OUT, fleet(60, 10, warming=3)).capacity == 13


def test_scaling_in_waits_until_nothing_warms_up() -> None:
    assert step.vote(IN, fleet(10, 10, warming=1)).capacity == 11


def test_a_threshold_that_is_not_reached_has_no_say_and_no_data_has() -> None:
    assert step.vote(OUT, fleet(49)).consents
    assert not step.vote(OUT, fleet(60)).consents
    assert not step.vote(OUT, fleet(60, 10, warming=1)).consents
    silent = step.vote(OUT, fleet(None))
    assert silent.capacity is None
    assert not silent.consents


@pytest.mark.parametrize(
    ("adjustment", "capacity", "wanted"),
    # The documented rounding: 12.7 to 12, 0.67 to 1, -0.58 to -1, -6.67 to -6; of 100 each by hand.
    [(127, 10, 22), (67, 1, 2), (-58, 1, 0), (-667, 1, 0), (-67, 10, 4), (25, 0, 0)],
)
def test_percentages_round_as_documented(adjustment: int, capacity: int, wanted: int) -> None:
    assert adjusted("PercentChangeInCapacity", adjustment, 0, capacity) == wanted


def test_the_other_adjustments_and_the_least_change() -> None:
    assert adjusted("ChangeInCapacity", -3, 5, 10) == 7
    assert adjusted("ExactCapacity", 4, 5, 10) == 4
    # "MinAdjustmentMagnitude": 25 % of 4 is 1, and 2 are added.
    assert adjusted("PercentChangeInCapacity", 25, 2, 4) == 6


def test_simple_scaling_adjusts_by_one_rule_whatever_the_distance() -> None:
    out = SimpleScaling(metric="cpu_percent", threshold=70, adjustment=2)
    assert step.vote(out, fleet(71, 3)).capacity == 5
    assert step.vote(out, fleet(100, 3)).capacity == 5
    exact = SimpleScaling(metric="cpu_percent", threshold=70, adjustment=5, adjustment_type="ExactCapacity")
    assert step.vote(exact, fleet(90, 3)).capacity == 5
    assert step.vote(exact, fleet(90, 8)).capacity == 5


@pytest.mark.parametrize("statistic", ["average", "maximum", "minimum", "p95", "sum"])
def test_silence_is_never_beyond_the_threshold(statistic: str) -> None:
    quiet = Fleet(fleet(40, 1).serving + fleet(None, 9).serving, 10, 0)
    down = replace(IN, statistic=statistic, threshold=300 if statistic == "sum" else 30)
    assert step.vote(down, quiet).capacity == 10
    loud = Fleet(fleet(40, 1).serving + fleet(None, 9).serving, 10, 0)
    up = replace(OUT, statistic=statistic, threshold=50)
    assert step.vote(up, loud).consents


def test_a_silent_instance_may_be_the_busiest_so_a_maximum_below_takes_nothing_away() -> None:
    members = (*fleet(10, 2).serving, *fleet(None, 1).serving)
    vote = step.vote(replace(IN, statistic="maximum"), Fleet(members, 3, 0))
    assert (vote.capacity, vote.consents) == (3, True)


def test_a_first_step_without_a_lower_bound_ends_before_the_next_one() -> None:
    open_below = replace(OUT, steps=(StepAdjustment(10, None, 10), StepAdjustment(30, 10)))
    assert step.vote(open_below, fleet(59)).capacity == 11
    assert step.vote(open_below, fleet(60)).capacity == 13


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ([{"adjustment": 1, "upper": 10}, {"adjustment": 2, "lower": 5}], "overlap between 10 and 5"),
        ([{"adjustment": 1, "upper": 10}, {"adjustment": 2, "lower": 20}], "gap between 10 and 20"),
        ([{"adjustment": 1, "lower": 10, "upper": 0}], "lower 10 is not below upper 0"),
    ],
)
def test_steps_that_do_not_follow_one_another_are_refused(steps: list[dict[str, float]], what: str) -> None:
    policy = {"type": "step", "metric": "cpu_percent", "threshold": 50, "steps": steps}
    document = {"launch": {"image": {"id": "ami-00000000"}}, "min_size": 1, "max_size": 3}
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": {**document, "policies": [policy]}})
    (fault,) = caught.value.faults
    assert fault.where == "asg_groups.web.policies[0].steps"
    assert what in fault.what


@pytest.mark.parametrize("adjustment", [4_294_967_296, -(10**400)])
@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        ("ChangeInCapacity", "write -10000 to 10000 instances"),
        ("PercentChangeInCapacity", "write -100000 to 100000 percent"),
    ],
)
def test_an_adjustment_beyond_the_largest_group_is_refused(adjustment: int, kind: str, mend: str) -> None:
    alarm = {"metric": "cpu_percent", "threshold": 50, "adjustment_type": kind}
    steps = [{"adjustment": 1, "upper": 10}, {"adjustment": adjustment, "lower": 10}]
    policies = [
        {"type": "simple", "adjustment": adjustment, **alarm},
        {"type": "step", "steps": steps, **alarm},
    ]
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": {"launch": {"image": {"id": "ami-00000000"}}, "policies": policies}})
    wheres = [fault.where.removeprefix("asg_groups.web.policies") for fault in caught.value.faults]
    assert wheres == ["[0].adjustment", "[1].steps[1].adjustment"]
    assert all(fault.mend == mend for fault in caught.value.faults)
