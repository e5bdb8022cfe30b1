"""Suspended processes, by EC2's page "How suspended processes affect other processes", and holds that end."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Ec2State
from controller_asg.model.record import GroupRecord
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Member, Protect, SetHealth, Terminate
from controller_asg.planner.suspension import inherited, resume, suspend
from tests.making import NOW, ago, booting, cloud, instance, record, serving, silent, snapshot

HOLD = Hold("anna", "they look", ago(60), NOW + timedelta(hours=2))


def holding(of: GroupRecord, *processes: Process, hold: Hold = HOLD) -> GroupRecord:
    return suspend(of, processes, hold)


def dead(number: int = 2) -> Member:
    return replace(serving(number), agent=silent(instance(number)))


def started(planned: Plan) -> tuple[int, int]:
    return sum(each.count for each in planned.launches), len(planned.terminations)


def told(planned: Plan) -> list[str]:
    return [step.reason for step in planned.decision.steps if step.name == "suspended"]


def test_nothing_is_launched_and_the_decision_says_what_would_have_been() -> None:
    planned = plan(snapshot(holding(record(desired=3), Process.LAUNCH), serving(1), serving(2)))
    assert started(planned) == (0, 0)
    assert told(planned) == [
        "would launch 1: desired capacity is 3, but Launch is suspended until 2028-02-28 14:00Z by anna: they look"
    ]
    assert ("Suspended", "Launch until 2028-02-28 14:00Z by anna: they look") in planned.conditions


@pytest.mark.parametrize("process", [Process.ALARM_NOTIFICATION, Process.SCALE_OUT, Process.LAUNCH])
def test_policies_vote_to_scale_out_and_are_not_followed(process: Process) -> None:
    planned = plan(snapshot(holding(record(), process), serving(1, cpu=95), serving(2)))
    assert planned.decision.votes[0].capacity == 3
    assert planned.record.desired_capacity == 2
    assert told(planned)[0].startswith("would scale to 3, but")
    assert not planned.record.last_changes


@pytest.mark.parametrize("process", [Process.ALARM_NOTIFICATION, Process.SCALE_IN, Process.TERMINATE])
def test_policies_vote_to_scale_in_and_are_not_followed(process: Process) -> None:
    planned = plan(snapshot(holding(record(desired=3), process), serving(1), serving(2, cpu=3), serving(3)))
    assert planned.record.desired_capacity == 3
    assert started(planned) == (0, 0)


def test_one_direction_leaves_the_other() -> None:
    hot = plan(snapshot(holding(record(), Process.SCALE_IN), serving(1, cpu=95), serving(2)))
    assert started(hot) == (1, 0)


def test_without_terminate_the_group_stays_too_large_and_unhealthy_ones_are_not_replaced() -> None:
    of = holding(record(policies=[]), Process.TERMINATE)
    assert started(plan(snapshot(of, serving(1), serving(2), serving(3)))) == (0, 0)
    ill = plan(snapshot(of, serving(1), dead()))
    assert started(ill) == (0, 0)
    assert ill.verdicts[instance(2).instance_id].health == "Unhealthy"
    late = plan(snapshot(of, serving(1), booting(3, state_since_at=ago(301))))
    assert started(late) == (0, 0)
    assert not late.record.backoffs
    asked = plan(
        snapshot(of, serving(1), serving(2), orders=(Terminate(instance(1).instance_id, True, "x"),))
    )
    assert (started(asked), asked.instances) == ((0, 0), ())
    assert all("would" in each for each in told(asked))


def test_the_unhealthy_are_replaced_at_once_when_terminate_resumes() -> None:
    of = resume(holding(record(), Process.TERMINATE), (Process.TERMINATE,))
    assert started(plan(snapshot(of, serving(1), dead()))) == (1, 0)


def test_without_replace_unhealthy_they_are_marked_and_stay() -> None:
    planned = plan(snapshot(holding(record(), Process.REPLACE_UNHEALTHY), serving(1), dead()))
    assert started(planned) == (0, 0)
    assert planned.verdicts[instance(2).instance_id].health == "Unhealthy"


def test_without_health_check_only_what_somebody_told_counts() -> None:
    of = holding(record(), Process.HEALTH_CHECK)
    by_silence = plan(snapshot(of, serving(1), dead()))
    assert started(by_silence) == (0, 0)
    verdict = by_silence.verdicts[instance(2).instance_id]
    assert (verdict.health, "HealthCheck is suspended" in verdict.reason) == ("Suspect", True)
    marked = serving(2, marked_unhealthy="bob")
    assert started(plan(snapshot(of, serving(1), marked))) == (1, 0)
    assert plan(
        snapshot(of, serving(1), serving(2), orders=(SetHealth(instance(2).instance_id, False, "b"),))
    ).instances


@pytest.mark.parametrize(
    "process", [Process.HEALTH_CHECK, Process.REPLACE_UNHEALTHY, Process.TERMINATE, Process.LAUNCH]
)
def test_a_stopped_instance_waits_for_its_start(process: Process) -> None:
    stopped = replace(serving(2), cloud=cloud(instance(2), Ec2State.STOPPED))
    planned = plan(snapshot(holding(record(), process), serving(1), stopped))
    assert started(planned) == (0, 0)
    assert not planned.gone
    assert started(plan(snapshot(record(), serving(1), stopped))) == (1, 1)


@pytest.mark.parametrize("process", [Process.HEALTH_CHECK, Process.REPLACE_UNHEALTHY])
def test_a_terminated_instance_leaves_a_gap_that_is_filled(process: Process) -> None:
    gone = replace(serving(2), cloud=cloud(instance(2), Ec2State.TERMINATED))
    planned = plan(snapshot(holding(record(), process), serving(1), gone))
    assert started(planned) == (1, 0)
    assert "held" not in planned.launches[0].cause


def test_a_time_of_a_schedule_that_falls_into_the_suspension_is_left_out() -> None:
    action = {"name": "noon", "recurrence": "55 11 * * *", "desired_capacity": 4}
    of = replace(record(scheduled_actions=[action]), applied_at=ago(600))
    assert plan(snapshot(of, serving(1), serving(2))).record.desired_capacity == 4
    held = plan(snapshot(holding(of, Process.SCHEDULED_ACTIONS), serving(1), serving(2)))
    assert held.record.desired_capacity == 2
    assert told(held)[0].startswith("would carry out noon, but ScheduledActions is suspended")
    resumed = resume(held.record, tuple(Process))
    assert plan(snapshot(resumed, serving(1), serving(2))).record.desired_capacity == 2


@pytest.mark.parametrize("process", [Process.AZ_REBALANCE, Process.LAUNCH, Process.TERMINATE])
def test_zones_stay_as_they_are(process: Process) -> None:
    of = record(desired=3, policies=[], rebalance_zones=True)
    crowd = [serving(number, zone="us-east-1a") for number in (1, 2, 3)]
    assert started(plan(snapshot(of, *crowd))) == (1, 0)
    assert started(plan(snapshot(holding(of, process), *crowd))) == (0, 0)


def test_a_suspension_ends_by_itself_and_says_so() -> None:
    of = holding(record(desired=3), Process.LAUNCH, hold=replace(HOLD, until_at=NOW))
    planned = plan(snapshot(of, serving(1), serving(2)))
    assert planned.record.suspended == ()
    assert started(planned) == (1, 0)
    assert [step.name for step in planned.decision.steps] == ["resumed"]


def test_a_clock_that_was_set_back_makes_no_hold_longer() -> None:
    ahead = Hold("anna", "", NOW + timedelta(days=1), NOW + timedelta(days=1, seconds=60))
    of = holding(record(), Process.LAUNCH, hold=ahead)
    (_, hold), *_ = plan(snapshot(of, serving(1), serving(2))).record.suspended
    assert hold.until_at == NOW + timedelta(seconds=60)


def test_frozen_is_every_process_and_a_new_group_is_frozen_with_all_others() -> None:
    everywhere = replace(HOLD, everywhere=True)
    of = holding(record(), *Process, hold=everywhere)
    planned = plan(snapshot(of, serving(1, cpu=95), dead()))
    assert started(planned) == (0, 0)
    assert planned.decision.votes
    assert ("Frozen", "everything until 2028-02-28 14:00Z by anna: they look") in planned.conditions
    assert dict(inherited([of], NOW)).keys() == set(Process)
    assert inherited([holding(record(), *Process)], NOW) == ()
    assert inherited([of], NOW + timedelta(hours=2)) == ()


def test_the_same_suspension_again_changes_nothing() -> None:
    of = holding(record(), Process.LAUNCH)
    assert holding(of, Process.LAUNCH, hold=replace(HOLD, since_at=NOW)) == of
    assert holding(of, Process.LAUNCH, hold=replace(HOLD, reason="other")) != of


def test_protection_has_owner_reason_and_end_and_ends_by_itself() -> None:
    name = instance(1).instance_id
    order = Protect((name,), True, "anna", "a long job", NOW + timedelta(minutes=5))
    of = record(desired=2, policies=[])
    planned = plan(snapshot(of, serving(1), serving(2), orders=(order,)))
    assert planned.instances[0].protected_from_scale_in
    assert dict(planned.record.protections)[name].said() == "until 2028-02-28 12:05Z by anna: a long job"
    members = (serving(1, protected_from_scale_in=True), serving(2), serving(3))
    (spared,) = plan(snapshot(planned.record, *members)).terminations
    assert spared.instance_ids == (instance(2).instance_id,)
    alone = plan(
        snapshot(replace(planned.record, desired_capacity=0, group=record(min_size=0).group), members[0])
    )
    assert alone.decision.steps[-1].reason.endswith(f"({name} until 2028-02-28 12:05Z by anna: a long job)")
    later = NOW + timedelta(minutes=5)
    (chosen,) = plan(replace(snapshot(planned.record, *members), now=later)).terminations
    assert chosen.instance_ids == (name,)


def test_protection_that_is_taken_back_or_whose_instance_is_gone_is_forgotten() -> None:
    name = instance(1).instance_id
    of = replace(record(policies=[]), protections=((name, HOLD),))
    protected = serving(1, protected_from_scale_in=True)
    back = plan(snapshot(of, protected, serving(2), orders=(Protect((name,), False, "anna"),)))
    assert (back.record.protections, back.instances[0].protected_from_scale_in) == ((), False)
    assert plan(snapshot(of, serving(2), serving(3))).record.protections == ()
