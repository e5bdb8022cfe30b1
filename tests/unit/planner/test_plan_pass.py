"""One pass, by example: what is seen, and what is done about it."""

from dataclasses import replace

import pytest

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.errors import CapacityError, RejectedError
from controller_asg.model.instance import LEAVING_STATES, Ec2State, LifecycleState, StatusCheck
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Answer, Bootstrapped, Member, Outcome, SetDesired, Terminate
from tests.making import NOW, agent, ago, booting, cloud, instance, record, serving, silent, snapshot


def launch_activity(name: str = "a-1", count: int = 1, **keys: object) -> Activity:
    request = LaunchRequest(name, "web", "v", count, "ami-1", "t2.micro", zone="us-east-1a")
    made = Activity(
        name, "web", ActivityKind.LAUNCH, ActivityStatus.IN_PROGRESS, "test", count, ago(5), launch=request
    )
    return replace(made, **keys)


def steps(planned: object) -> list[str]:
    return [step.name for step in planned.decision.steps]  # type: ignore[attr-defined]


def launched(planned: object) -> int:
    return sum(launch.count for launch in planned.launches)  # type: ignore[attr-defined]


def terminated(planned: object) -> set[str]:
    return {i for t in planned.terminations for i in t.instance_ids}  # type: ignore[attr-defined]


def test_a_group_at_rest_does_nothing_and_says_so() -> None:
    planned = plan(snapshot(record(), serving(1), serving(2)))
    assert not planned.launches
    assert not planned.terminations
    assert not planned.decision.steps
    assert planned.decision.summary.startswith("web stays at 2")


def test_an_empty_group_launches_its_desired_capacity_level_over_the_zones() -> None:
    planned = plan(snapshot(record(desired=5)))
    assert sorted(launch.count for launch in planned.launches) == [1, 2, 2]


def test_a_hot_instance_launches_one() -> None:
    planned = plan(snapshot(record(), serving(1, cpu=95), serving(2)))
    assert (launched(planned), planned.record.desired_capacity) == (1, 3)
    assert "cpu_percent 95" in planned.launches[0].cause
    assert planned.record.last_changes[0].direction == "out"


def test_at_max_size_a_hot_instance_is_held_and_the_decision_says_by_what() -> None:
    planned = plan(snapshot(record(max_size=2), serving(1, cpu=95), serving(2)))
    assert not planned.launches
    assert steps(planned) == ["max_size"]
    assert "max_size" in planned.decision.summary


def test_the_idle_instance_itself_goes() -> None:
    planned = plan(snapshot(record(desired=3), serving(1), serving(2, cpu=3), serving(3)))
    assert terminated(planned) == {instance(2).instance_id}
    assert planned.record.desired_capacity == 2


def test_at_min_size_an_idle_instance_stays() -> None:
    planned = plan(snapshot(record(), serving(1, cpu=3), serving(2)))
    assert not planned.terminations
    assert steps(planned) == ["min_size"]


def test_a_launch_that_is_asked_for_counts_as_capacity() -> None:
    planned = plan(snapshot(record(desired=3), serving(1), serving(2), open_activities=(launch_activity(),)))
    assert not planned.launches


def test_before_ec2_has_answered_nothing_is_done() -> None:
    planned = plan(snapshot(record(desired=3), observed=False))
    assert not planned.launches


def test_an_instance_is_in_service_at_its_agents_first_good_sample() -> None:
    member = booting(3)
    waiting = plan(snapshot(record(desired=3), serving(1), serving(2), member))
    assert not waiting.instances
    speaking = replace(member, agent=agent(member.instance))
    planned = plan(snapshot(record(desired=3), serving(1), serving(2), speaking))
    assert planned.instances[0].state is LifecycleState.IN_SERVICE
    assert planned.instances[0].in_service_at == NOW


def test_an_agent_that_never_registers_costs_the_instance_and_holds_the_next_launch_back() -> None:
    member = booting(3, state_since_at=ago(301))
    planned = plan(snapshot(record(desired=3), serving(1), serving(2), member))
    assert terminated(planned) == {member.instance.instance_id}
    assert planned.terminations[0].keep_console
    assert not planned.launches
    assert "launch_backoff" in steps(planned)
    assert planned.record.backoffs[0].failures == 1


def test_two_witnesses_against_an_instance_replace_it_launching_first() -> None:
    dead = replace(serving(2), agent=silent(instance(2)))
    first = plan(snapshot(record(), serving(1), dead))
    assert (launched(first), first.terminations) == (1, ())
    assert "2 pings" in first.launches[0].cause or "pings unanswered" in first.launches[0].cause
    after = plan(snapshot(record(), serving(1), dead, serving(3)))
    assert terminated(after) == {instance(2).instance_id}
    assert not after.launches


