"""Which instance goes first: EC2's termination policies, in one zone and over several."""

from dataclasses import replace
from typing import Any

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.instance import LifecycleState
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Member
from tests.making import IMAGE, SUBNETS, agent, ago, booting, record, serving, snapshot

A, B, C = (zone for _, zone in SUBNETS)
HOUR = 3600


def gone(members: list[Member], *policies: str) -> list[int]:
    """The numbers of those that go, one after another, down to one."""
    left, order = list(members), []
    keys: dict[str, Any] = {"min_size": 0, "min_healthy_percentage": 0, "policies": [], "max_size": 9}
    while len(left) > 1:
        of = record(len(left) - 1, termination_policies=list(policies), **keys)
        of = replace(
            of, templates=(replace(of.template, version="older"), replace(of.template, version="old"))
        )
        (termination,) = plan(snapshot(of, *left)).terminations
        (instance_id,) = termination.instance_ids
        order.append(int(instance_id[2:], 16))
        left = [member for member in left if member.instance.instance_id != instance_id]
    return order


# 1 is the oldest. To the next full hour: 1 has 30 minutes, 2 has 10, 3 has 50, 4 has 20.
ONE_ZONE = [
    serving(1, cpu=40.0, zone=A, launched_at=ago(9.5 * HOUR)),
    serving(2, cpu=20.0, zone=A, launched_at=ago(3 * HOUR - 600)),
    serving(3, cpu=30.0, zone=A, launched_at=ago(HOUR + 600), launch_version="old"),
    serving(4, cpu=None, zone=A, launched_at=ago(HOUR - 1200), launch_version="older"),
]


@pytest.mark.parametrize(
    ("policies", "order"),
    [
        (["Default"], [4, 3, 2]),
        (["OldestInstance"], [1, 2, 3]),
        (["NewestInstance"], [4, 3, 2]),
        (["OldestLaunchTemplate"], [4, 3, 1]),
        (["OldestLaunchConfiguration", "NewestInstance"], [4, 3, 2]),
        (["ClosestToNextInstanceHour"], [2, 4, 1]),
        (["LeastLoaded"], [2, 3, 1]),
    ],
)
def test_in_one_zone_they_go_by_the_policies_in_their_order(policies: list[str], order: list[int]) -> None:
    assert gone(ONE_ZONE, *policies) == order


def test_the_fullest_zone_comes_before_every_policy() -> None:
    members = [serving(1, zone=A), serving(2, zone=B), serving(3, zone=B), serving(4, zone=C)]
    assert gone(members, "OldestInstance")[:2] == [2, 1]
    assert gone(members, "NewestInstance")[:2] == [3, 4]


def test_the_fullest_zone_comes_before_those_that_boot_and_there_they_go_first() -> None:
    three = [serving(number, zone=A) for number in (1, 2, 3)]
    assert gone([*three, booting(4, zone=B)], "Default")[:2] == [1, 2]
    assert gone([*three, booting(4, zone=A), booting(5, zone=B)], "Default")[0] == 4
    assert gone([*three[:2], booting(4, zone=B), booting(5, zone=B)], "Default")[0] == 5


def test_protection_of_all_new_instances_begins_when_they_serve() -> None:
    of = record(1, min_size=0, new_instances_protected_from_scale_in=True, policies=[])
    up = booting(2)
    speaks = replace(up, agent=agent(up.instance))
    (arrived,) = plan(snapshot(replace(of, desired_capacity=2), serving(1), speaks)).instances
    assert (arrived.state, arrived.protected_from_scale_in) == (LifecycleState.IN_SERVICE, True)
    (termination,) = plan(snapshot(of, serving(1, protected_from_scale_in=True), up)).terminations
    assert termination.instance_ids == (up.instance.instance_id,)
    freed = replace(arrived, state=LifecycleState.PENDING, protected_from_scale_in=False)
    (back,) = plan(
        snapshot(replace(of, desired_capacity=2), serving(1), Member(freed, up.cloud, agent(freed)))
    ).instances
    assert not back.protected_from_scale_in, "it served before, and somebody took it back"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"termination_policies": ["Default", "OldestInstance"]},
            "termination_policies: has something behind",
        ),
        ({"termination_policies": ["AllocationStrategy"]}, "termination_policies"),
        ({"max_instance_lifetime_seconds": 3600}, "max_instance_lifetime_seconds: 3600 is less than a day"),
        (
            {"instance_maintenance_policy": {"min_healthy_percentage": 50, "max_healthy_percentage": 200}},
            "instance_maintenance_policy.max_healthy_percentage: 200 is more than 100 above",
        ),
    ],
)
def test_what_ec2_would_refuse_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_groups({"web": {"launch": {"image": {"id": IMAGE}}, **keys}})
