"""Target tracking, by example and by property."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import TargetTracking
from controller_asg.policy import target_tracking
from controller_asg.policy.serving import Fleet

loads = st.floats(0, 100, allow_nan=False)
POLICY = TargetTracking(metric="cpu_percent", target=60.0)


def fleet(cpus: list[float | None], desired: int | None = None, warming: int = 0) -> Fleet:
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=() if cpu is None else (Sample(-0.5, {"cpu_percent": cpu}),))
        for n, cpu in enumerate(cpus)
    )
    return Fleet(members, len(cpus) if desired is None else desired, warming)


def size(cpus: list[float | None], **keys: int) -> int | None:
    return target_tracking.vote(POLICY, fleet(cpus, **keys)).capacity


def test_the_group_is_sized_in_proportion() -> None:
    assert size([90, 90]) == 3
    assert size([30, 30, 30, 30]) == 2


def test_floating_point_does_not_buy_an_instance() -> None:
    assert size([66.0] * 100) == 100  # within tolerance
    assert size([72.0] * 100) == 120


def test_within_tolerance_nothing_changes() -> None:
    assert size([65, 65]) == 2


def test_a_silent_member_counts_as_nothing_for_scaling_out_and_at_target_for_scaling_in() -> None:
    assert size([90, None]) == 2
    assert size([20, 20, None]) == 2
    assert size([None, None]) is None


def test_while_instances_warm_up_nothing_is_taken_away() -> None:
    assert size([20, 20], desired=4, warming=2) == 4


def test_each_direction_has_its_own_tolerance() -> None:
    policy = replace(POLICY, scale_out_tolerance_ratio=0.5, scale_in_tolerance_ratio=0.0)
    loads = (89, 91, 60, 59)
    votes = [target_tracking.vote(policy, fleet([cpu] * 100)).capacity for cpu in loads]
    assert votes == [100, 152, 100, 99]


def test_tolerance_of_a_sum_is_of_the_work_for_which_the_group_is_sized() -> None:
    policy = TargetTracking(metric="cpu_percent", target=10, statistic="sum")
    votes = [target_tracking.vote(policy, fleet([share] * 5)).capacity for share in (10.9, 11.2, 9.1, 5.0)]
    assert votes == [5, 6, 5, 3]


def test_a_sum_is_the_whole_groups_work() -> None:
    policy = TargetTracking(metric="app.backlog", target=10, statistic="sum")
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=(Sample(-0.5, {"app.backlog": 20.0}),)) for n in range(3)
    )
    assert target_tracking.vote(policy, Fleet(members, 3, 0)).capacity == 6


@given(low=loads, more=loads, serving=st.integers(1, 500))
def test_more_load_never_votes_for_fewer_instances(low: float, more: float, serving: int) -> None:
    low, high = sorted((low, more))
    first, second = size([low] * serving), size([high] * serving)
    assert first is not None
    assert second is not None
    assert first <= second


@given(st.floats(0, POLICY.target - 1), st.lists(st.none() | loads, max_size=29))
def test_hiding_a_low_reading_never_scales_further_in(low: float, others: list[float | None]) -> None:
    """A silent one counts as at target, so hiding one above it may."""
    cpus = [low, *others]
    known, hidden = size(cpus), size([None, *others])
    if known is not None and hidden is not None:
        assert hidden >= min(known, len(cpus))
    if hidden is not None and hidden < len(cpus):
        assert any(cpu is not None for cpu in cpus[1:])
