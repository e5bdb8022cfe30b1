"""Demand tracking, by example and by property."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.demand_tracking import Load, decide, measure, vote
from controller_asg.policy.serving import Fleet

POLICY = DemandTracking()
BEGIN = 1_800_000_000.0
LEAD_SECONDS = 120.0


def fleet(cpus: list[float | None], desired: int | None = None, warming: int = 0) -> Fleet:
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=() if cpu is None else (Sample(-0.5, {"cpu_percent": cpu}),))
        for n, cpu in enumerate(cpus)
    )
    return Fleet(members, len(cpus) if desired is None else desired, warming)


class Group:
    """A group that does at once what the policy says, with a demand that its instances share."""

    def __init__(self, size: int, policy: DemandTracking = POLICY, every_seconds: float = 10.0) -> None:
        self.policy, self.every_seconds = policy, every_seconds
        self.size, self.now, self.memory = size, BEGIN, DemandMemory()

    def run(self, demand: float, seconds: float, silent: int = 0) -> list[int]:
        """The sizes after each pass."""
        sizes = []
        for _ in range(round(seconds / self.every_seconds)):
            self.now += self.every_seconds
            share = min(1.0, demand / self.size)
            load = Load(share * (self.size - silent), self.size, silent, share >= 0.99)
            self.size = decide(self.policy, self.memory, load, self.size, 0, self.now, LEAD_SECONDS).capacity
            sizes.append(self.size)
        return sizes


def test_a_steady_demand_gets_the_least_headroom_after_patience() -> None:
    group = Group(20)
    assert set(group.run(10.0, 1780)) == {20}, "what has learnt nothing takes nothing away"
    group.run(10.0, 2 * 3600)
    assert 11 <= group.size <= 12


def test_a_rising_demand_is_answered_one_launch_ahead() -> None:
    group = Group(12)
    group.run(10.0, 3600)
    for minute in range(30):
        demand = 10.0 + minute / 2
        group.run(demand, 60)
        if minute > 2:
            assert group.size >= demand + 1, "what it will be when a launch called now serves"


@pytest.mark.parametrize("every_seconds", [1.0, 10.0])
def test_a_fivefold_step_from_sixty_percent_is_answered_by_one_scale_out(every_seconds: float) -> None:
    group = Group(20, every_seconds=every_seconds)
    group.run(12.0, 300)
    before = group.size
    sizes = [before, *group.run(60.0, 1800)]
    assert sum(after > size for size, after in itertools.pairwise(sizes)) == 1
    assert sizes[1] >= 60


def test_a_full_group_whose_launches_are_on_their_way_waits_for_them() -> None:
    memory = DemandMemory()
    decide(POLICY, memory, Load(6.0, 10, 0, False), 10, 0, BEGIN, LEAD_SECONDS)
    first = decide(POLICY, memory, Load(10.0, 10, 0, True), 10, 0, BEGIN + 10, LEAD_SECONDS)
    assert first.bold
    second = decide(
        POLICY, memory, Load(10.0, 10, 0, True), first.capacity, first.capacity - 10, BEGIN + 20, LEAD_SECONDS
    )
    assert second.capacity == first.capacity


def test_scaling_in_waits_for_ten_minutes_after_scaling_out_and_for_patience() -> None:
    group = Group(20)
    group.run(12.0, 3600)
    group.run(30.0, 60)
    grown = group.size
    assert set(group.run(8.0, 540)) == {grown}
    assert group.run(8.0, 120)[-1] < grown


def test_members_that_speak_again_are_no_trend() -> None:
    group = Group(20)
    group.run(16.0, 3600)
    size = group.size
    group.run(16.0, 120, silent=size // 2)
    assert set(group.run(16.0, 600)) == {size}


def test_a_group_held_at_a_bound_answers_a_rise_with_its_whole_headroom() -> None:
    """A wish to scale in that was never carried out must not count as a change."""
    memory, now = DemandMemory(), BEGIN
    for _ in range(360):
        now += 10
        decide(POLICY, memory, Load(4.0, 10, 0, False), 10, 0, now, LEAD_SECONDS)
    assert math.isinf(memory.scaled_in_at)


def test_a_reading_that_is_no_number_is_none() -> None:
    assert measure(POLICY, fleet([math.nan, 50.0])) == Load(0.5, 2, 1, False)
    assert measure(POLICY, fleet([math.inf])) is None


def test_ample_headroom_is_never_less_than_lean() -> None:
    sizes = []
    for headroom in ("lean", "normal", "ample"):
        chance, group = random.Random(1), Group(20, DemandTracking(headroom=headroom))
        for _ in range(8 * 60):
            group.run(10 * math.exp(chance.gauss(0, 0.2)), 60)
        sizes.append(group.size)
    assert sizes == sorted(sizes)


def test_when_no_one_reports_it_abstains_and_learns_nothing() -> None:
    memory = DemandMemory()
    vote(POLICY, memory, fleet([50.0]), BEGIN)
    before = memory.to_dict()
    abstained = vote(POLICY, memory, fleet([None, None]), BEGIN + 1)
    assert abstained.capacity is None
    assert memory.to_dict() == before


def test_silent_members_count_as_nothing_for_scaling_out_and_in_full_for_scaling_in() -> None:
    group = Group(20)
    group.run(16.0, 3600)
    size = group.size
    assert set(group.run(16.0, 7200, silent=size // 2)) == {size}


def test_a_line_tells_demand_trend_headroom_and_result() -> None:
    memory = DemandMemory()
    told = vote(POLICY, memory, fleet([60.0] * 10), BEGIN)
    assert told.reason == (
        "demand 6.0 of 10 in service; trend +0.0 in 140 s; headroom 20 % (nothing learnt yet); wants 7.2,"
        " 10 -> 10, too little learnt yet"
    )
    told = vote(POLICY, memory, fleet([100.0] * 9 + [None]), BEGIN + 10)
    assert told.capacity == 38
    assert "demand at least 9.0 of 10 in service (1 silent)" in told.reason
    assert "full, so the demand is unknown: a bold step" in told.reason


def test_a_days_season_raises_the_vote_only_when_forecasts_are_on() -> None:
    chance = random.Random(4)
    peaks = {}
    for forecast in ("auto", "off"):
        group = Group(12, DemandTracking(forecast=forecast), every_seconds=60.0)
        for minute in range(4 * 1440):
            group.run(20.0 if minute % 1440 in range(600, 640) else 8.0 * chance.uniform(0.95, 1.05), 60)
        group.run(8.0, 596 * 60)
        peaks[forecast] = max(group.run(8.0, 240))
    assert peaks["auto"] >= peaks["off"]


@st.composite
def passes(draw: st.DrawFn) -> list[tuple[float, Load, int, int]]:
    """(seconds since the pass before, load, desired, warming): irregular, with gaps and steps of the clock."""
    found = []
    for _ in range(draw(st.integers(1, 40))):
        serving = draw(st.integers(1, 30))
        silent = draw(st.integers(0, serving - 1))
        share = draw(st.floats(0, 1))
        load = Load(share * (serving - silent), serving, silent, share >= 0.99)
        seconds = draw(st.sampled_from([0.0, 0.2, 1.0, 10.0, 61.0, 4000.0, 200_000.0, -1.0, -7200.0]))
        found.append((seconds, load, draw(st.integers(1, 40)), draw(st.integers(0, 5))))
    return found


@given(passes())
@settings(deadline=None, max_examples=30)
def test_whatever_the_clock_does_the_numbers_stay_finite_and_json_loses_nothing(
    given_passes: list[tuple[float, Load, int, int]],
) -> None:
    memory, now = DemandMemory(), BEGIN
    for seconds, load, desired, warming in given_passes:
        now += seconds
        again = DemandMemory.from_dict(json.loads(json.dumps(memory.to_dict(), allow_nan=False)))
        wishes = [decide(POLICY, each, load, desired, warming, now, LEAD_SECONDS) for each in (memory, again)]
        assert wishes[0].capacity == wishes[1].capacity >= 1
        assert math.isfinite(wishes[0].wanted)
        assert again.to_dict() == memory.to_dict()


@given(share=st.floats(0.05, 0.95), more=st.floats(0.05, 0.95), serving=st.integers(1, 200))
def test_more_demand_never_votes_for_fewer_instances(share: float, more: float, serving: int) -> None:
    sizes = []
    for each in sorted((share, more)):
        memory = DemandMemory()
        for second in (0.0, 700.0, 1400.0):
            load = Load(each * serving, serving, 0, False)
            wish = decide(POLICY, memory, load, serving, 0, BEGIN + second, LEAD_SECONDS)
        sizes.append(wish.capacity)
    assert sizes[0] <= sizes[1]


def test_the_memory_is_bounded() -> None:
    memory, now = DemandMemory(), BEGIN
    for number in range(3000):
        now += 600.0
        load = Load(5.0 + number % 3, 10, 0, False)
        decide(POLICY, memory, load, 10, 0, now, LEAD_SECONDS)
    assert len(json.dumps(memory.to_dict())) < 400_000
    for _ in range(1000):
        now += 0.05
        decide(POLICY, memory, Load(5.0, 10, 0, False), 10, 0, now, LEAD_SECONDS)
    assert len(memory.recent) < 20


def test_one_in_its_warmup_carries_load_but_no_more_than_the_others() -> None:
    seen = fleet([60.0, 40.0])
    fresh = fleet([20.0, 100.0, None]).serving
    assert measure(POLICY, replace(seen, fresh=fresh)) == Load(1.0 + 0.2 + 0.5, 4, 0, False)
    assert measure(POLICY, replace(fleet([None]), fresh=fresh)) is None


@pytest.mark.parametrize(("queue", "capacity"), [(1.0, 15), (3.2, 40), (40.0, 63)])
def test_what_waits_for_a_full_cpu_sizes_the_step(queue: float, capacity: int) -> None:
    """Ten instances that were at 60 % are full. Without a run queue the demand is guessed to be five times as large."""
    memory = DemandMemory()
    for second in range(600):
        decide(POLICY, memory, Load(6.0, 10, 0, False), 10, 0, BEGIN + second, LEAD_SECONDS)
    values = {"cpu_percent": 100.0, "run_queue_per_cpu": queue}
    members = tuple(AgentView(f"i-{n}", 0.5, samples=(Sample(-0.5, values),)) for n in range(10))
    voted = vote(POLICY, memory, Fleet(members, 10, 0), BEGIN + 600)
    assert voted.capacity == capacity
    assert f"{min(queue, 5) * 10:.1f} with what waits: a bold step" in voted.reason
