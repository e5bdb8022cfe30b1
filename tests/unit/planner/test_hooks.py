"""Lifecycle hooks by the examples of EC2 Auto Scaling's guide, and what our agents add: a command on the instance."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.agent_order import RunHook
from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import ADOPTED, CommandEnd, Ec2State, Instance, LifecycleState
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import CompleteAction, Member, RecordHeartbeat, Terminate
from tests.making import NOW, agent, ago, booting, cloud, record, serving, silent, snapshot

LAUNCH = {"name": "configure", "transition": "launch", "heartbeat_timeout_seconds": 60}
TERMINATE = {"name": "save-logs", "transition": "terminate", "heartbeat_timeout_seconds": 60}
COMMAND = {"command": "save-logs.sh"}
OPEN = Activity("a-1", "web", ActivityKind.LAUNCH, ActivityStatus.IN_PROGRESS, "test", 1, ago(30))
OPEN = replace(OPEN, acknowledged=True, instance_ids=(booting(3).instance.instance_id,))


class Story:
    """One instance through its passes, a second apart unless told otherwise."""

    def __init__(self, member: Member, *hooks: dict[str, Any], desired: int = 3, **keys: Any) -> None:
        self.member, self.desired, self.keys = member, desired, keys
        self.record = record(desired=desired, lifecycle_hooks=list(hooks), **keys)
        self.now, self.launch = NOW, OPEN
        self.before: tuple[tuple[datetime, datetime], ...] = ()
        self.plan: Plan

    @property
    def instance(self) -> Instance:
        return self.member.instance

    def passes(self, *orders: Any, seconds: float = 1.0, watched: float = 86_400.0) -> Plan:
        self.now += timedelta(seconds=seconds)
        others = [serving(number) for number in range(1, self.desired)]
        seen = snapshot(
            self.record,
            *others,
            self.member,
            now=self.now,
            orders=orders,
            open_activities=(self.launch,),
            watching_since_at=self.now - timedelta(seconds=watched),
            watched_before=self.before,
        )
        self.plan = plan(seen)
        self.record = self.plan.record
        for changed in self.plan.instances:
            if changed.instance_id == self.instance.instance_id:
                self.member = replace(self.member, instance=changed)
        for activity in self.plan.activities:
            self.launch = activity
        return self.plan

    def ends(self, exit_code: int | None, output: str = "") -> None:
        assert self.member.agent is not None
        hooks = {hook.token: CommandEnd(exit_code, output) for hook in self.instance.hooks}
        self.member = replace(self.member, agent=replace(self.member.agent, hooks=hooks))

    def complete(self, result: str, which: int = 0) -> CompleteAction:
        return CompleteAction(self.instance.instance_id, self.instance.hooks[which].token, result, "alice")


def launching(*hooks: dict[str, Any], **keys: Any) -> Story:
    member = booting(3, activity_id="a-1")
    story = Story(replace(member, agent=agent(member.instance)), *hooks, **keys)
    story.passes()
    return story


def terminating(*hooks: dict[str, Any], **keys: Any) -> Story:
    story = Story(serving(3), *hooks, **keys)
    story.passes(Terminate(story.instance.instance_id, True, "alice"))
    return story


def hook_orders(planned: Plan) -> list[RunHook]:
    return [order for _, order in planned.agent_orders if isinstance(order, RunHook)]


def test_a_launch_waits_for_its_hook_proceeds_and_serves() -> None:
    story = launching(LAUNCH, TERMINATE)
    assert story.instance.state is LifecycleState.PENDING_WAIT
    assert [hook.name for hook in story.instance.hooks] == ["configure"]
    assert len(story.instance.hooks[0].token) == 36
    story.passes(story.complete("CONTINUE"))
    assert story.passes().decision.actions == ()
    assert story.instance.state is LifecycleState.PENDING_PROCEED
    story.passes()
    assert story.instance.state is LifecycleState.IN_SERVICE
    assert story.instance.hooks == ()
    assert story.instance.in_service_at == story.now


def test_all_hooks_of_a_launch_are_open_at_once_and_all_must_be_completed() -> None:
    story = launching(LAUNCH, {**LAUNCH, "name": "register"})
    assert len({hook.token for hook in story.instance.hooks}) == 2
    story.passes(story.complete("CONTINUE"))
    story.passes()
    assert story.instance.state is LifecycleState.PENDING_WAIT
    story.passes(story.complete("CONTINUE", which=1))
    story.passes()
    assert story.instance.state is LifecycleState.PENDING_PROCEED


def test_an_abandoned_launch_is_terminated_and_counts_as_a_failed_one() -> None:
    story = launching(LAUNCH, TERMINATE)
    story.passes(story.complete("ABANDON"))
    (termination,) = story.passes().terminations
    assert termination.instance_ids == (story.instance.instance_id,)
    assert "configure was abandoned: by alice" in termination.cause
    assert termination.keep_console
    assert story.instance.state is LifecycleState.TERMINATING
    assert story.record.backoffs[0].failures == 1
    assert "ABANDON" in story.launch.details


def test_an_abandoned_launch_does_not_serve_while_terminate_is_suspended() -> None:
    story = launching(LAUNCH)
    held = ((Process.TERMINATE, Hold("anna", "they look", NOW)),)
    story.record = replace(story.record, suspended=held)
    story.passes(story.complete("ABANDON"))
    for _ in range(3):
        assert not story.passes().terminations
        assert story.instance.state is LifecycleState.PENDING_WAIT
    story.record = replace(story.record, suspended=())
    assert story.passes().terminations


@pytest.mark.parametrize(
    ("default", "state"),
    [("CONTINUE", LifecycleState.PENDING_PROCEED), ("ABANDON", LifecycleState.TERMINATING)],
)
def test_the_default_result_counts_at_the_heartbeat_timeout(default: str, state: LifecycleState) -> None:
    story = launching({**LAUNCH, "default_result": default})
    story.passes(seconds=59)
    assert story.instance.state is LifecycleState.PENDING_WAIT
    story.passes(seconds=1)
    assert story.instance.state is state


def test_a_heartbeat_begins_the_timeout_anew_up_to_a_hundred_of_them() -> None:
    story = terminating(TERMINATE)
    token, began = story.instance.hooks[0].token, story.now
    while not story.plan.terminations:
        story.passes(RecordHeartbeat(story.instance.instance_id, token), seconds=50)
    assert (story.now - began).total_seconds() == 6000
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_time_in_which_nobody_watched_is_no_part_of_the_timeout() -> None:
    story = terminating(TERMINATE)
    story.passes(seconds=3600, watched=2)
    assert story.instance.state is LifecycleState.TERMINATING_WAIT
    story.passes(seconds=58, watched=60)
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_what_was_watched_before_a_gap_counts_and_the_gap_does_not() -> None:
    story = terminating(TERMINATE)
    story.before = ((story.now, story.now + timedelta(seconds=50)),)
    story.passes(seconds=1000, watched=9)
    assert story.instance.state is LifecycleState.TERMINATING_WAIT
    story.passes(seconds=1, watched=10)
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_after_a_hundred_timeouts_by_the_clock_a_restart_gives_one_more_minute() -> None:
    story = terminating({**TERMINATE, "heartbeat_timeout_seconds": 600})
    story.passes(seconds=60_001, watched=59)
    assert story.instance.state is LifecycleState.TERMINATING_WAIT
    story.passes(seconds=1, watched=60)
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_a_clock_set_back_does_not_lengthen_a_timeout() -> None:
    story = terminating(TERMINATE)
    story.passes(seconds=-86_400)
    story.passes(seconds=60)
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


@pytest.mark.parametrize("result", ["CONTINUE", "ABANDON"])
def test_a_termination_goes_on_whatever_the_result(result: str) -> None:
    story = terminating(TERMINATE, LAUNCH)
    assert story.instance.state is LifecycleState.TERMINATING_WAIT
    assert not story.plan.terminations
    story.passes(story.complete(result))
    (termination,) = story.passes().terminations
    assert termination.cause == "terminated on the word of alice"
    assert result in termination.details
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_abandon_leaves_the_other_hooks_of_a_termination_out() -> None:
    story = terminating(TERMINATE, {**TERMINATE, "name": "snapshot"})
    story.passes(story.complete("ABANDON"))
    (termination,) = story.passes().terminations
    assert "snapshot: left out" in termination.details


@pytest.mark.parametrize(
    ("exit_code", "result"), [(0, "CONTINUE"), (1, "ABANDON"), (127, "ABANDON"), (None, "CONTINUE")]
)
def test_a_commands_end_completes_its_hook(exit_code: int | None, result: str) -> None:
    story = terminating({**TERMINATE, **COMMAND, "default_result": "CONTINUE"})
    story.ends(exit_code, "42 files")
    (termination,) = story.passes().terminations
    assert f"save-logs: {result}" in termination.details
    assert "42 files" in termination.details


def test_a_command_is_ordered_at_once_and_again_until_the_agent_knows_it() -> None:
    story = terminating({**TERMINATE, **COMMAND, "notification_metadata": "bucket=a"})
    (order,) = hook_orders(story.plan)
    assert (order.command, order.hook, order.metadata) == ("save-logs.sh", "save-logs", "bucket=a")
    assert order.timeout_seconds == 60
    assert not hook_orders(story.passes(seconds=4))
    (again,) = hook_orders(story.passes(seconds=1))
    assert (again.token, again.timeout_seconds) == (order.token, 55)
    assert story.member.agent is not None
    runs = replace(story.member.agent, hooks={order.token: None})
    story.member = replace(story.member, agent=runs)
    assert not hook_orders(story.passes(seconds=30))


def test_an_open_hook_stays_as_it_was_opened_when_the_document_changes() -> None:
    story = terminating(TERMINATE)
    story.record = replace(record(desired=2), version=2)
    story.passes()
    assert story.instance.state is LifecycleState.TERMINATING_WAIT
    story.passes(seconds=59)
    assert story.instance.state is LifecycleState.TERMINATING_PROCEED


def test_an_unhealthy_instance_runs_the_hooks_that_need_no_agent() -> None:
    one = serving(3).instance
    dead = Member(one, cloud(one), silent(one))
    others = [serving(number) for number in (1, 2, 4)]
    of = record(desired=3, lifecycle_hooks=[TERMINATE, {**TERMINATE, **COMMAND, "name": "on-it"}])
    (moved,) = [i for i in plan(snapshot(of, dead, *others)).instances if i.instance_id == one.instance_id]
    assert moved.state is LifecycleState.TERMINATING_WAIT
    assert [hook.name for hook in moved.hooks] == ["save-logs"]


@pytest.mark.parametrize("state", [Ec2State.STOPPED, Ec2State.TERMINATED])
def test_what_ec2_says_is_dead_waits_for_nothing(state: Ec2State) -> None:
    story = terminating(TERMINATE)
    story.member = replace(story.member, cloud=cloud(story.instance, state))
    planned = story.passes()
    gone = {i for t in planned.terminations for i in t.instance_ids} | set(planned.gone)
    assert gone == {story.instance.instance_id}


def test_adopted_instances_run_no_launch_hook() -> None:
    member = booting(3, reason=ADOPTED)
    of = record(desired=1, min_size=1, lifecycle_hooks=[LAUNCH])
    (moved,) = plan(snapshot(of, replace(member, agent=agent(member.instance)))).instances
    assert moved.state is LifecycleState.IN_SERVICE


def test_an_instance_that_reboots_in_its_launch_hook_is_not_taken_for_dead() -> None:
    story = launching(LAUNCH)
    story.member = replace(story.member, agent=silent(story.instance, 30.0))
    story.passes(seconds=10)
    assert story.instance.state is LifecycleState.PENDING_WAIT
    assert not story.plan.launches


def test_the_decision_tells_who_waits_for_what() -> None:
    story = terminating(TERMINATE)
    assert f"open save-logs of {story.instance.instance_id}" in story.plan.decision.actions
    (said,) = [text for kind, text in story.passes().conditions if kind == "TerminatingWait"]
    assert "waits for save-logs (terminated on the word of alice)" in said


@pytest.mark.parametrize(
    ("hook", "fault"),
    [
        ({"name": "configure"}, "[1].name: configure stands twice"),
        ({"heartbeat_timeout_seconds": 0}, "[1].heartbeat_timeout_seconds"),
        ({"heartbeat_timeout_seconds": 7201}, "[1].heartbeat_timeout_seconds"),
        ({"default_result": "RETRY"}, "[1].default_result"),
        ({"transition": "launching"}, "[1].transition"),
        ({"command": "../hook"}, "[1].command"),
        ({"notification_metadata": "x" * 4001}, "[1].notification_metadata"),
    ],
)
def test_a_wrong_hook_is_refused_with_its_place(hook: dict[str, Any], fault: str) -> None:
    second = {**LAUNCH, "name": "second", **hook}
    document = {"launch": {"image": {"id": "ami-0123456789abcdef0"}}, "lifecycle_hooks": [LAUNCH, second]}
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": document})
    (found,) = caught.value.faults
    assert f"{found.where}: {found.what}".startswith(f"asg_groups.web.lifecycle_hooks{fault}")


def test_more_than_fifty_hooks_are_refused_as_by_ec2() -> None:
    hooks = [{**LAUNCH, "name": f"hook-{number}"} for number in range(51)]
    document = {"launch": {"image": {"id": "ami-0123456789abcdef0"}}, "lifecycle_hooks": hooks}
    with pytest.raises(SpecError, match="lifecycle_hooks"):
        parse_groups({"web": document})


def test_a_heartbeat_begins_the_limit_of_its_command_anew() -> None:
    story = terminating({**TERMINATE, **COMMAND, "heartbeat_timeout_seconds": 60})
    story.passes(seconds=40)
    (hook,) = story.instance.hooks
    planned = story.passes(RecordHeartbeat(story.instance.instance_id, hook.token))
    assert [(order.token, order.timeout_seconds) for _, order in planned.agent_orders] == [(hook.token, 60)]
