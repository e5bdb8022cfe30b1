"""Several types and markets in a group: what is launched, what is tried next, what goes, and what it may cost."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.errors import CapacityError, CloudError, QuotaError, ThrottledError
from controller_asg.model.group import group_from_dict, launch_version
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import LifecycleState
from controller_asg.model.offering import Market, Offering, Prices
from controller_asg.model.record import GroupRecord
from controller_asg.planner import backoff, costs
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Outcome, SetDesired
from tests.making import IMAGE, NOW, SUBNETS, ago, booting, group, record, serving, snapshot

OD, SPOT = Market.ON_DEMAND, Market.SPOT
A, B, C = (zone for _, zone in SUBNETS)
PRICES = Prices(
    {"t3.small": {OD: 0.02, SPOT: 0.006}, "t3.micro": {OD: 0.01, SPOT: 0.003}}, "us-east-1", "prices.yml"
)
LACKS = CapacityError("no capacity", A, "", "InsufficientInstanceCapacity")


def of(desired: int, launch: dict[str, Any] | None = None, **keys: Any) -> GroupRecord:
    parameters = {"image": {"id": IMAGE}, "instance_type": "t3.small", **(launch or {})}
    return record(desired, **{"launch": parameters, "max_size": 50, "policies": [], **keys})


def pass_of(made: GroupRecord, *members: Any, **keys: Any) -> Plan:
    return plan(snapshot(made, *members, prices=PRICES, **keys))


def asked(planned: Plan) -> Counter[Offering]:
    return Counter({launch.offering: launch.count for launch in planned.launches})


def markets(planned: Plan) -> tuple[int, int]:
    """(On-Demand, Spot) instances launched."""
    found = Counter[Market]()
    for launch in planned.launches:
        found[launch.offering.market] += launch.count
    return found[OD], found[SPOT]


def refused(error: CloudError, offering: Offering, **keys: Any) -> dict[str, Any]:
    """A launch call that ended so, as a pass is told of it."""
    launch = LaunchRequest(
        "a-1", "web", "v", 1, IMAGE, offering.instance_type, zone=offering.zone, spot=offering.market is SPOT
    )
    activity = Activity(
        "a-1", "web", ActivityKind.LAUNCH, ActivityStatus.IN_PROGRESS, "", 1, ago(5), launch=launch
    )
    return {"open_activities": (activity,), "facts": (Outcome("a-1", error),), **keys}


@pytest.mark.parametrize(
    ("base", "percentage", "on_demand"),
    # EC2 Auto Scaling User Guide, "Mixed instances groups": examples of an instances distribution at 10 to 40.
    [
        (10, 50, (10, 15, 20, 25)),
        (0, 0, (0, 0, 0, 0)),
        (0, 60, (6, 12, 18, 24)),
        (0, 100, (10, 20, 30, 40)),
        (12, 0, (10, 12, 12, 12)),
        (1, 25, (4, 6, 9, 11)),  # a part of an instance is On-Demand
    ],
)
def test_the_markets_have_the_shares_of_ec2s_mixed_instances_policy(
    base: int, percentage: int, on_demand: tuple[int, ...]
) -> None:
    launch = {
        "on_demand_base_capacity": base,
        "on_demand_percentage_above_base_capacity": percentage,
    }
    for total, wanted in zip((10, 20, 30, 40), on_demand, strict=True):
        assert markets(pass_of(of(total, launch))) == (wanted, total - wanted)


def test_what_is_there_counts_for_the_shares_and_zones_stay_level() -> None:
    launch = {"on_demand_base_capacity": 1, "on_demand_percentage_above_base_capacity": 50}
    there = [serving(n, zone=z, market=OD) for n, z in ((1, A), (2, A), (3, B))]
    planned = pass_of(of(6, launch), *there)
    assert markets(planned) == (1, 2)  # ceil(1 + 5 x 0.5) = 4, and 3 are there
    assert Counter(launch.zone for launch in planned.launches for _ in range(launch.count)) == {B: 1, C: 2}


def test_a_failed_offering_is_passed_over_in_the_pass_that_hears_of_it() -> None:
    made = of(1, {"instance_types": ["t3.micro"], "zones": [A]}, min_size=1)
    only_a = {"subnets": SUBNETS[:1]}
    first = pass_of(made, **only_a)
    assert asked(first) == {Offering(A, "t3.small", OD): 1}
    second = pass_of(made, **refused(LACKS, Offering(A, "t3.small", OD)), **only_a)
    assert asked(second) == {Offering(A, "t3.micro", OD): 1}
    assert "no capacity" in next(s.reason for s in second.decision.steps if s.name == "offering_backoff")
    # Nothing else is left, so nothing is launched; and the decision says what is avoided.
    third = pass_of(second.record, **refused(LACKS, Offering(A, "t3.micro", OD)), **only_a)
    assert not third.launches
    assert [condition for condition, _ in third.conditions if condition == "CapacityShort"]


def test_a_backoff_doubles_holds_one_offering_only_and_decays() -> None:
    made, offering = of(1), Offering(A, "t3.small", SPOT)
    waits = []
    for _ in range(8):
        made = backoff.launch_failed(made, offering, LACKS, NOW)
        (held,) = made.backoffs
        waits.append((held.until_at - NOW).total_seconds())
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.holding(made, offering, NOW)
    for other in (
        offering._replace(zone=B),
        offering._replace(market=OD),
        offering._replace(instance_type="x"),
    ):
        assert backoff.holding(made, other, NOW) is None
    assert backoff.holding(made, offering, NOW + timedelta(seconds=300)) is None
    assert not backoff.forget(made, NOW + timedelta(seconds=300 + backoff.FORGET_SECONDS)).backoffs


@pytest.mark.parametrize("code", sorted(backoff.OFFERING_QUOTAS))
def test_a_quota_counts_for_the_type_and_market_in_every_zone(code: str) -> None:
    made = of(1, {"instance_types": ["t3.micro"]}, min_size=1)
    planned = pass_of(made, **refused(QuotaError("over it", A, "", code), Offering(A, "t3.small", OD)))
    assert {offering.instance_type for offering in asked(planned)} == {"t3.micro"}


def test_other_quotas_hold_the_group_and_throttling_holds_nothing() -> None:
    made, offering = of(1, min_size=1), Offering(A, "t3.small", OD)
    disks = QuotaError("too many disks", A, "", "VolumeLimitExceeded")
    assert not pass_of(made, **refused(disks, offering)).launches
    throttled = pass_of(made, **refused(ThrottledError("slower", A, "", "RequestLimitExceeded"), offering))
    assert asked(throttled) == {offering: 1}
    assert not throttled.record.backoffs


def test_lowest_price_orders_the_types_within_a_zone() -> None:
    made = of(3, {"instance_types": ["t3.micro"], "allocation_strategy": "lowest-price"})
    assert asked(pass_of(made)) == {Offering(zone, "t3.micro", OD): 1 for zone in (A, B, C)}


def test_where_spot_has_none_on_demand_stands_in_and_never_the_other_way() -> None:
    spot = of(1, {"spot": True}, min_size=1)
    planned = pass_of(spot, **refused(LACKS, Offering(A, "t3.small", SPOT)), subnets=SUBNETS[:1])
    assert asked(planned) == {Offering(A, "t3.small", OD): 1}
    plain = pass_of(of(1, min_size=1), **refused(LACKS, Offering(A, "t3.small", OD)), subnets=SUBNETS[:1])
    assert not plain.launches


def test_spot_is_returned_to_one_at_a_time_launching_before_terminating() -> None:
    keys = {"min_size": 1, "max_size": 3, "spot_return_seconds": 60.0}
    made = of(2, {"spot": True}, **keys)
    stand_ins = [serving(n, zone=A, market=OD) for n in (1, 2)]
    first = pass_of(made, *stand_ins)
    assert asked(first) == {Offering(A, "t3.small", SPOT): 1}
    assert not first.terminations
    returning = booting(3, zone=A, market=SPOT)
    assert not pass_of(first.record, *stand_ins, returning).terminations
    done = pass_of(first.record, *stand_ins, serving(3, zone=A, market=SPOT))
    (going,) = done.terminations
    assert len(going.instance_ids) == 1
    assert going.instance_ids[0] in {m.instance.instance_id for m in stand_ins}
    left = [stand_ins[0], serving(3, zone=A, market=SPOT)]
    assert not pass_of(first.record, *left).launches
    later = replace(first.record, spot_returned_at=ago(60))
    assert asked(pass_of(later, *left)) == {Offering(A, "t3.small", SPOT): 1}
    off = of(2, {"spot": True}, **{**keys, "spot_return_seconds": 0})
    assert not pass_of(off, *stand_ins).launches


@pytest.mark.parametrize("process", [Process.LAUNCH, Process.TERMINATE])
def test_spot_is_not_returned_to_while_that_is_suspended(process: Process) -> None:
    made = of(2, {"spot": True}, min_size=1, max_size=3, spot_return_seconds=60.0)
    held = replace(made, suspended=((process, Hold("anna", "they look", NOW)),))
    assert not pass_of(held, *(serving(n, zone=A, market=OD) for n in (1, 2))).launches


def test_shrinking_keeps_the_base() -> None:
    made = of(2, {"on_demand_base_capacity": 1, "on_demand_percentage_above_base_capacity": 0})
    there = [serving(1, market=OD, launched_at=ago(9000)), *(serving(n, market=SPOT) for n in (2, 3, 4))]
    gone = {i for t in pass_of(made, *there).terminations for i in t.instance_ids}
    assert there[0].instance.instance_id not in gone
    assert gone


def test_a_ceiling_bounds_the_size_and_the_launches() -> None:
    made = of(1, min_size=1, max_hourly_cost=0.05)
    planned = pass_of(made, serving(1, instance_type="t3.small"), orders=(SetDesired(5, "operator"),))
    assert planned.record.desired_capacity == 2
    assert sum(launch.count for launch in planned.launches) == 1
    (step,) = (each for each in planned.decision.steps if each.name == "max_hourly_cost")
    assert (step.before, step.after) == (5, 2)
    assert "MaxHourlyCost" in dict(planned.conditions)


def test_the_first_priority_never_takes_what_the_others_need() -> None:
    # One t3.small and two t3.micro come to 0.04; two t3.small would leave nothing for the third.
    made = of(3, {"instance_types": ["t3.micro"]}, min_size=3, max_hourly_cost=0.045)
    kinds = Counter[str]()
    for offering, count in asked(pass_of(made)).items():
        kinds[offering.instance_type] += count
    assert kinds == {"t3.small": 1, "t3.micro": 2}


def test_what_all_groups_share_bounds_as_the_groups_own_does() -> None:
    made = of(5, min_size=1, max_hourly_cost=1.0)
    planned = pass_of(made, serving(1, instance_type="t3.small"), cost_left=0.041)
    assert planned.record.desired_capacity == 2
    assert planned.hourly_cost == pytest.approx(0.04)


def test_without_room_below_the_ceiling_the_dead_one_goes_first() -> None:
    made = of(2, max_hourly_cost=0.04)
    marked = serving(2, instance_type="t3.small", marked_unhealthy="operator")
    planned = pass_of(made, serving(1, instance_type="t3.small"), marked)
    assert sum(launch.count for launch in planned.launches) == 1
    assert [t.instance_ids for t in planned.terminations] == [(marked.instance.instance_id,)]


def test_below_the_ceiling_nothing_is_launched_for_one_that_drains_until_it_is_gone() -> None:
    made = of(2, max_hourly_cost=0.04, drain=True)
    other = serving(1, instance_type="t3.small")
    marked = serving(2, instance_type="t3.small", marked_unhealthy="operator")
    planned = pass_of(made, other, marked)
    assert planned.launches == ()
    (draining,) = planned.instances
    assert draining.state is LifecycleState.TERMINATING_WAIT
    assert pass_of(made, other, replace(marked, instance=draining)).launches == ()
    gone = replace(draining, state=LifecycleState.TERMINATING)
    assert len(pass_of(made, other, replace(marked, instance=gone)).launches) == 1


def test_a_ceiling_that_min_size_is_above_or_that_has_no_prices_is_a_fault() -> None:
    launch = {"image": {"id": IMAGE}, "instance_type": "t3.small", "instance_types": ["t3.micro"]}
    low = group(launch=launch, min_size=4, max_hourly_cost=0.03)
    (fault,) = costs.faults([low], [], PRICES, None)
    assert fault.where == "asg_groups.web.max_hourly_cost"
    assert "raise it to 0.04" in fault.mend
    unknown = group(launch={**launch, "instance_types": ["x1.big"]}, max_hourly_cost=9.0)
    (fault,) = costs.faults([unknown], [], PRICES, None)
    assert fault.where == "asg_groups.web.launch.instance_types[0]"
    assert "prices.yml" in fault.mend
    fits = group(launch=launch, min_size=2)
    assert not list(costs.faults([fits], [fits], PRICES, 0.04))
    (fault,) = costs.faults([fits], [fits], PRICES, 0.03)
    assert fault.where == "max_hourly_cost"


def test_a_launch_version_of_an_earlier_release_stays_and_new_keys_change_it() -> None:
    old = group_from_dict({"name": "web", "launch": {"image": {"id": IMAGE}}})
    assert launch_version(old.launch, IMAGE, "image") == "5de36009f8a0"
    for key, value in (
        ("instance_types", ["t3.micro"]),
        ("allocation_strategy", "lowest-price"),
        ("on_demand_base_capacity", 1),
        ("on_demand_percentage_above_base_capacity", 50),
    ):
        new = group_from_dict({"name": "web", "launch": {"image": {"id": IMAGE}, key: value}})
        assert launch_version(new.launch, IMAGE, "image") != launch_version(old.launch, IMAGE, "image")
