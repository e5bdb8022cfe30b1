"""What is kept of what agents say, and who may say it."""

import asyncio

import pytest
from hand_driven import SETTINGS, World, member
from hypothesis import given, settings
from hypothesis import strategies as st

from controller_asg.model.agent_order import Drain
from controller_asg.model.instance import CommandEnd
from controller_asg.monitor.agent import MAX_READINGS
from controller_asg.monitor.fleet import WatchSettings
from controller_asg.monitor.session import MESSAGES_BURST, EndReason, Pace, SessionEnded

A, B = "i-0000000a", "i-0000000b"


def readings(world: World) -> list[tuple[float, float]]:
    """(age in seconds, cpu_percent) of what is kept of A, oldest first."""
    view = world.of(A)
    return [(view.as_of - sample.arrived_at, sample.values["cpu_percent"]) for sample in view.samples]


async def test_a_sample_wakes_its_group_and_is_in_the_view() -> None:
    world = World()
    session = world.join(A)
    world.wakes.clear()
    session.sample(1, {"cpu_percent": 42.0})
    assert world.wakes == [("web", "sample")]
    world.clock.advance(0.25)
    assert readings(world) == [(0.25, 42.0)]
    assert world.of(A).metrics == {"cpu_percent": 42.0}


async def test_a_heartbeat_is_a_fresh_reading_of_the_last_values_and_wakes_nobody() -> None:
    world = World()
    session = world.join(A)
    session.sample(1, {"cpu_percent": 42.0})
    world.wakes.clear()
    for sequence in (2, 3):
        world.clock.advance(1.0)
        session.heartbeat(sequence)
    assert readings(world) == [(2.0, 42.0), (1.0, 42.0), (0.0, 42.0)]
    assert world.wakes == []


async def test_a_heartbeat_before_the_first_sample_of_a_session_is_no_reading() -> None:
    world = World()
    session = world.join(A)
    session.sample(1, {"cpu_percent": 42.0})
    world.clock.advance(1.0)
    world.fleet.open(A, 7401, "0.1.0", "boot-1").heartbeat(1)
    assert readings(world) == [(1.0, 42.0)]


async def test_samples_survive_a_reconnect_but_not_a_reboot() -> None:
    world = World()
    session = world.join(A)
    session.sample(1, {"cpu_percent": 42.0})
    session.close()
    world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert len(world.of(A).samples) == 1
    world.fleet.register(A, 7401, "0.1.0", "boot-2")
    assert world.of(A).samples == ()
    assert world.of(A).metrics == {}


@pytest.mark.parametrize(("window", "interval"), [(1.0, 1.0), (0.5, 0.1), (5.0, 5.0)])
async def test_at_a_window_of_one_interval_only_the_newest_is_kept(window: float, interval: float) -> None:
    world = World(WatchSettings(2.5, 1.0, interval, window))
    session = world.join(A)
    for sequence in range(1, 10):
        session.sample(sequence, {"cpu_percent": float(sequence)})
        world.clock.advance(interval)
    (sample,) = world.of(A).samples
    assert sample.values == {"cpu_percent": 9.0}


async def test_samples_older_than_the_window_go_and_a_wider_window_keeps_more() -> None:
    world = World()
    session = world.join(A)
    for sequence in range(1, 31):
        world.clock.advance(1.0)
        session.sample(sequence, {"cpu_percent": float(sequence)})
    assert [age for age, _ in readings(world)] == [float(age) for age in range(9, -1, -1)]
    world.fleet.keep(60.0)
    for sequence in range(31, 101):
        world.clock.advance(1.0)
        session.sample(sequence, {"cpu_percent": float(sequence)})
    assert len(world.of(A).samples) == 60


async def test_a_reload_keeps_the_window_and_tells_every_session_the_pace() -> None:
    world = World()
    sessions = world.join(A, B)
    world.fleet.keep(30.0)
    for session in sessions:
        assert await session.next_order() == Pace(1.0)
    world.fleet.settings = WatchSettings(5.0, 2.0, sample_interval_seconds=0.2, window_seconds=1.0)
    assert world.fleet.settings.window_seconds == 30.0
    for session in sessions:
        assert await session.next_order() == Pace(0.2)


async def test_only_the_newest_settings_wait_for_a_slow_reader() -> None:
    world = World()
    session = world.join(A)
    for interval in (2.0, 3.0, 4.0):
        world.fleet.settings = WatchSettings(2.5, 1.0, interval, 10.0)
    world.fleet.send(A, Drain(30.0, "scale in"))
    assert await session.next_order() == Drain(30.0, "scale in")
    assert await session.next_order() == Pace(4.0)


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=400),
    window=st.floats(1.0, 3600.0),
    beats=st.booleans(),
)
def test_readings_are_bounded_ordered_and_end_with_the_newest(
    gaps: list[float], window: float, beats: bool
) -> None:
    async def play() -> None:
        world = World()
        world.fleet.keep(window)
        session = world.join(A)
        for sequence, gap in enumerate(gaps, 1):
            world.clock.advance(gap)
            if beats and sequence % 2 == 0:
                session.heartbeat(sequence)
            else:
                session.sample(sequence, {"cpu_percent": float(sequence)})
        ages, values = zip(*readings(world), strict=True)
        assert 1 <= len(ages) <= MAX_READINGS + 2
        assert list(ages) == sorted(ages, reverse=True)
        assert ages[-1] == 0.0
        assert ages[0] < window or len(ages) == 1
        newest = len(gaps) - (1 if beats and len(gaps) % 2 == 0 else 0)
        assert values[-1] == newest
        assert world.of(A).metrics["cpu_percent"] == newest

    asyncio.run(play())


