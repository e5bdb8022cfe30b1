"""From what is launched, and how much: a template that fails is stopped, and nothing grows without a limit."""

from dataclasses import replace

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.errors import RejectedError
from controller_asg.model.instance import LifecycleState
from controller_asg.model.record import GroupRecord, LaunchMemory, LaunchTemplate
from controller_asg.planner import launches
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Outcome
from tests.making import NOW, agent, ago, booting, record, serving, snapshot

GOOD = LaunchTemplate("good", "ami-00000000000000099", record().group.launch, "image")


def after_failures(count: int, good: LaunchTemplate | None = GOOD, **keys: object) -> GroupRecord:
    of = record(**keys)
    return replace(of, launch_memory=LaunchMemory(good, ((of.launch_version, count),) if count else ()))


def by_version(planned: Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for launch in planned.launches:
        counts[launch.template.version] = counts.get(launch.template.version, 0) + launch.count
    return counts


def test_the_first_one_in_service_proves_its_template() -> None:
    member = booting(3)
    of = after_failures(2, desired=3)
    planned = plan(snapshot(of, serving(1), serving(2), replace(member, agent=agent(member.instance))))
    assert planned.record.launch_memory.good == of.template
    assert planned.record.launch_memory.failures == ()


def test_of_an_unproven_template_no_more_are_on_their_way_than_may_fail() -> None:
    of = after_failures(0, desired=10, max_size=10)
    assert by_version(plan(snapshot(of))) == {of.launch_version: 3, "good": 7}
    assert by_version(plan(snapshot(of, booting(1), booting(2)))) == {of.launch_version: 1, "good": 7}


def test_a_template_that_failed_too_often_is_stopped_and_the_last_good_one_launched() -> None:
    of = after_failures(3, desired=4)
    planned = plan(snapshot(of, serving(1), serving(2)))
    assert by_version(planned) == {"good": 2}
    assert {launch.template.image_id for launch in planned.launches} == {GOOD.image_id}
    (stopped,) = [message for kind, message in planned.conditions if kind == "LaunchVersionStopped"]
    assert "3 instances in a row" in stopped
    assert GOOD.image_id in stopped


def test_where_no_template_was_ever_good_the_applied_one_is_launched_ever_more_slowly() -> None:
    member = booting(3, state_since_at=ago(301))
    planned = plan(snapshot(after_failures(5, None, desired=3), serving(1), serving(2), member))
    assert not planned.launches
    assert planned.record.backoffs[0].failures == 1


def test_a_failure_of_the_applied_template_does_not_hold_the_good_one_back() -> None:
    member = booting(3, state_since_at=ago(301), launch_version=record().launch_version)
    planned = plan(snapshot(after_failures(2, desired=3), serving(1), serving(2), member))
    assert by_version(planned) == {"good": 1}
    assert not planned.record.backoffs


def test_a_good_template_that_fails_too_is_launched_ever_more_slowly() -> None:
    member = booting(3, state_since_at=ago(301), launch_version="good")
    planned = plan(snapshot(after_failures(3, desired=3), serving(1), serving(2), member))
    assert not planned.launches
    assert planned.record.backoffs[0].failures == 1
    assert planned.record.launch_memory.good == GOOD


def test_a_good_template_that_ec2_refuses_for_ever_is_forgotten() -> None:
    request = LaunchRequest("a-1", "web", "good", 1, GOOD.image_id, "t2.micro")
    activity = Activity(
        "a-1", "web", ActivityKind.LAUNCH, ActivityStatus.IN_PROGRESS, "test", 1, ago(5), launch=request
    )
    refused = Outcome("a-1", RejectedError("no such image", "RunInstances"))
    of = after_failures(3, desired=3)
    planned = plan(snapshot(of, serving(1), serving(2), open_activities=(activity,), facts=(refused,)))
    assert planned.record.launch_memory.good is None


def test_more_launches_than_the_growth_limit_are_held_back_and_the_decision_says_so() -> None:
    of = record(desired=5, max_size=5, growth_limit_percentage=200)
    of = replace(of, launch_memory=LaunchMemory(recent=((ago(599), 4), (ago(10), 5))))
    planned = plan(snapshot(of))
    assert by_version(planned) == {of.launch_version: 1}
    assert [step.name for step in planned.decision.steps] == ["growth_limit"]
    assert launches.room_to_grow(planned.record, NOW) == 0


def test_what_was_given_up_on_purpose_may_be_launched_again() -> None:
    of = record(desired=1, min_size=1, max_size=2, growth_limit_percentage=100, min_healthy_percentage=0)
    for wanted in (2, 1) * 10:
        members = [serving(number) for number in range(3 - wanted)]
        planned = plan(snapshot(replace(of, desired_capacity=wanted), *members))
        assert len(planned.launches) == wanted - 1
        of = planned.record


def test_launches_before_the_window_count_no_more() -> None:
    of = record(desired=5, growth_limit_percentage=100)
    of = replace(of, launch_memory=LaunchMemory(recent=((ago(601), 500),)))
    planned = plan(snapshot(of))
    assert by_version(planned) == {of.launch_version: 5}
    assert planned.record.launch_memory.recent == ((NOW, 5),)


def test_an_instance_of_another_version_in_service_proves_nothing_of_the_applied_one() -> None:
    member = booting(3, launch_version="older")
    speaks = replace(member, agent=agent(member.instance))
    planned = plan(snapshot(after_failures(2, None, desired=3), serving(1), serving(2), speaks))
    assert planned.instances[0].state is LifecycleState.IN_SERVICE
    assert planned.record.launch_memory.good is None