def test_at_max_size_the_dead_one_goes_first() -> None:
    dead = replace(serving(2), agent=silent(instance(2)))
    planned = plan(snapshot(record(max_size=2), serving(1), dead))
    assert (launched(planned), terminated(planned)) == (1, {instance(2).instance_id})


def test_a_lost_stream_alone_kills_nothing() -> None:
    lost = replace(serving(2), agent=replace(silent(instance(2)), ping_attempts=0))
    planned = plan(snapshot(record(), serving(1), lost))
    assert not planned.launches
    assert not planned.terminations


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param((), id="never answered"),
        pytest.param((Answer(9.0, 8.9),), id="answered before the silence only"),
        pytest.param((Answer(3.9, 0.1),), id="answered just now, no ping since"),
    ],
)
def test_silence_while_ec2_does_not_answer_either_is_our_own_fault(answers: tuple[Answer, ...]) -> None:
    dead = replace(serving(2), agent=silent(instance(2)))
    planned = plan(snapshot(record(), serving(1), dead, answers=answers))
    assert not planned.launches
    assert not planned.terminations


def test_a_stopped_machine_is_replaced_at_once() -> None:
    stopped = replace(serving(2), cloud=cloud(instance(2), Ec2State.STOPPED))
    planned = plan(snapshot(record(), serving(1), stopped))
    assert (launched(planned), terminated(planned)) == (1, {instance(2).instance_id})


def test_a_terminated_machine_is_forgotten_and_replaced() -> None:
    gone = replace(serving(2), cloud=cloud(instance(2), Ec2State.TERMINATED))
    planned = plan(snapshot(record(), serving(1), gone))
    assert (launched(planned), planned.gone) == (1, (instance(2).instance_id,))


def test_many_silent_at_once_are_our_own_fault() -> None:
    members = [serving(1), serving(2)] + [replace(serving(n), agent=silent(instance(n))) for n in (3, 4)]
    planned = plan(snapshot(record(desired=4), *members))
    assert not planned.launches
    assert not planned.terminations
    assert "mass_silence" in steps(planned)
    assert ("MassSilence" in dict(planned.conditions)) is True


def test_the_cause_of_a_termination_is_what_moved_the_size() -> None:
    members = [replace(serving(n), agent=silent(instance(n))) for n in range(1, 7)]
    planned = plan(snapshot(record(desired=6, max_size=6), *members, orders=(SetDesired(5, "ann"),)))
    assert "mass_silence" in steps(planned)
    left = [one.reason for one in planned.instances if one.state in LEAVING_STATES]
    assert left == ["asked for by ann"]


def test_impaired_status_checks_and_silence_are_two_witnesses() -> None:
    member = serving(2)
    sick = replace(
        member,
        agent=replace(silent(member.instance), ping_attempts=0),
        cloud=cloud(member.instance, status=StatusCheck.IMPAIRED),
    )
    assert launched(plan(snapshot(record(), serving(1), sick))) == 1


def test_strangers_with_our_tags_are_adopted_and_count() -> None:
    stranger = replace(cloud(instance(2)), activity_id="a-9")
    planned = plan(snapshot(record(), serving(1), strangers=(stranger,)))
    assert not planned.launches
    assert planned.instances[0].reason == "adopted by its tags"


def test_a_launchs_answer_makes_its_instances_known() -> None:
    activity = launch_activity()
    made = replace(cloud(instance(2), Ec2State.PENDING), activity_id="a-1")
    planned = plan(
        snapshot(
            record(), serving(1), open_activities=(activity,), facts=(Outcome("a-1", instances=(made,)),)
        )
    )
    assert not planned.launches
    assert planned.instances[0].state is LifecycleState.PENDING
    assert planned.activities[0].acknowledged


def test_without_capacity_in_a_zone_the_next_zone_is_tried_in_the_same_pass() -> None:
    refused = Outcome("a-1", CapacityError("no t2.micro", "us-east-1a", "", "InsufficientInstanceCapacity"))
    planned = plan(snapshot(record(), serving(1), open_activities=(launch_activity(),), facts=(refused,)))
    assert planned.activities[0].status is ActivityStatus.FAILED
    assert [launch.zone for launch in planned.launches] != ["us-east-1a"]
    assert launched(planned) == 1


def test_a_refused_launch_holds_the_group_back() -> None:
    refused = Outcome("a-1", RejectedError("no such image", "RunInstances", "", "InvalidAMIID.NotFound"))
    planned = plan(snapshot(record(), serving(1), open_activities=(launch_activity(),), facts=(refused,)))
    assert not planned.launches
    assert "LaunchesFailing" in dict(planned.conditions)


def test_an_order_to_terminate_without_decrement_launches_a_replacement() -> None:
    order = Terminate(instance(2).instance_id, False, "alice")
    planned = plan(snapshot(record(), serving(1), serving(2), orders=(order,)))
    assert (terminated(planned), launched(planned)) == ({instance(2).instance_id}, 1)


