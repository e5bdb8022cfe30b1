"""Standby, detach and attach, by the examples of EC2 Auto Scaling's user guide and API reference."""

from dataclasses import replace
from typing import Any

import pytest

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.errors import ConflictError, RejectedError
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Ec2State, LifecycleState
from controller_asg.planner.membership import moving
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import (
    Attach,
    Detach,
    EnterStandby,
    ExitStandby,
    Member,
    Outcome,
    Snapshot,
    Terminate,
)
from tests.making import NOW, agent, ago, cloud, instance, record, serving, silent, snapshot

ONE, TWO = instance(1).instance_id, instance(2).instance_id
FOUR = record(desired=4, max_size=5, policies=[])


def four() -> tuple[Member, ...]:
    return tuple(serving(number) for number in range(1, 5))


def apart(number: int, state: LifecycleState, ec2_state: Ec2State = Ec2State.RUNNING) -> Member:
    made = instance(number, state, in_service_at=ago(500))
    return Member(made, cloud(made, ec2_state), agent(made))


def states(planned: Plan) -> dict[str, str]:
    return {one.instance_id: one.state.value for one in planned.instances}


def after(before: Snapshot, planned: Plan, **keys: Any) -> Snapshot:
    """The next pass, nothing having happened meanwhile."""
    moved = {one.instance_id: one for one in planned.instances}
    members = tuple(
        replace(member, instance=moved.get(member.instance.instance_id, member.instance))
        for member in before.members
    )
    return replace(before, record=planned.record, members=members, orders=(), **keys)


def started(planned: Plan) -> tuple[int, int]:
    return sum(each.count for each in planned.launches), len(planned.terminations)


def test_standby_shrinks_the_capacity_from_4_to_3_and_the_way_back_raises_it_again() -> None:
    first = snapshot(FOUR, *four(), orders=(EnterStandby((ONE,), True, "anna"),))
    entering = plan(first)
    assert states(entering) == {ONE: "EnteringStandby"}
    assert entering.record.desired_capacity == 3
    assert entering.decision.steps[0].reason == f"{ONE} on standby on the word of anna"
    second = after(first, entering)
    standing = plan(second)
    assert states(standing) == {ONE: "Standby"}
    assert started(entering) == started(standing) == (0, 0)
    third = replace(after(second, standing), orders=(ExitStandby((ONE,), "anna"),))
    leaving = plan(third)
    assert states(leaving) == {ONE: "Pending"}
    assert leaving.record.desired_capacity == 4
    back = plan(after(third, leaving))
    assert states(back) == {ONE: "InService"}
    assert started(leaving) == started(back) == (0, 0)


def test_standby_without_decrement_launches_a_replacement_even_at_max_size() -> None:
    full = record(desired=4, max_size=4, policies=[])
    planned = plan(snapshot(full, *four(), orders=(EnterStandby((ONE,), False, "anna"),)))
    assert planned.record.desired_capacity == 4
    assert started(planned) == (1, 0)


def test_what_is_on_standby_is_not_judged_nor_chosen_and_may_be_stopped() -> None:
    standby = apart(5, LifecycleState.STANDBY)
    ill = replace(standby, agent=silent(standby.instance, 60))
    assert started(plan(snapshot(FOUR, *four(), ill))) == (0, 0)
    stopped = apart(5, LifecycleState.STANDBY, Ec2State.STOPPED)
    shrunk = replace(FOUR, desired_capacity=3)
    planned = plan(snapshot(shrunk, *four(), stopped))
    assert [t.instance_ids for t in planned.terminations] == [(ONE,)]
    assert not planned.gone


def test_what_ec2_says_is_terminated_on_standby_is_forgotten_and_not_replaced() -> None:
    planned = plan(snapshot(FOUR, *four(), apart(5, LifecycleState.STANDBY, Ec2State.TERMINATED)))
    assert planned.gone == (instance(5).instance_id,)
    assert started(planned) == (0, 0)


def test_one_that_does_not_come_back_from_standby_is_replaced_and_no_failure_of_its_template() -> None:
    made = instance(4, LifecycleState.PENDING, in_service_at=ago(900), state_since_at=ago(301))
    late = Member(made, cloud(made), None)
    planned = plan(snapshot(FOUR, *four()[:3], late))
    assert started(planned) == (1, 1)
    assert not planned.record.backoffs


