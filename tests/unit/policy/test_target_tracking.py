"""Target tracking, by example and by property."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.decision import Vote
from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.metric import Statistic
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


SHARE = TargetTracking(expression="sum(app.backlog) / in_service", target=10)


def vote_of(policy: TargetTracking, *samples: dict[str, float] | None, desired: int = 0) -> Vote:
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=() if values is None else (Sample(-0.5, values),))
        for n, values in enumerate(samples)
    )
    return target_tracking.vote(policy, Fleet(members, desired or len(members), 0))


def backlog(*lengths: float | None) -> Vote:
    return vote_of(SHARE, *(None if length is None else {"app.backlog": length} for length in lengths))


def test_an_expression_is_one_instances_share_and_its_vote_tells_the_values() -> None:
    assert backlog(20, 40) == Vote(
        "target_tracking",
        6,
        "value 30 of in_service 2, sum(app.backlog) 60, target 10",
    )
    assert backlog(2, 2, 2, 2).capacity == 1
    assert backlog(10, 10).reason.endswith("target 10: within tolerance")


def test_a_silent_member_of_an_expression_counts_as_nothing_for_scaling_out_and_forbids_scaling_in() -> None:
    assert backlog(90, None).capacity == 9
    assert backlog(22, None).capacity == 2
    quiet = backlog(2, 2, None)
    assert quiet.capacity == 3
    assert quiet.reason.endswith("1 of 3 silent: no scaling in")
    assert backlog(None, None) == Vote("target_tracking", None, "no agent is heard")


def test_silence_that_would_raise_the_value_scales_neither_way() -> None:
    policy = TargetTracking(expression="sum(app.jobs) / sum(app.workers)", target=1)
    busy = {"app.jobs": 9.0, "app.workers": 1.0}
    assert vote_of(policy, busy, busy).capacity == 18
    held = vote_of(policy, busy, {"app.jobs": 9.0})
    assert held.capacity == 2
    assert held.reason.endswith("1 of 2 silent: no scaling")


def test_a_division_by_zero_abstains_and_a_huge_value_is_no_more_than_the_largest_group() -> None:
    policy = TargetTracking(expression="sum(app.jobs) / sum(app.workers)", target=1)
    none = vote_of(policy, {"app.jobs": 9.0, "app.workers": 0.0})
    assert none.capacity is None
    assert none.reason.endswith("the expression divides by zero, or has too large a value")
    huge, less = {"app.jobs": 1e308, "app.workers": 1.0}, {"app.jobs": -8e307, "app.workers": 1.0}
    assert vote_of(policy, huge).capacity == 10_000
    assert vote_of(replace(policy, target=1e-300), less, less).capacity == 1


@given(st.lists(loads, min_size=1, max_size=30), st.sampled_from(("average", "maximum", "minimum", "p95")))
def test_an_expression_of_one_statistic_votes_as_the_metric_does(cpus: list[float], name: Statistic) -> None:
    by_metric, by_expression = (
        target_tracking.vote(policy, fleet([*cpus]))
        for policy in (
            replace(POLICY, statistic=name),
            TargetTracking(expression=f"{name}(cpu_percent)", target=60.0),
        )
    )
    assert by_expression.capacity == by_metric.capacity


@given(
    st.sampled_from(
        (
            "sum(app.a) / in_service",
            "100 - average(app.a)",
            "(sum(app.a) + p95(app.b)) / sum(app.b)",
            "max(minimum(app.a), 9 / (1 + maximum(app.b))) - 3 / (2 + average(app.b))",
        )
    ),
    st.lists(st.tuples(loads, loads, st.booleans(), st.booleans()), min_size=1, max_size=8),
)
def test_whatever_the_silent_ones_would_say_silence_only_ever_asks_for_less_of_a_change(
    expression: str, members: list[tuple[float, float, bool, bool]]
) -> None:
    policy = TargetTracking(expression=expression, target=10)
    all_speak = vote_of(policy, *({"app.a": a, "app.b": b} for a, b, _, _ in members))
    silent = vote_of(
        policy,
        *({n: v for n, v, said in (("app.a", a, x), ("app.b", b, y)) if said} for a, b, x, y in members),
    )
    if silent.capacity is not None and silent != all_speak:
        assert silent.capacity >= len(members)
        assert silent.capacity <= max(all_speak.capacity or math.inf, len(members))
