"""Many that fall silent together are a fault of ours; one that dies alone is judged alone."""

from dataclasses import replace

import pytest

from controller_asg.model.instance import LifecycleState
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Answer, Member, SetHealth
from tests.making import SUBNETS, ago, booting, instance, record, serving, silent, snapshot

ANSWERED_LONG = (Answer(0.3, 0.2), Answer(3.0, 2.5), Answer(7.0, 6.5))


def mute(number: int, seconds: float = 6.0, **keys: object) -> Member:
    member = serving(number, **keys)
    return replace(member, agent=silent(member.instance, seconds))


def launched(planned: Plan) -> int:
    return sum(launch.count for launch in planned.launches)


def pass_of(*members: Member, **keys: object) -> Plan:
    of = record(desired=len(members), max_size=2 * len(members), **keys)
    return plan(snapshot(of, *members, answers=ANSWERED_LONG))


def test_a_share_together_is_held_and_status_says_so() -> None:
    planned = pass_of(mute(1), mute(2), serving(3), serving(4), serving(5))
    assert launched(planned) == 0
    assert "MassSilence" in dict(planned.conditions)


def test_one_that_dies_long_after_the_many_is_judged_alone() -> None:
    many = [mute(1, 600.0), mute(2, 601.0), mute(3, 602.0)]
    planned = pass_of(*many, mute(4), serving(5), serving(6))
    assert launched(planned) == 1
    assert instance(4).instance_id in planned.launches[0].cause


def test_a_zone_that_falls_silent_is_held_in_a_group_that_is_otherwise_well() -> None:
    zone, other = SUBNETS[0][1], SUBNETS[1][1]
    lost = [mute(number, zone=zone) for number in range(1, 4)]
    well = [serving(4, zone=zone), *(serving(number, zone=other) for number in range(5, 16))]
    planned = pass_of(*lost, *well)
    assert launched(planned) == 0
    assert zone in dict(planned.conditions)["MassSilence"]


def test_the_last_to_come_back_is_not_taken_for_dead() -> None:
    back = [serving(number) for number in (1, 2)]
    back = [
        replace(m, agent=replace(m.agent, as_of=100.0, last_silence=(88.0, 98.0))) for m in back if m.agent
    ]
    late = replace(mute(3, 12.0), agent=replace(silent(instance(3), 12.0), as_of=100.0))
    assert launched(pass_of(*back, late, serving(4), serving(5))) == 0
    long_ago = [replace(m, agent=replace(m.agent, last_silence=(8.0, 18.0))) for m in back if m.agent]
    assert launched(pass_of(*long_ago, late, serving(4), serving(5))) == 1


def test_each_one_that_goes_makes_it_no_less_of_a_mass() -> None:
    of = record(desired=4, max_size=8)
    assert launched(plan(snapshot(of, mute(1), mute(2), serving(3), booting(4), answers=ANSWERED_LONG))) == 0


def test_a_group_of_three_has_no_mass() -> None:
    assert launched(pass_of(mute(1), mute(2), serving(3), replacement_budget_percentage=100)) == 2


def test_no_more_are_replaced_at_a_time_than_the_budget_allows() -> None:
    sick = [mute(number) for number in range(1, 4)]
    of_twelve = record(desired=12, max_size=20)
    planned = plan(
        snapshot(of_twelve, *sick, *(serving(number) for number in range(4, 13)), answers=ANSWERED_LONG)
    )
    assert launched(planned) == 2  # 20 % of twelve
    assert planned.terminations == ()
    assert "ReplacementsWait" in dict(planned.conditions)
    replaced = [*sick, *(serving(number) for number in range(4, 15))]
    planned = plan(snapshot(of_twelve, *replaced, answers=ANSWERED_LONG))
    assert launched(planned) == 0
    gone = [i for termination in planned.terminations for i in termination.instance_ids]
    assert gone == [instance(1).instance_id, instance(2).instance_id]
    rest = [mute(3), *(serving(number) for number in range(4, 15))]
    assert launched(plan(snapshot(of_twelve, *rest, answers=ANSWERED_LONG))) == 1


def test_the_very_share_is_a_mass_and_one_less_is_none() -> None:
    of_ten = [mute(number) for number in (1, 2, 3)] + [serving(number) for number in range(4, 11)]
    assert launched(pass_of(*of_ten)) == 0
    assert launched(pass_of(*of_ten, serving(11), replacement_budget_percentage=100)) == 3


def test_one_of_which_somebody_told_is_replaced_first() -> None:
    told = serving(9)
    told = replace(told, instance=replace(told.instance, marked_unhealthy="ann"))
    planned = pass_of(mute(1), told, *(serving(number) for number in range(2, 9)))
    assert launched(planned) == 1
    assert "ann" in planned.launches[0].cause


@pytest.mark.parametrize("grace", [0, 2000])
def test_one_that_somebody_marks_unhealthy_is_replaced_after_its_grace_period(grace: float) -> None:
    of = record(max_size=4, health_check_grace_period_seconds=grace)
    marked = plan(
        snapshot(of, serving(1), serving(2), orders=(SetHealth(instance(2).instance_id, False, "ada"),))
    )
    (kept,) = marked.instances
    assert kept.marked_unhealthy == "ada"
    member = replace(serving(2), instance=kept)
    planned = plan(snapshot(of, serving(1), member))
    assert launched(planned) == (0 if grace else 1)
    if not grace:
        assert "marked unhealthy by ada" in planned.launches[0].cause


def test_time_that_nobody_watched_counts_against_no_deadline() -> None:
    member = booting(3, state_since_at=ago(3600))
    of = record(desired=3)
    fresh = plan(snapshot(of, serving(1), serving(2), member, watching_since_at=ago(10)))
    assert not fresh.terminations
    waited = plan(snapshot(of, serving(1), serving(2), member, watching_since_at=ago(301)))
    assert [t.instance_ids for t in waited.terminations] == [(member.instance.instance_id,)]


def test_times_that_a_clock_set_back_left_in_the_future_count_from_now() -> None:
    member = serving(2, in_service_at=ago(-86_400), state_since_at=ago(-86_400))
    planned = plan(snapshot(record(), serving(1), member))
    (mended,) = planned.instances
    assert mended.in_service_at == mended.state_since_at == ago(0)
    assert mended.state is LifecycleState.IN_SERVICE