def test_termination_on_an_operators_word_takes_it_from_standby_and_leaves_the_size() -> None:
    standby = apart(5, LifecycleState.STANDBY)
    order = Terminate(standby.instance.instance_id, True, "anna")
    planned = plan(snapshot(FOUR, *four(), standby, orders=(order,)))
    assert states(planned) == {standby.instance.instance_id: "Terminating"}
    assert planned.record.desired_capacity == 4


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (EnterStandby((ONE, TWO), True, "anna"), "desired capacity 1 would be below min_size 2"),
        (Detach((ONE, TWO), True, "anna"), "desired capacity 1 would be below min_size 2"),
        (EnterStandby((instance(5).instance_id,), False, "anna"), "is Pending"),
        (ExitStandby((instance(6).instance_id,), "anna"), "desired capacity 4 would be above max_size 3"),
        (Attach(("i-0000000a",), "anna"), "desired capacity 4 would be above max_size 3"),
        (ExitStandby(("i-0000000b",), "anna"), "is gone"),
    ],
)
def test_bounds_and_states_refuse(order: Any, says: str) -> None:
    members = {
        one.instance_id: one
        for one in (
            *(instance(number) for number in (1, 2, 3)),
            instance(5, LifecycleState.PENDING),
            instance(6, LifecycleState.STANDBY),
        )
    }
    of = record(desired=3, min_size=2, max_size=3)
    with pytest.raises(ConflictError, match=says):
        moving(order, of, members, {})
    # And the pass, to which a door may have put it too late, leaves everything as it is and says so.
    planned = plan(
        snapshot(of, *(Member(one, cloud(one), None) for one in members.values()), orders=(order,))
    )
    assert planned.record.desired_capacity == 3
    assert any(step.reason.startswith("not done: ") for step in planned.decision.steps)


def test_detaching_takes_the_tags_off_and_the_member_stays_until_no_late_answer_shows_it() -> None:
    first = snapshot(FOUR, *four(), orders=(Detach((ONE,), True, "anna"),))
    planned = plan(first)
    assert states(planned) == {ONE: "Detaching"}
    assert planned.record.desired_capacity == 3
    assert [(t.kind, t.instance_ids) for t in planned.taggings] == [(ActivityKind.DETACH, (ONE,))]
    assert planned.decision.actions == (f"detach {ONE}: detached on the word of anna",)
    detach = Activity(
        "d", "web", ActivityKind.DETACH, ActivityStatus.IN_PROGRESS, "test", 1, NOW, instance_ids=(ONE,)
    )
    answered = plan(after(first, planned, open_activities=(detach,), facts=(Outcome("d"),)))
    (acknowledged,) = answered.activities
    assert acknowledged.status is ActivityStatus.IN_PROGRESS
    second = after(first, planned, open_activities=(acknowledged,))
    assert not plan(second).gone
    unseen = replace(second.members[0], cloud=None, missing_seconds=59.0)
    assert not plan(replace(second, members=(unseen, *second.members[1:]))).gone
    unseen = replace(unseen, missing_seconds=60.0)
    last = plan(replace(second, members=(unseen, *second.members[1:])))
    assert last.gone == (ONE,)
    assert last.activities[0].status is ActivityStatus.SUCCESSFUL
    assert started(planned) == started(last) == (0, 0)


def test_tags_that_are_still_there_after_two_minutes_are_taken_off_again() -> None:
    made = instance(1, LifecycleState.DETACHING, state_since_at=ago(121))
    member = Member(made, cloud(made), agent(made))
    asked = Activity(
        "d", "web", ActivityKind.DETACH, ActivityStatus.IN_PROGRESS, "test", 1, ago(121), instance_ids=(ONE,)
    )
    shown = snapshot(record(desired=2, policies=[]), member, serving(2), serving(3), open_activities=(asked,))
    assert not plan(shown).taggings
    again = plan(replace(shown, open_activities=(replace(asked, acknowledged=True),)))
    assert [each.instance_ids for each in again.taggings] == [(ONE,)]
    assert again.activities[0].status is ActivityStatus.FAILED


def test_one_of_a_launch_that_is_not_answered_yet_can_not_be_detached() -> None:
    launch = Activity("a", "web", ActivityKind.LAUNCH, ActivityStatus.IN_PROGRESS, "test", 1, ago(60))
    one = instance(1, activity_id="a")
    with pytest.raises(ConflictError, match="has not answered"):
        moving(Detach((ONE,), False, "anna"), FOUR, {ONE: one}, {"a": launch})


