"""Who counts as silent, when, and what our own stalls do to that."""

import asyncio
import itertools

import pytest
from hand_driven import SETTINGS, World, member
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from controller_asg.model.agent_order import Drain
from controller_asg.model.instance import CommandEnd
from controller_asg.monitor.fleet import (
    CALM_TICK_SECONDS,
    CONCURRENT_PINGS,
    LATE_SECONDS,
    SESSION_SILENCE_SECONDS,
    WatchSettings,
)
from controller_asg.monitor.session import EndReason, SessionEnded

A = "i-0000000a"


async def beat(world: World, session, seconds: float) -> None:
    """A well agent: a heartbeat a second."""
    for _ in range(round(seconds)):
        session.heartbeat(session.last_sequence + 1)
        await world.clock.run(1.0)


async def test_an_agent_that_beats_is_never_asked() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        await beat(world, session, 60)
        assert world.pinger.asked == []
        assert world.of(A).silent_seconds <= 1.0
        assert not world.woke("agent silent")


async def test_a_silent_agent_is_asked_at_silence_seconds_and_every_half_second_after() -> None:
    world = World()
    async with world.watching():
        world.join(A)
        began = world.clock.monotonic()
        await world.clock.run(4.5)
        asked = [at - began for at, *_ in world.pinger.asked]
        assert asked[0] == pytest.approx(2.55, abs=0.11)
        assert len(asked) == 4
        assert all(0.49 <= later - at <= 0.65 for at, later in itertools.pairwise(asked))
        view = world.of(A)
        assert view.ping_attempts == 4
        assert view.ping_failed_seconds == pytest.approx(world.clock.monotonic() - began - asked[0], abs=0.01)
        assert world.woke("agent silent")
        assert world.woke("ping failed")


async def test_a_frozen_machine_has_two_failed_pings_within_five_seconds() -> None:
    world = World()
    world.pinger.hanging.add(A)
    async with world.watching():
        world.join(A)
        await world.clock.run(5.0)
        assert world.of(A).ping_attempts >= 2
        assert world.pinger.most_under_way == 1


async def test_a_stream_that_breaks_is_asked_at_once() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        await world.clock.run(0.5)
        session.close()
        await world.clock.run(0.2)
        assert len(world.pinger.asked) == 1
        assert world.of(A).ping_attempts == 1
        assert world.of(A).silent_seconds < 1.0


async def test_a_clean_stop_is_asked_only_after_silence() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        world.fleet.unregister(A, requested=False)
        session.close()
        with pytest.raises(SessionEnded) as ended:
            await asyncio.wait_for(drop_orders(session), 1)
        assert ended.value.reason is EndReason.STOPPED
        await world.clock.run(2.4)
        assert world.pinger.asked == []
        await world.clock.run(0.3)
        assert len(world.pinger.asked) == 1
        assert world.of(A).unregister_requested is False


async def drop_orders(session) -> None:
    while True:
        await session.next_order()


async def test_a_wish_to_leave_is_shown_and_keeps_the_session_for_the_drain() -> None:
    world = World()
    session = world.join(A)
    world.fleet.unregister(A, requested=True)
    assert world.of(A).unregister_requested is True
    assert world.woke("agent left")
    assert world.fleet.send(A, Drain(30.0, "leaving")) is True
    session.drain_progress(True, 0, "done")
    assert world.of(A).drained == CommandEnd(0, "done")
    world.fleet.register(A, 7401, "0.1.0", "boot-2")
    assert world.of(A).unregister_requested is True, "a restart does not take the wish back"


async def test_an_answered_ping_ends_the_row_and_the_agent_is_asked_again_while_it_stays_silent() -> None:
    world = World()
    async with world.watching():
        world.join(A)
        await world.clock.run(4.0)
        assert world.of(A).ping_attempts > 0
        world.pinger.answering.add(A)
        await world.clock.run(0.7)
        view = world.of(A)
        assert (view.ping_attempts, view.ping_failed_seconds) == (0, None)
        assert view.silent_seconds > 4.0, "an answered ping does not make the stream well"
        assert world.woke("agent answers ping")
        asked = len(world.pinger.asked)
        await world.clock.run(2.0)
        assert len(world.pinger.asked) == asked
        world.pinger.answering.clear()
        await world.clock.run(1.5)
        assert world.of(A).ping_attempts > 0, "one that dies after its answer is found out"


async def test_any_message_ends_the_suspicion() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        await world.clock.run(4.0)
        session.heartbeat(1)
        view = world.of(A)
        assert (view.silent_seconds, view.ping_attempts, view.ping_failed_seconds) == (0.0, 0, None)
        assert world.woke("agent speaks again")


async def test_a_ping_that_fails_after_the_agent_spoke_again_does_not_count() -> None:
    world = World()
    world.pinger.hanging.add(A)
    async with world.watching():
        session = world.join(A)
        await world.clock.run(2.8)
        assert world.pinger.under_way == 1
        session.heartbeat(1)
        session.close()  # suspected anew, while the old question is still under way
        await world.clock.run(0.9)
        assert world.of(A).ping_attempts == 0


async def test_an_instance_never_heard_has_no_silence_and_is_not_asked() -> None:
    world = World()
    async with world.watching():
        world.fleet.expect([member(A)])
        await world.clock.run(30.0)
        assert world.of(A).silent_seconds is None
        assert world.pinger.asked == []


async def test_one_that_was_in_service_before_our_start_is_silent_from_when_it_was_expected() -> None:
    world = World()
    async with world.watching():
        world.fleet.expect([member(A, watch=True)])
        await world.clock.run(2.0)
        assert world.pinger.asked == []
        await world.clock.run(1.0)
        assert [asked[1:] for asked in world.pinger.asked] == [(A, "10.0.0.1", 7401)]
        assert world.of(A).silent_seconds == pytest.approx(3.0, abs=0.01)
        world.fleet.expect([member(A, watch=False)])
        assert world.of(A).silent_seconds is None


