"""The world's rules, and what no policy may do in it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.rehearse.baselines import BASELINES
from controller_asg.rehearse.follow import demand_tracking
from controller_asg.rehearse.load import demand, read_trace
from controller_asg.rehearse.world import Follower, Schedule, Seen, rehearse, write_capacity

FOLLOWERS: dict[str, Callable[[], Follower]] = {
    **BASELINES,
    "demand_tracking": lambda: demand_tracking(DemandTracking()),
}


def orders(*wishes: int) -> Follower:
    return lambda seen: wishes[min(seen.tick, len(wishes) - 1)]


def wild_demand(seed: int) -> list[float]:
    """Hours of steps, spikes and calm."""
    chance = random.Random(seed)
    ticks: list[float] = []
    while len(ticks) < 2000:
        ticks += [chance.choice((2.0, 5.0, 30.0)) * chance.uniform(0.8, 1.2)] * chance.randrange(1, 120)
    return ticks[:2000]


def test_an_instance_serves_two_minutes_after_its_launch_and_goes_at_once() -> None:
    schedule = rehearse([3.0] * 16, orders(5, *[6] * 13, 2))
    assert schedule.desired == [5, *[6] * 13, 2, 2]
    assert schedule.in_service == [*[5] * 13, 6, 2, 2]


def test_the_maximum_is_twice_the_peak_and_the_minimum_one() -> None:
    assert rehearse([3.0] * 2, orders(99, -1)).desired == [6, 1]


def test_those_still_booting_go_first_and_the_youngest_before_the_others() -> None:
    demand_of_fifty = [50.0] * 14
    wishes = (84, 86, 90, 85, *[85] * 10)
    schedule = rehearse(demand_of_fifty, orders(*wishes))
    assert schedule.in_service[0] == 84
    assert schedule.desired[2:4] == [90, 85]
    assert schedule.in_service[12:] == [84, 85], (
        "of the two of tick 1 one is left, of the four of tick 2 none"
    )


def test_a_policy_sees_the_tick_before_as_it_was_served() -> None:
    seen: list[Seen] = []

    def follow(each: Seen) -> int:
        seen.append(each)
        return 8

    rehearse([3.0, 6.0, 3.0], follow)
    assert seen == [Seen(0, 0.0, 0, 5, 0, 5), Seen(1, 0.6, 5, 5, 3, 8), Seen(2, 1.0, 5, 5, 3, 8)]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_the_past_is_blind(name: str) -> None:
    """With the future turned round, nothing before it may change."""
    needed = wild_demand(1)
    turned = needed[:1200] + needed[1200:][::-1]
    first, second = (rehearse(each, FOLLOWERS[name]()).desired for each in (needed, turned))
    assert first[:1201] == second[:1201]
    assert first != second


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("delay_seconds", [30, 120, 300])
def test_no_capacity_serves_before_it_could(name: str, delay_seconds: int) -> None:
    schedule = rehearse(wild_demand(2), FOLLOWERS[name](), delay_seconds)
    ticks = delay_seconds // 10
    for tick in range(ticks, len(schedule.desired)):
        assert schedule.in_service[tick] <= min(schedule.desired[tick - ticks : tick + 1])


def test_the_capacity_file_has_a_row_a_change(tmp_path: Path) -> None:
    path = tmp_path / "capacity.csv"
    write_capacity(Schedule([5, 5, 8, 8], [5, 5, 5, 8]), path)
    assert path.read_text() == "seconds,desired,in_service\n0,5,5\n20,8,5\n30,8,8\n"


def test_a_trace_goes_in_and_a_schedule_of_the_same_length_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("seconds,load\n0,100\n60,300\n120,100\n")
    assert len(rehearse(demand(read_trace(path)), orders(20)).desired) == 13


def test_a_policy_that_may_not_scale_in_does_not() -> None:
    desired = rehearse(
        [6.0] * 30 + [1.0] * 1000, demand_tracking(DemandTracking(disable_scale_in=True))
    ).desired
    assert desired == sorted(desired)