async def test_metrics_hold_the_newest_of_each_while_a_kept_sample_has_it() -> None:
    world = World()
    session = world.join(A)
    session.sample(1, {"cpu_percent": 1.0, "app.queue": 7.0})
    world.clock.advance(1.0)
    session.sample(2, {"cpu_percent": 2.0})
    assert world.of(A).metrics == {"cpu_percent": 2.0, "app.queue": 7.0}
    world.clock.advance(10.0)
    session.sample(3, {"cpu_percent": 3.0})
    assert world.of(A).metrics == {"cpu_percent": 3.0}


async def test_a_view_has_the_expected_of_its_group_only() -> None:
    world = World()
    world.fleet.expect([member(A, "web"), member(B, "batch")])
    assert set(world.fleet.view("web")) == {A}
    assert set(world.fleet.view("batch")) == {B}
    assert dict(world.fleet.view("none")) == {}
    world.fleet.expect([member(A, "batch")])
    assert dict(world.fleet.view("web")) == {}
    assert set(world.fleet.view("batch")) == {A}
    assert world.fleet.member(B) is None


async def ended(session) -> EndReason:
    try:
        while True:
            await asyncio.wait_for(session.next_order(), 1)
    except SessionEnded as end:
        return end.reason


async def test_a_forgotten_instance_loses_its_session_and_starts_anew() -> None:
    world = World()
    session = world.join(A)
    world.fleet.expect([])
    assert await ended(session) is EndReason.FORGOTTEN
    world.fleet.expect([member(A)])
    assert not world.fleet.registered(A)
    session.sample(1, {"cpu_percent": 99.0})
    session.close()
    assert world.of(A).samples == ()


async def test_another_address_is_another_speaker() -> None:
    world = World()
    session = world.join(A)
    world.fleet.unregister(A, requested=True)
    world.fleet.expect([member(A, private_ip="10.0.0.2")])
    assert await ended(session) is EndReason.ADDRESS_CHANGED
    assert not world.fleet.registered(A)
    assert world.of(A).unregister_requested is True


async def test_an_address_that_ec2_no_longer_shows_stays() -> None:
    world = World()
    session = world.join(A)
    world.fleet.expect([member(A, private_ip="")])
    assert world.fleet.member(A).private_ip == "10.0.0.1"
    assert world.fleet.registered(A)
    session.sample(1, {"cpu_percent": 1.0})
    assert len(world.of(A).samples) == 1


async def test_an_address_that_becomes_known_changes_nothing_else() -> None:
    world = World()
    world.fleet.expect([member(A, private_ip="")])
    world.fleet.register(A, 7401, "", "")
    world.fleet.expect([member(A)])
    assert world.fleet.registered(A)


async def test_a_second_session_ends_the_first_whose_messages_no_longer_count() -> None:
    world = World()
    first = world.join(A)
    second = world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert await ended(first) is EndReason.REPLACED
    first.sample(1, {"cpu_percent": 1.0})
    first.close()
    second.sample(1, {"cpu_percent": 2.0})
    assert [sample.values for sample in world.of(A).samples] == [{"cpu_percent": 2.0}]
    assert world.fleet.send(A, Drain(1.0, "")) is True


async def test_a_flood_ends_the_session_but_the_backlog_of_a_minute_does_not() -> None:
    world = World()
    session = world.join(A)
    for sequence in range(int(MESSAGES_BURST)):
        session.sample(sequence, {})
    assert session._ended is None
    session.sample(9999, {"cpu_percent": 1.0})
    assert await ended(session) is EndReason.FLOOD
    assert world.of(A).metrics == {}


async def test_drain_needs_a_session_and_tells_how_it_ended() -> None:
    world = World()
    world.fleet.expect([member(A)])
    assert world.fleet.send(A, Drain(30.0, "scale in")) is False
    assert world.fleet.send(B, Drain(30.0, "scale in")) is False
    session = world.join(A)
    assert world.fleet.send(A, Drain(30.0, "scale in")) is True
    session.drain_progress(False, None, "")
    assert world.fleet.view("web")[A].drained is None
    session.drain_progress(True, 3, "failed")
    assert world.fleet.view("web")[A].drained == CommandEnd(3, "failed")
    assert world.woke("drained")
    assert world.fleet.send(A, Drain(30.0, "again")) is True
    assert world.fleet.view("web")[A].drained is None


async def test_settings_default_to_the_agents_port_of_the_role() -> None:
    assert SETTINGS.monitor_port == 7401