def test_an_order_to_terminate_with_decrement_shrinks_the_group_but_not_below_min() -> None:
    order = Terminate(instance(2).instance_id, True, "alice")
    shrunk = plan(snapshot(record(desired=3), serving(1), serving(2), serving(3), orders=(order,)))
    assert (shrunk.record.desired_capacity, launched(shrunk)) == (2, 0)
    at_min = plan(snapshot(record(), serving(1), serving(2), orders=(order,)))
    assert (at_min.record.desired_capacity, launched(at_min)) == (2, 1)


def test_an_agent_that_unregisters_leaves_the_group() -> None:
    member = serving(3)
    leaving = replace(member, agent=agent(member.instance, unregister_requested=True))
    planned = plan(snapshot(record(desired=3), serving(1), serving(2), leaving))
    assert terminated(planned) == {member.instance.instance_id}
    assert planned.record.desired_capacity == 2


def test_a_launch_by_order_names_who_asked_and_not_a_policy_that_had_no_wish() -> None:
    planned = plan(snapshot(record(desired=2), serving(1), serving(2), orders=(SetDesired(3, "alice"),)))
    assert planned.launches[0].cause == "asked for by alice"


def test_protected_instances_stay() -> None:
    members = [serving(n, cpu=50, protected_from_scale_in=True) for n in (1, 2, 3)]
    planned = plan(snapshot(record(desired=3), *members, orders=(SetDesired(2, "alice"),)))
    assert not planned.terminations
    assert "protection" in steps(planned)


def test_what_still_boots_goes_first() -> None:
    planned = plan(
        snapshot(
            record(desired=4), serving(1), serving(2), booting(3), booting(4), orders=(SetDesired(3, "a"),)
        )
    )
    assert terminated(planned) == {instance(4).instance_id}


def test_never_fewer_healthy_ones_than_the_percentage_by_our_own_act() -> None:
    planned = plan(snapshot(record(desired=3), serving(1), serving(2, cpu=2), booting(3)))
    assert instance(2).instance_id not in terminated(planned)


def test_a_lower_max_size_shrinks_the_group() -> None:
    planned = plan(snapshot(record(desired=4, max_size=2), *(serving(n) for n in range(1, 5))))
    assert planned.record.desired_capacity == 2
    assert len(terminated(planned)) == 2


def test_with_the_role_an_instance_waits_for_the_roles_end() -> None:
    of = record(
        desired=2, bootstrap="role", launch={"image": {"id": "ami-0123456789abcdef0"}, "key_pair": "k"}
    )
    member = booting(2, activity_id="a-1")
    running = Member(member.instance, cloud(member.instance), agent(member.instance))
    activity = launch_activity(acknowledged=True, instance_ids=(member.instance.instance_id,))
    waiting = plan(snapshot(of, serving(1), running, open_activities=(activity,)))
    assert waiting.bootstraps == (member.instance.instance_id,)
    assert not waiting.instances
    done = Bootstrapped(member.instance.instance_id)
    ready = plan(snapshot(of, serving(1), running, open_activities=(activity,), facts=(done,)))
    assert ready.instances[0].state is LifecycleState.IN_SERVICE
    assert ready.activities[0].status is ActivityStatus.SUCCESSFUL
    broken = Bootstrapped(member.instance.instance_id, "unreachable")
    failed = plan(snapshot(of, serving(1), running, open_activities=(activity,), facts=(broken,)))
    assert terminated(failed) == {member.instance.instance_id}


def test_a_termination_ends_when_ec2_says_so() -> None:
    leaving = instance(3, LifecycleState.TERMINATING, state_since_at=ago(3))
    activity = replace(
        launch_activity("t-1"),
        kind=ActivityKind.TERMINATE,
        launch=None,
        instance_ids=(leaving.instance_id,),
        acknowledged=True,
    )
    at_it = snapshot(
        record(), serving(1), serving(2), Member(leaving, cloud(leaving, Ec2State.SHUTTING_DOWN), None)
    )
    assert not plan(replace(at_it, open_activities=(activity,))).activities
    gone = snapshot(
        record(), serving(1), serving(2), Member(leaving, cloud(leaving, Ec2State.TERMINATED), None)
    )
    planned = plan(replace(gone, open_activities=(activity,)))
    assert planned.activities[0].status is ActivityStatus.SUCCESSFUL
    assert planned.gone == (leaving.instance_id,)


@pytest.mark.parametrize(
    "looks_at", [{"metric": "app.queue"}, {"expression": "sum(app.queue) * p95(cpu_percent)"}]
)
def test_a_metric_nobody_reports_is_told_and_changes_nothing(looks_at: dict[str, str]) -> None:
    of = record(policies=[{"type": "target_tracking", "target": 10, **looks_at}])
    planned = plan(snapshot(of, serving(1, 5.0), serving(2, 0.0)))
    assert not planned.terminations
    assert "app.queue" in dict(planned.conditions)["MetricMissing"]
