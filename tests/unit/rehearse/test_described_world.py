"""A rehearsal in a described world: the daemon's engine meets what the operator wrote."""

from dataclasses import replace

from controller_asg.model.group import Group, Image, LaunchParameters
from controller_asg.model.lifecycle_hook import LifecycleHook
from controller_asg.model.scaling_policy import TargetTracking, Thresholds
from controller_asg.rehearse.whole_group import BEGIN
from controller_asg.simulate.described import Lived, Outage, Surroundings, live

HALF_AN_HOUR = 180  # ticks
GROUP = Group(
    "web",
    LaunchParameters(Image("ami-00000000")),
    min_size=3,
    max_size=12,
    policies=(TargetTracking(metric="cpu_percent", target=60),),
)


def lived(demand: float = 3.0, **surroundings: object) -> Lived:
    return live([demand] * HALF_AN_HOUR, GROUP, Surroundings(**surroundings), BEGIN)  # type: ignore[arg-type]


def test_an_outage_takes_its_zone_and_the_others_carry_the_load() -> None:
    calm = lived(launch_delay_seconds=(30.0,))
    assert set(calm.schedule.in_service) == {5}
    hit = lived(launch_delay_seconds=(30.0,), outages=(Outage("us-east-1a", 600.0, 600.0),))
    assert min(hit.schedule.in_service[55:65]) < 5
    assert hit.schedule.in_service[75:] == [5] * (HALF_AN_HOUR - 75)
    assert hit.launches > calm.launches == 0


def test_deaths_and_failed_launches_follow_the_seed() -> None:
    rough = [lived(hours_between_failures=0.5, failed_launches_percent=30, seed=seed) for seed in (1, 1, 2)]
    assert rough[0] == rough[1] != rough[2]
    assert rough[0].deaths > 0
    assert rough[0].launches > rough[0].deaths, "some launches failed, and were made good"


def test_longer_boots_leave_a_rise_short_for_longer() -> None:
    rise = [2.0] * 60 + [6.0] * 120
    short = [
        sum(each < 6 for each in live(rise, GROUP, Surroundings((delay,)), BEGIN).schedule.in_service[60:])
        for delay in (20.0, 300.0)
    ]
    assert short[1] >= short[0] + 25, "280 s later, in ticks of 10 s"


def test_a_groups_hooks_and_drain_hold_nothing_up_where_nobody_carries_them_out() -> None:
    rise = [2.0] * 60 + [6.0] * 60 + [2.0] * 60
    hooks = tuple(LifecycleHook(f"on-{when}", when) for when in ("launch", "terminate"))  # type: ignore[arg-type]
    plain, hooked = (
        live(rise, group, Surroundings((30.0,)), BEGIN)
        for group in (GROUP, replace(GROUP, lifecycle_hooks=hooks, drain=True))
    )
    assert plain == hooked


def test_the_first_instances_are_not_taken_for_idle_while_the_others_boot() -> None:
    by_thresholds = replace(GROUP, policies=(Thresholds(),))
    end = live([4.0] * 6, by_thresholds, Surroundings(launch_delay_seconds=(62.0, 180.0)), BEGIN)
    assert end.schedule.in_service[0] == 7
