"""A group's demand by the minute: silence, a clock that steps, a store that refuses, a restart."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from controller_asg.engine.recording import KEPT_MINUTES, Recording
from controller_asg.model.instance import AgentView, Instance, LifecycleState, Sample
from controller_asg.planner.snapshot import Member
from controller_asg.policy.serving import Fleet
from controller_asg.simulate.world import World
from tests.unit.engine.test_engine import WEB, play

BEGIN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def played(recording: Recording, second: float, *cpu: float | None, clock: float = 0.0) -> None:
    """A pass at `second`, with an instance in service for each load; None is silent. `clock` is the wall's error."""
    fleet = Fleet(
        tuple(
            AgentView("i", 0.0, samples=() if value is None else (Sample(0.0, {"cpu_percent": value}),))
            for value in cpu
        ),
        len(cpu),
        0,
    )
    at = BEGIN + timedelta(seconds=second + clock)
    member = Member(Instance("i", "web", LifecycleState.IN_SERVICE, at, at, "", ""), None, None, 0.0)
    recording.pass_made(fleet, (member,) * len(cpu), at, second)


def minutes(recording: Recording) -> list[tuple[int, float, float]]:
    return [
        ((m.minute_at - BEGIN).seconds // 60, m.demand, m.in_service) for m in recording.finished.values()
    ]


def test_a_minute_is_the_mean_of_those_that_report_and_silence_is_absent() -> None:
    recording = Recording("web")
    for second in range(60):
        played(recording, second, 50.0 if second < 30 else 150.0, 20.0, None)
    for second in range(60, 120):
        played(recording, second, None, None)
    for second in range(120, 150):
        played(recording, second, 0.0)
    played(recording, 180.0, None)
    assert [(n, round(demand, 9), size) for n, demand, size in minutes(recording)] == [
        (0, 0.95, 3.0),
        (2, 0.0, 1.0),
    ]


def test_a_clock_set_back_records_the_minute_anew_and_a_save_under_way_loses_none_of_it() -> None:
    recording = Recording("web")
    played(recording, 0, 10.0)
    played(recording, 60, 20.0)
    under_way = tuple(recording.finished.values())
    played(recording, 120, 30.0, clock=-120)
    played(recording, 180, 30.0, clock=-120)
    recording.saved(under_way)
    assert minutes(recording) == [(0, 0.3, 1.0), (1, 0.2, 1.0)]


def test_a_store_that_refuses_for_long_costs_the_oldest_minutes() -> None:
    recording = Recording("web")
    for minute in range(KEPT_MINUTES + 11):
        played(recording, 60.0 * minute, 50.0)
    assert [n for n, *_ in minutes(recording)] == list(range(10, KEPT_MINUTES + 10))


def test_every_group_is_recorded_across_a_full_store_and_a_crash() -> None:
    async def scene(world: World) -> None:
        await world.apply(web=WEB)
        await world.clock.sleep(300)
        world.disk.broken = "no space left"
        await world.clock.sleep(300)
        world.disk.broken = ""
        await world.clock.sleep(70)
        await world.crash()
        await world.start()
        await world.clock.sleep(300)
        found = await world.engine.demand("web", BEGIN - timedelta(days=9999), world.clock.now())  # type: ignore[union-attr]
        at = [minute.minute_at for minute in found]
        assert at == sorted(set(at))
        gaps = [after - before for before, after in pairwise(at)]
        assert max(gaps) <= timedelta(minutes=4), "a crash costs what was not saved, a full store nothing"
        assert len(at) >= 10
        assert {minute.in_service for minute in found[-2:]} == {float(len(world.in_service()))}

    play(scene)
