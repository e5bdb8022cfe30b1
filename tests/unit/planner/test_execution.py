"""A policy that is executed on somebody's word, as EC2's ExecutePolicy; a metric that is missing; a raised max_size."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller_asg.api.webhooks import MESSAGE_SECONDS, RATE, RATE_SECONDS
from controller_asg.model.errors import AsgError, ConflictError, NotFoundError, SpecError
from controller_asg.model.record import LastChange
from controller_asg.model.scaling_policy import (
    Predictive,
    SimpleScaling,
    StepAdjustment,
    StepScaling,
    TargetTracking,
)
from controller_asg.planner.execution import MESSAGES_KEPT, check
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import ExecutePolicy
from controller_asg.policy.forecast import Forecast
from tests.making import NOW, ago, booting, record, serving, snapshot

BURST = SimpleScaling(adjustment=2, webhook=True, name="burst")
STEPS = StepScaling(
    metric="cpu_percent",
    threshold=50,
    steps=(StepAdjustment(1, lower=0, upper=10), StepAdjustment(3, lower=10)),
    name="steps",
)
SHRINK = replace(BURST, name="shrink", adjustment=-1)


def execute(policy: str, **keys: object) -> ExecutePolicy:
    return ExecutePolicy(policy, "ann", **keys)  # type: ignore[arg-type]


def with_policies(*policies: object, desired: int = 2, **keys: object):
    of = record(desired, **{"min_size": 1, "max_size": 9, **keys})
    return replace(of, group=replace(of.group, policies=policies))


@pytest.mark.parametrize(
    ("order", "capacity"),
    [
        (execute("burst"), 4),
        (execute("shrink"), 1),
        (execute("steps", metric_value=55.0), 3),
        (execute("steps", metric_value=75.0), 5),
        (execute("steps", metric_value=55.0, breach_threshold=40.0), 5),
    ],
)
def test_the_adjustment_is_made_and_the_decision_says_who_asked(order: ExecutePolicy, capacity: int) -> None:
    of = with_policies(BURST, STEPS, SHRINK)
    check(of, order, NOW)
    planned = plan(snapshot(of, serving(1, cpu=40), serving(2, cpu=40), orders=(order,)))
    assert planned.record.desired_capacity == capacity
    (step,) = (each for each in planned.decision.steps if each.name == "execute_policy")
    assert (step.after, "executed by ann" in step.reason) == (capacity, True)
    assert [(each.policy, each.at) for each in planned.record.last_changes] == [(order.policy, NOW)]


def test_instances_that_warm_up_count_already() -> None:
    of = with_policies(BURST, desired=3)
    planned = plan(snapshot(of, serving(1), booting(2), booting(3), orders=(execute("burst"),)))
    assert planned.record.desired_capacity == 3


def test_bounds_hold() -> None:
    of = with_policies(BURST, max_size=3)
    planned = plan(snapshot(of, serving(1), serving(2), orders=(execute("burst"),)))
    assert planned.record.desired_capacity == 3


@pytest.mark.parametrize(
    "of", [replace(BURST, mode="observe"), replace(SHRINK, name="burst", disable_scale_in=True)]
)
def test_one_that_may_not_act_does_not(of: SimpleScaling) -> None:
    planned = plan(snapshot(with_policies(of), serving(1), serving(2), orders=(execute("burst"),)))
    assert planned.record.desired_capacity == 2
    assert "executed by ann" in planned.decision.steps[0].reason


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (execute("brst"), NotFoundError),
        (execute("tracking"), NotFoundError),
        (execute("off"), ConflictError),
        (execute("steps"), SpecError),
        (execute("steps", metric_value=40.0), SpecError),
        (execute("bare", metric_value=40.0), SpecError),
        (execute("burst", metric_value=1.0), SpecError),
        (execute("burst", honor_cooldown=True), ConflictError),
    ],
)
def test_what_cannot_be_executed_is_refused(order: ExecutePolicy, error: type[AsgError]) -> None:
    tracking = TargetTracking(metric="cpu_percent", target=60, name="tracking")
    off, bare = (
        replace(BURST, name="off", enabled=False),
        replace(STEPS, name="bare", metric=None, threshold=None),
    )
    of = replace(
        with_policies(BURST, STEPS, tracking, off, bare), last_changes=(LastChange("burst", "out", ago(100)),)
    )
    with pytest.raises(error):
        check(of, order, NOW)


def test_a_cooldown_is_honored_only_on_demand_and_in_its_direction() -> None:
    of = replace(with_policies(BURST, SHRINK), last_changes=(LastChange("burst", "out", ago(100)),))
    check(of, execute("burst"), NOW)
    check(of, execute("shrink", honor_cooldown=True), NOW)
    check(of, execute("burst", honor_cooldown=True), NOW + timedelta(seconds=200))


def test_a_message_is_carried_out_once_by_each_policy() -> None:
    of, message = with_policies(BURST, replace(BURST, name="other")), execute("burst", message_id="msg_1")
    once = plan(snapshot(of, serving(1), serving(2), orders=(message, message)))
    assert (once.record.desired_capacity, once.record.messages) == (4, (("burst", "msg_1"),))
    orders = (message, execute("other", message_id="msg_1"))
    both = plan(snapshot(once.record, *map(serving, range(1, 5)), orders=orders))
    assert both.record.desired_capacity == 6


def test_as_many_messages_are_remembered_as_may_come_while_one_is_taken() -> None:
    assert RATE * 2 * MESSAGE_SECONDS / RATE_SECONDS <= MESSAGES_KEPT
    its = [("burst", f"msg_{number}") for number in range(MESSAGES_KEPT)]
    old = (*its, ("gone", "x"), ("shrink", "y"))
    of = replace(with_policies(BURST, SHRINK), messages=old)
    kept = plan(snapshot(of, serving(1), orders=(execute("burst", message_id="new"),))).record.messages
    assert kept == (("shrink", "y"), *its[1:], ("burst", "new"))


def test_a_floor_for_missing_data_counts_after_its_time_and_ends_with_the_first_reading() -> None:
    policy = TargetTracking(
        metric="app.queue", target=5, on_missing_data="floor", missing_data_floor=4, missing_data_seconds=60
    )
    of = with_policies(policy)
    first = plan(snapshot(of, serving(1), serving(2))).record
    assert (first.desired_capacity, first.missing_since) == (2, (("target_tracking", NOW),))

    def later(seconds: float, since: float, **keys: object) -> int:
        at = NOW + timedelta(seconds=seconds)
        members = (serving(1), serving(2))
        planned = plan(
            snapshot(first, *members, now=at, watching_since_at=NOW + timedelta(seconds=since), **keys)
        )
        return planned.record.desired_capacity

    assert later(59, -999) == 2
    assert later(60, -999) == 4
    assert later(60, 30) == 2  # half of that time nobody watched
    known = replace(of, group=replace(of.group, policies=(replace(policy, metric="cpu_percent"),)))
    assert (
        plan(snapshot(replace(known, missing_since=first.missing_since), serving(1))).record.missing_since
        == ()
    )


def test_a_group_without_instances_is_not_missing_data() -> None:
    policy = TargetTracking(metric="cpu_percent", target=5, on_missing_data="floor", missing_data_floor=4)
    planned = plan(snapshot(with_policies(policy, desired=0, min_size=0)))
    assert planned.record.missing_since == ()


@pytest.mark.parametrize(
    ("behavior", "percent", "demand", "capacity", "max_size"),
    [
        ("honor_max_capacity", 0, 6.0, 9, 9),
        ("increase_max_capacity", 0, 6.0, 12, 12),
        ("increase_max_capacity", 10, 25.0, 50, 55),  # EC2's own example
        ("increase_max_capacity", 20, 4.0, 8, 10),
        ("increase_max_capacity", 0, 2.0, 4, 9),
    ],
)
def test_a_forecast_raises_max_size_where_it_may(
    behavior: str, percent: float, demand: float, capacity: int, max_size: int
) -> None:
    policy = Predictive(
        target=50,
        mode="forecast_and_scale",
        max_capacity_breach_behavior=behavior,  # type: ignore[arg-type]
        max_capacity_buffer_percent=percent,
    )
    forecast = Forecast(NOW.timestamp() // 300 * 300, (demand,) * 3, "a test", None)
    planned = plan(snapshot(with_policies(policy), serving(1), serving(2), forecast=forecast))
    assert (planned.record.desired_capacity, planned.record.max_size) == (capacity, max_size)
    passed = plan(snapshot(planned.record, serving(1), serving(2), forecast=None))
    assert passed.record.max_size == 9
