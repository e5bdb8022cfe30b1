"""A machine that works is not killed: who goes first, what is waited for and how long, and who is taken back."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.agent_order import Drain, Resume, RunHook
from controller_asg.model.instance import ADOPTED, CommandEnd, Lease, LifecycleState, StatusCheck
from controller_asg.planner import leases
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import CompleteAction, Member, SetDesired, Terminate
from tests.making import NOW, agent, cloud, instance, record, serving, silent, snapshot

LEASE = Lease("nightly", "report", None)
KEEP = Lease("nightly", "report", None, protect_from_scale_in=True)
DONE = CommandEnd(0, "all sent away")


def working(number: int, *held: Lease, **keys: Any) -> Member:
    made = instance(number)
    return Member(made, cloud(made), agent(made, leases=held, **keys))


def unheard(number: int) -> Member:
    made = instance(number)
    return Member(made, cloud(made), None)


class Group:
    """A group through its passes; what the plan changes is what the next pass sees."""

    def __init__(self, *members: Member, desired: int = 1, **keys: Any) -> None:
        self.record = record(desired=desired, min_size=0, min_healthy_percentage=0, policies=[], **keys)
        self.members = {member.instance.instance_id: member for member in members}
        self.now = NOW

    def passes(self, *orders: Any, seconds: float = 1.0) -> Plan:
        self.now += timedelta(seconds=seconds)
        planned = plan(snapshot(self.record, *self.members.values(), now=self.now, orders=orders))
        self.record = planned.record
        for changed in planned.instances:
            self.members[changed.instance_id] = replace(self.members[changed.instance_id], instance=changed)
        return planned

    def says(self, number: int, **keys: Any) -> None:
        member = self[number]
        assert member.agent is not None
        self.members[instance(number).instance_id] = replace(member, agent=replace(member.agent, **keys))

    def __getitem__(self, number: int) -> Member:
        return self.members[instance(number).instance_id]

    def state(self, number: int) -> LifecycleState:
        return self[number].instance.state


def drains(planned: Plan) -> list[Drain]:
    return [order for _, order in planned.agent_orders if isinstance(order, Drain)]


def name(number: int) -> str:
    return instance(number).instance_id


def going(planned: Plan) -> set[str]:
    return {i.instance_id for i in planned.instances if i.state is not LifecycleState.IN_SERVICE}


def test_the_idle_go_first_and_at_once() -> None:
    group = Group(working(1, LEASE), working(2), working(3, LEASE), working(4), desired=2)
    planned = group.passes()
    assert [set(t.instance_ids) for t in planned.terminations] == [{name(2), name(4)}]
    assert not planned.agent_orders


def test_a_busy_one_that_must_go_drains_until_its_leases_have_ended() -> None:
    group = Group(working(1, LEASE))
    planned = group.passes(Terminate(name(1), True, "alice"))
    assert group.state(1) is LifecycleState.TERMINATING_WAIT
    assert [order.timeout_seconds for order in drains(planned)] == [300]
    group.says(1, draining=True)
    group.passes(seconds=30)
    group.says(1, leases=(), draining=True)
    assert not group.passes().terminations, "its drain command still runs"
    group.says(1, leases=(), draining=False, drained=DONE)
    (termination,) = group.passes().terminations
    assert termination.cause == "terminated on the word of alice"
    assert "all sent away" in termination.details
    assert group.state(1) is LifecycleState.TERMINATING_PROCEED


def test_a_busy_one_goes_at_the_limit_all_the_same() -> None:
    group = Group(working(1, LEASE), drain_timeout_seconds=60)
    group.passes(Terminate(name(1), True, "alice"))
    assert not group.passes(seconds=59).terminations
    planned = group.passes(seconds=1)
    assert planned.terminations
    assert f"drained {name(1)}: not within 60 s" in planned.decision.actions


def test_without_a_drain_timeout_nobody_is_waited_for() -> None:
    group = Group(working(1, LEASE), drain_timeout_seconds=0)
    assert group.passes(Terminate(name(1), True, "alice")).terminations


def test_an_order_that_is_not_answered_is_given_again_with_the_time_left() -> None:
    group = Group(working(1, LEASE))
    group.passes(Terminate(name(1), True, "alice"))
    assert not drains(group.passes(seconds=4))
    assert [order.timeout_seconds for order in drains(group.passes(seconds=1))] == [295]
    group.says(1, draining=True)
    assert not drains(group.passes(seconds=60))


@pytest.mark.parametrize(("waits", "said"), [(9.0, {}), (200.0, {"draining": True})])
def test_an_idle_one_waits_for_its_drain_command_where_the_group_asks(
    waits: float, said: dict[str, Any]
) -> None:
    group = Group(working(1), drain=True)
    assert drains(group.passes(Terminate(name(1), True, "alice")))
    group.says(1, **said)
    assert not group.passes(seconds=waits).terminations
    group.says(1, draining=False, drained=DONE)
    assert group.passes().terminations


def test_an_idle_one_whose_agent_says_nothing_to_it_goes_after_ten_seconds() -> None:
    group = Group(working(1), drain=True)
    group.passes(Terminate(name(1), True, "alice"))
    assert group.passes(seconds=10).terminations


def test_its_hooks_are_opened_once_it_is_drained() -> None:
    hook = {"name": "save-logs", "transition": "terminate", "command": "save-logs.sh"}
    group = Group(working(1, LEASE), lifecycle_hooks=[hook])
    group.passes(Terminate(name(1), True, "alice"))
    assert not group[1].instance.hooks
    group.says(1, leases=(), drained=DONE)
    planned = group.passes()
    assert [order.hook for _, order in planned.agent_orders if hasattr(order, "hook")] == ["save-logs"]
    assert not planned.terminations


def test_of_one_not_heard_since_the_start_nobody_knows_so_it_is_waited_for() -> None:
    group = Group(unheard(1), working(2))
    assert going(group.passes()) == {name(2)}
    group = Group(unheard(1))
    group.passes(Terminate(name(1), True, "alice"))
    assert group.state(1) is LifecycleState.TERMINATING_WAIT


def test_a_lease_may_protect_from_scale_in_like_the_operator() -> None:
    group = Group(working(1, KEEP), working(2, LEASE))
    assert going(group.passes()) == {name(2)}
    planned = Group(working(1, KEEP), desired=0).passes()
    assert not going(planned)
    assert [step.name for step in planned.decision.steps] == ["protection"]


def test_load_that_returns_takes_the_last_that_left_back_before_anything_is_launched() -> None:
    group = Group(*(working(number, LEASE) for number in (1, 2, 3)), desired=2)
    (first,) = going(group.passes())
    (second,) = going(group.passes(SetDesired(1, "alice")))
    planned = group.passes(SetDesired(2, "alice"))
    assert [(i, type(order)) for i, order in planned.agent_orders] == [(second, Resume)]
    assert not planned.launches
    back = group.members[second].instance
    assert back.state is LifecycleState.IN_SERVICE
    assert back.in_service_at == instance(int(second[2:], 16)).in_service_at, "its warmup is over"
    planned = group.passes(SetDesired(4, "alice"))
    assert [i for i, _ in planned.agent_orders] == [first]
    assert [launch.count for launch in planned.launches] == [1]


def _after(group: Group, how: str) -> None:
    match how:
        case "ordered":
            group.passes(Terminate(name(1), False, "alice"))
        case "silent":
            group.members[name(1)] = replace(group[1], agent=silent(group[1].instance))
        case "marked":
            marked = replace(group[1].instance, marked_unhealthy="alice")
            group.members[name(1)] = replace(group[1], instance=marked)
        case "hook begun":
            group.says(1, leases=(), drained=DONE)
            group.passes()


@pytest.mark.parametrize("command", [{"command": "save-logs.sh"}, {}], ids=["the agent's", "somebody's"])
@pytest.mark.parametrize("how", ["ordered", "silent", "marked", "hook begun"])
def test_who_is_sick_sent_away_or_half_torn_down_is_not_taken_back(how: str, command: dict[str, str]) -> None:
    hook = {"name": "save-logs", "transition": "terminate", **command}
    group = Group(working(1, LEASE), desired=0, lifecycle_hooks=[hook])
    group.passes()
    _after(group, how)
    planned = group.passes(SetDesired(1, "alice"))
    assert group.state(1) is LifecycleState.TERMINATING_WAIT
    assert planned.launches


def test_one_taken_back_that_still_says_it_drains_is_told_again() -> None:
    group = Group(working(1), desired=0, drain=True)
    group.passes()
    group.passes(SetDesired(1, "alice"))
    group.says(1, draining=True)
    assert [type(order) for _, order in group.passes().agent_orders] == [Resume]
    group.says(1, draining=False)
    assert not group.passes().agent_orders


@given(
    held=st.lists(st.sampled_from([(), (LEASE,), (KEEP,), None]), min_size=1, max_size=9),
    wanted=st.integers(0, 9),
    drain=st.booleans(),
)
def test_nothing_busy_goes_while_an_idle_one_stays(
    held: list[tuple[Lease, ...] | None], wanted: int, drain: bool
) -> None:
    members = [
        unheard(number) if told is None else working(number, *told) for number, told in enumerate(held)
    ]
    group = Group(*members, desired=min(wanted, 5), drain=drain)
    leaves = going(group.passes())
    busy = {m.instance.instance_id for m in members if leases.busy(m)}
    idle = {m.instance.instance_id for m in members} - busy
    assert len(leaves) <= max(0, len(members) - min(wanted, 5))
    assert not leaves & busy or idle <= leaves
    called = {i for t in group.passes(seconds=0.1).terminations for i in t.instance_ids}
    assert not called & busy


def test_a_policys_victim_that_works_is_passed_over_for_an_idle_one() -> None:
    cold = working(1, LEASE)
    assert cold.agent is not None
    cold = replace(cold, agent=agent(cold.instance, 2.0, leases=(LEASE,)))
    of = record(desired=3, policies=[{"type": "thresholds"}], min_size=1, min_healthy_percentage=0)
    planned = plan(snapshot(of, cold, serving(2), serving(3)))
    assert [t.instance_ids for t in planned.terminations] != [(name(1),)]
    assert name(1) not in going(planned)


def adopted(number: int, **keys: Any) -> Member:
    made = instance(number, LifecycleState.PENDING, reason=ADOPTED, activity_id="", **keys)
    return Member(made, cloud(made), None)


def test_what_was_adopted_and_is_not_heard_counts_as_at_work() -> None:
    group = Group(unheard(1), *(adopted(n, state_since_at=NOW) for n in (2, 3)), desired=1)
    planned = group.passes()
    assert not planned.terminations
    assert len(drains(planned)) == 2


def test_a_group_that_was_adopted_and_of_which_none_is_heard_is_a_fault_of_ours() -> None:
    few = Group(*(adopted(number, state_since_at=NOW) for number in (1, 2, 3)), desired=3, drain=False)
    few.passes(seconds=301)
    assert few.state(1) is LifecycleState.TERMINATING
    many = Group(*(adopted(number, state_since_at=NOW) for number in range(1, 7)), desired=6)
    planned = many.passes(seconds=301)
    assert not planned.terminations
    assert "none of 6 is heard" in dict(planned.conditions)["MassSilence"]
    some = Group(working(7), *(adopted(number, state_since_at=NOW) for number in range(1, 7)), desired=7)
    some.passes(seconds=301)
    assert some.state(1) is LifecycleState.TERMINATING


def test_work_that_begins_while_a_hook_is_open_is_waited_for() -> None:
    save = {"name": "save", "transition": "terminate"}
    group = Group(working(1), desired=0, drain=True, lifecycle_hooks=[save])
    group.passes()
    group.says(1, drained=DONE)
    group.passes()
    (hook,) = group[1].instance.hooks
    group.says(1, leases=(LEASE,))
    assert not group.passes(CompleteAction(name(1), hook.token, "CONTINUE", "alice")).terminations
    group.says(1, leases=())
    assert group.passes().terminations


def test_one_that_died_while_it_drained_is_not_waited_for_and_its_command_not_asked() -> None:
    command = {"name": "logs", "transition": "terminate", "command": "logs"}
    group = Group(working(1, LEASE), desired=0, drain_timeout_seconds=7200, lifecycle_hooks=[command])
    group.passes()
    dead = {"silent_seconds": 65.0, "ping_attempts": 9, "ping_failed_seconds": 60.0}
    group.says(1, **dead)
    assert not group.passes().terminations, "EC2 has not said so"
    made = group[1].instance
    group.members[name(1)] = replace(group[1], cloud=cloud(made, status=StatusCheck.IMPAIRED))
    planned = group.passes()
    assert planned.terminations
    assert not [order for _, order in planned.agent_orders if isinstance(order, RunHook)]


def test_resume_is_given_again_whatever_the_group_says_of_drain() -> None:
    group = Group(working(1, draining=True), desired=1, drain=False)
    made = replace(group[1].instance, drain_ordered_at=NOW)
    group.members[name(1)] = replace(group[1], instance=made)
    assert [type(order) for _, order in group.passes().agent_orders] == [Resume]


def test_one_that_is_not_heard_may_be_at_work_so_others_go_first_and_it_is_waited_for() -> None:
    group = Group(working(1), working(2), desired=1, drain=True)
    group.says(1, silent_seconds=6.0, in_session_seconds=None)
    assert going(group.passes()) == {name(2)}
    group = Group(working(1), desired=0, drain=True)
    group.says(1, silent_seconds=6.0, in_session_seconds=None)
    group.passes()
    assert not group.passes(seconds=60).terminations, "no order has reached it"
    group.says(1, silent_seconds=0.2, in_session_seconds=0.1)
    assert not group.passes().terminations, "it was asked just now"
    group.says(1, in_session_seconds=10.0)
    assert group.passes().terminations
