"""Zones made level: the launch comes first, and nobody goes before the new one serves."""

from dataclasses import replace

from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from tests.making import SUBNETS, ago, booting, instance, record, serving, snapshot

A, B, C = (zone for _, zone in SUBNETS)
UNEVEN = [serving(1, zone=A), serving(2, zone=A), serving(3, zone=A), serving(4, zone=B)]


def pass_of(*members: object, **keys: object) -> Plan:
    of = record(desired=4, **{"rebalance_zones": True, "max_size": 6, **keys})
    return plan(snapshot(of, *members))  # type: ignore[arg-type]


def test_one_is_launched_in_the_emptiest_zone() -> None:
    (launch,) = pass_of(*UNEVEN).launches
    assert (launch.zone, launch.count) == (C, 1)
    assert "rebalance_zones" in launch.cause


def test_nobody_goes_before_it_serves() -> None:
    planned = pass_of(*UNEVEN, booting(5, zone=C))
    assert not planned.terminations
    assert not planned.launches
    assert [step.name for step in planned.decision.steps] == ["rebalance"]


def test_then_the_fullest_zone_gives_one_up() -> None:
    planned = pass_of(*UNEVEN, serving(5, zone=C))
    (going,) = [name for termination in planned.terminations for name in termination.instance_ids]
    assert going in {instance(number).instance_id for number in (1, 2, 3)}
    assert not planned.launches


def test_level_zones_and_groups_that_do_not_ask_are_left_alone() -> None:
    level = [serving(1, zone=A), serving(2, zone=A), serving(3, zone=B), serving(4, zone=C)]
    assert not pass_of(*level).launches
    assert not pass_of(*UNEVEN, rebalance_zones=False).launches


def test_a_fullest_zone_that_may_give_nobody_up_is_left_alone() -> None:
    protected = [serving(number, zone=A, protected_from_scale_in=True) for number in (1, 2, 3)]
    assert not pass_of(*protected, serving(4, zone=B)).launches


def test_at_max_size_there_is_no_room_to_launch_first() -> None:
    assert not pass_of(*UNEVEN, max_size=4).launches


def test_a_booting_one_of_another_cause_goes_as_ever_when_the_group_shrinks() -> None:
    of = replace(record(desired=3, max_size=6))
    planned = plan(snapshot(of, serving(1), serving(2), serving(3), booting(4)))
    assert [t.instance_ids for t in planned.terminations] == [(instance(4).instance_id,)]


def test_a_maintenance_policy_bounds_it() -> None:
    def of(low: int, high: int) -> dict[str, object]:
        policy = {"min_healthy_percentage": low, "max_healthy_percentage": high}
        return {"instance_maintenance_policy": policy, "default_instance_warmup_seconds": 30}

    assert not pass_of(*UNEVEN, **of(75, 100)).launches
    assert pass_of(*UNEVEN, max_size=4, **of(100, 125)).launches
    assert not pass_of(*UNEVEN, serving(5, zone=C, in_service_at=ago(29)), **of(100, 125)).terminations
    assert pass_of(*UNEVEN, serving(5, zone=C, in_service_at=ago(30)), **of(100, 125)).terminations