def test_attaching_raises_desired_capacity_and_launches_nobody_in_its_place() -> None:
    shown = snapshot(FOUR, *four(), orders=(Attach(("i-0000000a",), "anna"),))
    planned = plan(shown)
    assert planned.record.desired_capacity == 5
    assert [(t.kind, t.instance_ids) for t in planned.taggings] == [(ActivityKind.ATTACH, ("i-0000000a",))]
    assert started(planned) == (0, 0)
    attach = Activity(
        "t",
        "web",
        ActivityKind.ATTACH,
        ActivityStatus.IN_PROGRESS,
        "attached on the word of anna",
        1,
        NOW,
        instance_ids=("i-0000000a",),
    )
    waiting = after(shown, planned, open_activities=(attach,))
    comes = replace(cloud(instance(9)), instance_id="i-0000000a", activity_id="t", launch_version="")
    seen_early = plan(replace(waiting, strangers=(comes,)))
    assert started(seen_early) == (0, 0)
    assert not seen_early.instances
    arrived = plan(replace(waiting, facts=(Outcome("t", instances=(comes,)),)))
    assert states(arrived) == {"i-0000000a": "Pending"}
    assert arrived.instances[0].bootstrapped_at == NOW
    assert arrived.record.desired_capacity == 5
    assert started(arrived) == (0, 0)
    refused = plan(replace(waiting, facts=(Outcome("t", RejectedError("is no instance", "i-0000000a")),)))
    assert refused.record.desired_capacity == 4
    assert refused.activities[0].status is ActivityStatus.FAILED
    assert started(refused) == (0, 0)


TEN = f"i-{10:017x}"
ATTACH = Activity(
    "t",
    "web",
    ActivityKind.ATTACH,
    ActivityStatus.IN_PROGRESS,
    "attached on the word of anna",
    1,
    ago(600),
    acknowledged=True,
    instance_ids=(TEN,),
)


def attached(ec2_state: Ec2State = Ec2State.RUNNING, *, speaks: bool = False) -> Member:
    made = instance(
        10,
        LifecycleState.PENDING,
        activity_id="t",
        launch_version="",
        reason=ATTACH.cause,
        state_since_at=ago(400),
    )
    return Member(made, cloud(made, ec2_state), agent(made) if speaks else None)


def test_an_attached_instance_runs_no_launch_hooks() -> None:
    of = record(
        desired=5, max_size=5, policies=[], lifecycle_hooks=[{"name": "warm", "transition": "launch"}]
    )
    planned = plan(snapshot(of, *four(), attached(speaks=True), open_activities=(ATTACH,)))
    assert states(planned) == {TEN: "InService"}


@pytest.mark.parametrize("ec2_state", [Ec2State.RUNNING, Ec2State.STOPPED])
def test_one_that_can_not_be_attached_leaves_as_it_came_alive(ec2_state: Ec2State) -> None:
    of = record(desired=5, max_size=5, policies=[])
    planned = plan(snapshot(of, *four(), attached(ec2_state), open_activities=(ATTACH,)))
    assert states(planned) == {TEN: "Detaching"}
    assert [(t.kind, t.instance_ids) for t in planned.taggings] == [(ActivityKind.DETACH, (TEN,))]
    assert planned.record.desired_capacity == 4
    assert started(planned) == (0, 0)
    assert planned.activities[0].status is ActivityStatus.FAILED
    assert "was not attached" in planned.decision.steps[0].reason


def test_what_comes_from_standby_or_is_attached_is_not_the_first_to_go_as_one_that_boots() -> None:
    of = record(
        desired=4, max_size=5, policies=[], min_healthy_percentage=0, termination_policies=["OldestInstance"]
    )
    back = instance(
        5, LifecycleState.PENDING, zone=instance(1).zone, in_service_at=ago(500), state_since_at=ago(5)
    )
    planned = plan(snapshot(of, *four(), Member(back, cloud(back), None)))
    assert [t.instance_ids for t in planned.terminations] == [(ONE,)]


@pytest.mark.parametrize("order", [ExitStandby((ONE,), "anna"), Attach((TEN,), "anna")])
def test_while_launch_is_suspended_nothing_comes_into_service(order: Any) -> None:
    of = replace(FOUR, suspended=((Process.LAUNCH, Hold("bob", "they look", NOW)),))
    parked = {ONE: apart(1, LifecycleState.STANDBY).instance}
    with pytest.raises(ConflictError, match="Launch is suspended by bob"):
        moving(order, of, parked, {})
    with pytest.raises(ConflictError, match="controller-asg resume web Launch"):
        moving(order, of, parked, {})
