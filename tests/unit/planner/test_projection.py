"""Policies scale in only as far as no other would scale out again at once."""

from typing import Any

import pytest

from controller_asg.model.scaling_policy import Predictive
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.policy.predictive import needed
from controller_asg.policy.serving import LARGEST
from tests.making import record, serving, snapshot

STEP_OUT = {
    "type": "step",
    "name": "out",
    "metric": "cpu_percent",
    "threshold": 70,
    "comparison": "above",
    "steps": [{"lower": 0, "adjustment": 1}],
}
STEP_IN = {
    "type": "step",
    "name": "in",
    "metric": "cpu_percent",
    "threshold": 40,
    "comparison": "below",
    "adjustment_type": "PercentChangeInCapacity",
    "steps": [{"upper": 0, "adjustment": -50}],
}
TRACK_OUT = {"type": "target_tracking", "metric": "cpu_percent", "target": 60, "disable_scale_in": True}


def pass_of(cpus: list[float], *policies: dict[str, Any], **keys: Any) -> Plan:
    of = record(len(cpus), min_size=1, max_size=50, min_healthy_percentage=0, policies=list(policies), **keys)
    return plan(snapshot(of, *(serving(n, cpu) for n, cpu in enumerate(cpus))))


@pytest.mark.parametrize(
    ("cpus", "policies", "size"),
    [
        ([38.0] * 2, [STEP_OUT, STEP_IN], 2),  # one would be at 76
        ([39.0] * 10, [STEP_OUT, STEP_IN], 6),  # five would be at 78, six are at 65
        ([20.0] * 10, [STEP_OUT, STEP_IN], 5),  # nothing in the way
        ([38.0] * 2, [TRACK_OUT, STEP_IN], 2),
        ([36.0] * 4, [TRACK_OUT, STEP_IN], 3),  # two would be at 72, beyond 60 and its tolerance
        ([75.0, 9.0], [{"type": "thresholds"}], 2),  # the other would be at 84
        ([70.0, 9.0], [{"type": "thresholds"}], 1),
        (
            [38.0] * 2,
            [STEP_OUT | {"statistic": "sum", "threshold": 80}, STEP_IN | {"statistic": "average"}],
            1,
        ),
        ([38.0] * 2, [STEP_OUT | {"mode": "observe"}, STEP_IN], 1),
    ],
)
def test_a_scale_in_goes_no_further_than_the_others_bear(
    cpus: list[float], policies: list[dict[str, Any]], size: int
) -> None:
    planned = pass_of(cpus, *policies)
    assert planned.record.desired_capacity == size
    wished = pass_of(cpus, *policies, behavior={"projection": False}).record.desired_capacity
    held = [step.name for step in planned.decision.steps if step.name == "projection"]
    assert bool(held) == (size != wished)


def test_switched_off_it_holds_nothing() -> None:
    assert pass_of([38.0] * 2, STEP_OUT, STEP_IN, behavior={"projection": False}).record.desired_capacity == 1


def test_a_target_next_to_nothing_fails_no_pass() -> None:
    assert pass_of([38.0] * 2, TRACK_OUT | {"target": 1e-308}, STEP_IN).record.desired_capacity > 2


def test_a_predictive_target_next_to_nothing_asks_for_no_more_than_a_group_can_have() -> None:
    assert needed(Predictive(target=1e-308), 10.0) == LARGEST