async def test_the_last_known_port_is_asked() -> None:
    world = World()
    async with world.watching():
        world.fleet.expect([member(A)])
        world.fleet.register(A, 9999, "0.1.0", "b")
        await world.clock.run(3.0)
        assert {asked[3] for asked in world.pinger.asked} == {9999}


async def test_a_stall_of_our_own_is_not_their_silence() -> None:
    world = World()
    with capture_logs() as logs:
        async with world.watching():
            session = world.join(A)
            await beat(world, session, 5)
            await world.clock.jump(3600.0)
            assert world.of(A).silent_seconds <= 1.0 + CALM_TICK_SECONDS
            assert world.pinger.asked == []
            session.heartbeat(100)
            await beat(world, session, 5)
            assert world.pinger.asked == []
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["monitor_stalled"]


async def test_a_view_asked_for_right_after_a_stall_shows_none_of_it() -> None:
    world = World()
    async with world.watching():
        world.join(A)
        world.clock.advance(3600.0)  # the engine's pass runs before the watch wakes
        assert world.of(A).silent_seconds <= CALM_TICK_SECONDS


async def test_a_ping_that_fails_over_our_own_stall_does_not_count() -> None:
    world = World()
    world.pinger.hanging.add(A)
    async with world.watching():
        world.join(A)
        await world.clock.run(2.8)
        assert world.pinger.under_way == 1
        await world.clock.jump(60.0)
        assert world.of(A).ping_attempts == 0
        await world.clock.run(2.0)
        assert world.of(A).ping_attempts >= 1, "the watch goes on after the stall"


async def test_a_bug_in_the_pinger_is_logged_and_is_no_evidence() -> None:
    world = World()
    world.pinger.crashing = True
    with capture_logs() as logs:
        async with world.watching():
            world.join(A)
            await world.clock.run(4.0)
            assert len(world.pinger.asked) >= 2
            assert world.of(A).ping_attempts == 0
    assert "ping_crashed" in {entry["event"] for entry in logs}


async def test_a_dead_network_has_no_more_pings_under_way_than_the_bound() -> None:
    world = World()
    ids = [f"i-{number:08x}" for number in range(1000)]
    world.pinger.hanging.update(ids)
    async with world.watching():
        world.join(*ids)
        await world.clock.run(12.0)
    assert world.pinger.most_under_way == CONCURRENT_PINGS
    assert {asked[1] for asked in world.pinger.asked} == set(ids), "each had its turn"


async def test_a_stream_that_stays_silent_is_closed_so_that_the_agent_makes_a_new_one() -> None:
    world = World()
    world.pinger.answering.add(A)
    async with world.watching():
        session = world.join(A)
        await session.next_order()
        await world.clock.run(SESSION_SILENCE_SECONDS + 0.5)
        with pytest.raises(SessionEnded) as ended:
            await asyncio.wait_for(session.next_order(), 1)
        assert ended.value.reason is EndReason.SILENT


async def test_at_a_slow_pace_one_lost_message_is_not_silence() -> None:
    slow = WatchSettings(2.5, 1.0, sample_interval_seconds=5.0, window_seconds=1.0)
    assert slow.silent_after_seconds == 10.5
    assert SETTINGS.silent_after_seconds == 2.5


async def test_a_fleet_at_rest_logs_nothing() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        with capture_logs() as logs:
            await beat(world, session, 30)
    assert logs == []


events = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.floats(0.05, 3.0)),
        st.tuples(st.just("stall"), st.floats(0.7, 4000.0)),
        st.tuples(st.sampled_from(["beat", "close", "open", "view"]), st.just(0.0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(story=events)
def test_silence_is_never_negative_nor_longer_than_the_time_we_listened(
    story: list[tuple[str, float]],
) -> None:
    async def play() -> None:
        world = World()
        async with world.watching():
            session, sequence, listened = world.join(A), 0, 0.0
            for what, seconds in story:
                if what == "run":
                    await world.clock.run(seconds)
                    listened += seconds + 0.05
                elif what == "stall":
                    await world.clock.jump(seconds)
                    # Of a stall, the part until the tick was due was listened to, and a short one passes unseen.
                    listened += min(seconds, CALM_TICK_SECONDS + LATE_SECONDS)
                elif what == "beat":
                    sequence += 1
                    session.heartbeat(sequence)
                elif what == "close":
                    session.close()
                elif what == "open":
                    session, sequence = world.fleet.open(A, 7401, "0.1.0", "boot-1"), 0
                view = world.of(A)
                assert 0.0 <= view.silent_seconds <= listened + 1e-6
                assert view.ping_failed_seconds is None or 0.0 <= view.ping_failed_seconds <= listened + 1e-6
                assert (view.ping_attempts == 0) == (view.ping_failed_seconds is None)

    asyncio.run(play())


@settings(max_examples=30, deadline=None)
@given(stalls=st.lists(st.floats(0.7, 100_000.0), min_size=1, max_size=6))
def test_our_stalls_kill_nobody_who_beats(stalls: list[float]) -> None:
    async def play() -> None:
        world = World()
        ids = [f"i-{number:08x}" for number in range(5)]
        async with world.watching():
            sessions = world.join(*ids)
            for sequence, stall in enumerate(stalls, 1):
                await world.clock.run(0.9)
                await world.clock.jump(stall)
                await world.clock.run(0.5)  # buffered messages come in only now
                for session in sessions:
                    session.heartbeat(sequence)
            assert world.pinger.asked == []
            assert not world.woke("agent silent")

    asyncio.run(play())
