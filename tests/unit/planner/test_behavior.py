"""How fast policies may change the size: Kubernetes' rates and stabilization windows, pass by pass."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.record import GroupRecord
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import SetDesired
from controller_asg.store.rows import group_from_row, group_to_row
from controller_asg.store.schema import from_unix_ms
from tests.making import IMAGE, NOW, ago, record, serving, snapshot

TRACKING = {"type": "target_tracking", "metric": "cpu_percent", "target": 10, "scale_in_cooldown_seconds": 0}


def group(desired: int, **behavior: Any) -> GroupRecord:
    return record(desired, min_size=0, max_size=1000, policies=[TRACKING], behavior=behavior)


def wished(of: GroupRecord, wish: int, seconds: float = 0.0, **keys: Any) -> GroupRecord:
    """The record after a pass in which the policy wished for that, as the store gives it back."""
    members = [serving(n, cpu=wish * 10 / of.desired_capacity) for n in range(of.desired_capacity)]
    made = plan(replace(snapshot(of, *members, **keys), now=NOW + timedelta(seconds=seconds))).record
    row = group_to_row(made)
    return group_from_row({**row, "applied_unix_ms": from_unix_ms(0)})


@pytest.mark.parametrize(
    ("select", "sizes"),
    [("max", [16, 16, 25]), ("min", [14, 14, 18]), ("disabled", [10, 10, 10])],
)
def test_a_rate_counts_from_the_size_at_its_periods_start(select: str, sizes: list[int]) -> None:
    rates = [{"count": 4, "period_seconds": 60}, {"percent": 51.0, "period_seconds": 60}]
    now = group(10, scale_out={"rates": rates, "select": select})
    seen = []
    for seconds in (0, 59, 60):
        now = wished(now, 100, seconds)
        seen.append(now.desired_capacity)
    assert seen == sizes


def test_rates_of_scaling_in_leave_scaling_out_and_orders_alone() -> None:
    of = group(20, scale_in={"rates": [{"percent": 10.0, "period_seconds": 60}]})
    fewer = wished(of, 1)
    assert fewer.desired_capacity == 18
    assert wished(fewer, 1, 30).desired_capacity == 18
    assert wished(fewer, 90, 30).desired_capacity == 90
    assert wished(fewer, 5, 30, orders=(SetDesired(4, "ann"),)).desired_capacity == 4


def test_scaling_in_goes_to_the_highest_wish_of_its_window() -> None:
    of = group(10, scale_in={"stabilization_window_seconds": 300})
    sizes = []
    for seconds, wish in [(0, 10), (10, 3), (100, 6), (120, 2), (290, 2), (311, 2), (421, 2), (430, 2)]:
        of = wished(of, wish, seconds)
        sizes.append(of.desired_capacity)
    assert sizes == [10, 10, 10, 10, 10, 6, 2, 2]
    assert len(of.wished) <= 33


def test_a_spike_shorter_than_its_window_scales_nothing_out() -> None:
    of = group(10, scale_out={"stabilization_window_seconds": 30})
    for seconds, wish in [(0, 10), (10, 20), (20, 10), (30, 20), (59, 20)]:
        of = wished(of, wish, seconds)
        assert of.desired_capacity == 10
    assert wished(of, 20, 62).desired_capacity == 20


def test_what_was_not_watched_holds_back_scaling_in_and_rest_changes_no_record() -> None:
    of = group(10, scale_in={"stabilization_window_seconds": 300})
    of = wished(wished(of, 2), 2, 20)
    assert wished(of, 2, 400, watching_since_at=ago(-350)).desired_capacity == 10
    assert wished(of, 2, 400).desired_capacity == 2
    assert wished(of, 2, 100) == of


def test_a_rate_without_an_amount_is_refused() -> None:
    behavior = {"scale_in": {"rates": [{"period_seconds": 60}]}}
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": {"launch": {"image": {"id": IMAGE}}, "behavior": behavior}})
    where = "asg_groups.web.behavior.scale_in.rates[0]"
    assert str(caught.value.faults[0]) == f"{where}: has not one amount; write either count or percent"
