"""Which settings are tried, how their parts are scored, and which of them is chosen."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.scaling_policy import DemandTracking, TargetTracking, Thresholds
from controller_asg.rehearse.figures import Figures, figures, least_paid
from controller_asg.rehearse.follow import demand_tracking
from controller_asg.rehearse.generate import generate
from controller_asg.rehearse.load import demand
from controller_asg.rehearse.tune import (
    DAY,
    DIALS,
    HOUR,
    Tunable,
    cheapest,
    frontier,
    rank,
    settings,
    split,
    tune,
    written,
)
from controller_asg.rehearse.world import needs, rehearse


@pytest.mark.parametrize(
    "present",
    [
        DemandTracking(forecast="off", mode="observe", full=85.0),
        TargetTracking(metric="cpu_percent", target=55.5, scale_in_tolerance_ratio=0.25),
        Thresholds(name="bounds", create_above=60.0),
    ],
)
def test_every_setting_is_a_policy_that_a_group_may_hold(present: Tunable) -> None:
    tried = settings(present)
    assert tried[0] == present
    assert math.prod(map(len, DIALS[present.type].values())) <= len(set(tried)) == len(tried)
    for policy in tried:
        document = {"min_size": 1, "max_size": 9, "launch": {"image": {"id": "ami-00000000"}}}
        (group,) = parse_groups({"web": {**document, "policies": [written(policy)]}})
        assert group.policies == (policy,)


def test_a_part_ends_with_a_day_where_there_are_two() -> None:
    assert split("t", 12 * HOUR) == 6 * HOUR
    assert split("t", 47 * HOUR) == 23.5 * HOUR
    assert [split("t", int(days * DAY)) / DAY for days in (2, 2.5, 3, 7)] == [1, 1, 2, 4]
    with pytest.raises(
        SpecError, match=r"t: lasts 11.9 h, and each of its two parts wants 6 h; give a trace"
    ):
        split("t", 12 * HOUR - 30)


def test_the_parts_add_up_to_a_rehearsal_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALS, "demand_tracking", {"patience_seconds": (1800.0,)})
    needed, at = demand(generate("flash-crowd"))[:DAY], 9 * HOUR
    tuned = tune(needed, at, DemandTracking(), None, 60.0)
    assert (
        list(tuned.first) == list(tuned.rest) == [DemandTracking(), DemandTracking(patience_seconds=1800.0)]
    )
    need = needs(needed)
    for policy in tuned.first:
        assert isinstance(policy, DemandTracking)
        whole = rehearse(needed, demand_tracking(policy, 60.0), 60.0)
        first, rest = tuned.first[policy], tuned.rest[policy]
        paid = first.cost * least_paid(need[:at], 6) + rest.cost * least_paid(need[at:], 6)
        assert paid == pytest.approx(sum(whole.desired))
        under = first.tau_u * at + rest.tau_u * (DAY - at)
        assert under / DAY == pytest.approx(figures(need, whole, 60.0).tau_u)
        assert first.mean_in_service == pytest.approx(sum(whole.in_service[:at]) / at)


def scored(points: list[tuple[int, int]]) -> dict[Tunable, Figures]:
    return {
        DemandTracking(patience_seconds=60.0 + number): Figures(tau_u, 0, 0, 0, cost, 0, 0, 0)
        for number, (tau_u, cost) in enumerate(points)
    }


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(0, 9))
def test_nothing_betters_the_frontier_and_the_choice_is_on_it(
    points: list[tuple[int, int]], tau_u: int
) -> None:
    of = scored(points)
    best = {
        (one, cost)
        for one, cost in points
        if not any((x, y) != (one, cost) and x <= one and y <= cost for x, y in points)
    }
    found = frontier(of)
    assert [rank(of[policy]) for policy in found] == sorted((cost, one) for one, cost in best)
    chosen = cheapest(of, tau_u)
    able = [policy for policy in found if of[policy].tau_u <= tau_u]
    assert chosen == (able[0] if able else None)
