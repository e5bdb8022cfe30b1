"""What must hold whatever is seen."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.instance import Ec2State, LifecycleState, StatusCheck
from controller_asg.model.record import GroupRecord
from controller_asg.planner.health import HEALTHY, Health
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Member, SetDesired, Snapshot
from tests.making import ANSWERED, agent, ago, cloud, instance, record, silent, snapshot

STATES = [LifecycleState.PENDING, LifecycleState.IN_SERVICE, LifecycleState.TERMINATING]


@st.composite
def members(draw: st.DrawFn) -> tuple[Member, ...]:
    made = []
    for number in range(draw(st.integers(0, 9))):
        state = draw(st.sampled_from(STATES))
        one = instance(number, state, protected_from_scale_in=draw(st.booleans()))
        view = draw(
            st.sampled_from(
                [
                    None,
                    agent(one, draw(st.floats(0, 100))),
                    agent(one, None),
                    silent(one, draw(st.floats(3, 60))),
                ]
            )
        )
        ec2 = draw(
            st.none()
            | st.builds(cloud, st.just(one), st.sampled_from(Ec2State), st.sampled_from(StatusCheck))
        )
        missing = None if ec2 is not None else draw(st.none() | st.floats(0, 120))
        made.append(Member(one, ec2, view, missing))
    return tuple(made)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    low = draw(st.integers(0, 4))
    high = draw(st.integers(low, 8))
    of: GroupRecord = record(
        desired=draw(st.integers(0, 10)),
        min_size=low,
        max_size=high,
        registration_timeout_seconds=draw(st.sampled_from([10.0, 5000.0])),
        min_healthy_percentage=draw(st.sampled_from([0, 50, 90, 100])),
    )
    orders = draw(st.sampled_from([(), (SetDesired(draw(st.integers(low, high)), "test"),)]))
    observed, answers = draw(st.sampled_from([(False, ()), (True, ()), (True, ANSWERED)]))
    return snapshot(of, *draw(members()), orders=orders, observed=observed, answers=answers)


def live_after(seen: Snapshot) -> int:
    planned = plan(seen)
    leaving = {i for t in planned.terminations for i in t.instance_ids} | set(planned.gone)
    staying = [
        m
        for m in seen.members
        if m.instance.instance_id not in leaving and m.instance.state is not LifecycleState.TERMINATING
    ]
    return len(staying) + sum(launch.count for launch in planned.launches)


@given(snapshots())
def test_desired_capacity_is_within_the_bounds_once_ec2_has_answered(seen: Snapshot) -> None:
    planned = plan(seen)
    if seen.observed:
        assert seen.record.group.min_size <= planned.record.desired_capacity <= seen.record.group.max_size


@given(snapshots())
def test_a_pass_never_launches_beyond_max_size(seen: Snapshot) -> None:
    if plan(seen).launches:
        assert live_after(seen) <= seen.record.group.max_size


@given(snapshots())
def test_equal_snapshots_give_equal_plans(seen: Snapshot) -> None:
    assert plan(seen) == plan(seen)


@given(snapshots())
def test_no_protected_instance_goes_by_scaling_in(seen: Snapshot) -> None:
    planned = plan(seen)
    protected = {m.instance.instance_id for m in seen.members if m.instance.protected_from_scale_in}
    for termination in planned.terminations:
        if (
            "unhealthy" not in termination.cause
            and "EC2" not in termination.cause
            and "register" not in termination.cause
        ):
            already = {
                m.instance.instance_id for m in seen.members if m.instance.state is LifecycleState.TERMINATING
            }
            assert not (set(termination.instance_ids) & protected) - already


@given(snapshots())
def test_scaling_in_keeps_the_healthy_percentage(seen: Snapshot) -> None:
    planned = plan(seen)
    verdicts = planned.verdicts
    arrived = {i.instance_id for i in planned.instances if i.state is LifecycleState.IN_SERVICE}
    healthy = arrived | {
        m.instance.instance_id
        for m in seen.members
        if m.instance.state is LifecycleState.IN_SERVICE
        and verdicts.get(m.instance.instance_id, HEALTHY).health is not Health.UNHEALTHY
    }
    going = {i for t in planned.terminations for i in t.instance_ids} & healthy
    if going:
        wanted = planned.record.desired_capacity * seen.record.group.min_healthy_percentage
        assert 100 * len(healthy - going) >= wanted


@given(snapshots())
def test_every_change_of_size_has_a_reason(seen: Snapshot) -> None:
    decision = plan(seen).decision
    if decision.desired_after != decision.desired_before:
        assert decision.steps or any(vote.capacity != decision.desired_before for vote in decision.votes)


@given(snapshots())
def test_without_ec2s_answer_nothing_is_started(seen: Snapshot) -> None:
    planned = plan(replace(seen, observed=False))
    assert not planned.launches
    assert not planned.terminations


@given(
    zones=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    left=st.integers(0, 11),
    policy=st.sampled_from(["Default", "NewestInstance", "LeastLoaded"]),
)
def test_scaling_in_leaves_no_zone_fuller_than_it_need_be(
    zones: list[tuple[str, bool]], left: int, policy: str
) -> None:
    """Whatever boots, and whosever turn it would be: nobody goes from a zone while another has two more."""
    states = {True: LifecycleState.PENDING, False: LifecycleState.IN_SERVICE}
    made = [
        instance(number, states[boots], zone=zone, state_since_at=ago(5))
        for number, (zone, boots) in enumerate(zones)
    ]
    of = record(
        min(left, len(made)),
        min_size=0,
        max_size=12,
        min_healthy_percentage=0,
        termination_policies=[policy],
        policies=[],
    )
    planned = plan(
        snapshot(
            of, *(Member(one, cloud(one), None if one.in_service_at is None else agent(one)) for one in made)
        )
    )
    going = {i for t in planned.terminations for i in t.instance_ids}
    assert len(going) == len(made) - of.desired_capacity
    after = Counter(one.zone for one in made if one.instance_id not in going)
    for zone in {one.zone for one in made if one.instance_id in going}:
        assert max(after.values(), default=0) <= after[zone] + 1
