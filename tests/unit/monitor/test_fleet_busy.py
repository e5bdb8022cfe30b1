"""What agents say of their work: leases, and hooks that they run."""

from hand_driven import World, member

from controller_asg.model.agent_order import Drain, Resume, RunHook
from controller_asg.model.instance import CommandEnd, Lease
from controller_asg.monitor.agent import MAX_HOOKS

A = "i-0000000a"


async def test_leases_are_unknown_until_told_and_each_change_wakes_the_group() -> None:
    world = World()
    session = world.join(A)
    assert world.of(A).leases is None
    world.wakes.clear()
    held = (Lease("nightly", "a report", session.now() + 60.0),)
    for leases in ((), held, held):
        session.leases(leases)
        assert world.of(A).leases == leases
    assert world.wakes == [("web", "busy"), ("web", "busy")]


async def test_a_lease_ends_at_its_time_and_one_without_an_end_does_not() -> None:
    world = World()
    session = world.join(A)
    endless = Lease("shell", "", None)
    session.leases((Lease("nightly", "", session.now() + 60.0), endless))
    world.clock.advance(59.9)
    assert len(world.of(A).leases) == 2
    world.clock.advance(0.2)
    assert world.of(A).leases == (endless,)


async def test_leases_survive_a_reconnect_but_not_a_reboot() -> None:
    world = World()
    session = world.join(A)
    session.leases((Lease("shell", "", None),))
    session.close()
    assert world.of(A).leases
    world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert world.of(A).leases
    world.fleet.register(A, 7401, "0.1.0", "boot-2")
    assert world.of(A).leases is None


async def test_a_stall_of_our_own_ends_no_lease() -> None:
    world = World()
    async with world.watching():
        session = world.join(A)
        session.leases((Lease("nightly", "", session.now() + 60.0),))
        await world.clock.jump(100.0)
        assert world.of(A).leases, "what renewed it may wait to be read"


async def test_a_hook_that_runs_and_one_that_ended_are_in_the_view_by_their_token() -> None:
    world = World()
    session = world.join(A)
    world.wakes.clear()
    for _ in range(3):
        session.hook_progress("t1", False, None, "")
    assert world.of(A).hooks == {"t1": None}
    session.hook_progress("t1", True, 3, "no cache")
    session.hook_progress("t2", False, None, "")
    assert world.of(A).hooks == {"t1": CommandEnd(3, "no cache"), "t2": None}
    assert world.wakes == [("web", "hook")] * 3


async def test_a_new_session_knows_the_ends_and_no_longer_what_ran() -> None:
    world = World()
    session = world.join(A)
    session.hook_progress("t1", True, 0, "")
    session.hook_progress("t2", False, None, "")
    session.close()
    assert set(world.of(A).hooks) == {"t1", "t2"}
    world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert world.of(A).hooks == {"t1": CommandEnd(0, "")}


async def test_hooks_are_bounded_and_the_oldest_goes_first() -> None:
    world = World()
    session = world.join(A)
    for number in range(MAX_HOOKS + 2):
        session.hook_progress(f"t{number}", True, 0, "")
    assert list(world.of(A).hooks) == [f"t{number}" for number in range(2, MAX_HOOKS + 2)]


async def test_a_newer_phase_takes_the_place_of_one_unsent_and_hooks_all_go_down() -> None:
    world = World()
    session = world.join(A)
    orders = [RunHook(f"t{number}", "warm", 60.0, "launch", "warm", "") for number in range(2)]
    for order in (*orders, Resume("stay"), orders[0]):
        assert world.fleet.send(A, order) is True
    assert [await session.next_order() for _ in range(3)] == [Resume("stay"), *orders]


async def test_messages_of_a_session_that_was_replaced_change_nothing() -> None:
    world = World()
    session = world.join(A)
    world.fleet.open(A, 7401, "0.1.0", "boot-1")
    session.leases(())
    session.hook_progress("t1", True, 0, "")
    assert (world.of(A).leases, world.of(A).hooks) == (None, {})


async def test_one_that_is_expected_again_after_it_was_forgotten_has_told_nothing() -> None:
    world = World()
    world.join(A).leases((Lease("shell", "", None),))
    world.fleet.expect([])
    world.fleet.expect([member(A)])
    assert world.of(A).leases is None


async def test_a_drain_that_runs_is_told_apart_from_one_nobody_heard_of_until_the_next_order() -> None:
    world = World()
    session = world.join(A)
    world.fleet.send(A, Drain(60.0, "scale in"))
    assert not world.of(A).draining
    session.drain_progress(finished=False, exit_code=None, output="")
    assert world.of(A).draining
    session.drain_progress(finished=True, exit_code=0, output="done")
    assert (world.of(A).draining, world.of(A).drained) == (False, CommandEnd(0, "done"))
    world.fleet.send(A, Resume("load"))
    assert (world.of(A).draining, world.of(A).drained) == (False, None)


async def test_a_lease_that_can_not_be_renewed_within_our_hearing_does_not_end() -> None:
    world = World()
    session = world.join(A)
    session.leases((Lease("nightly", "", session.now() + 30.0),))
    world.clock.advance(20.0)
    session.heartbeat(1)
    session.close()
    world.clock.advance(3600.0)
    assert world.of(A).leases, "its stream is down"
    session = world.fleet.open(A, 7401, "0.1.0", "boot-1")
    session.heartbeat(1)
    assert world.of(A).leases, "the new session has not told its leases yet"
    session.leases(())
    assert world.of(A).leases == ()


async def test_a_lease_ends_unheard_if_it_was_over_before_the_stream_broke() -> None:
    world = World()
    session = world.join(A)
    session.leases((Lease("nightly", "", session.now() + 30.0),))
    world.clock.advance(31.0)
    session.heartbeat(1)
    session.close()
    assert world.of(A).leases == ()


async def test_a_new_session_has_not_drained_until_it_says_so() -> None:
    world = World()
    session = world.join(A)
    session.drain_progress(False, None, "")
    session.close()
    assert world.of(A).draining
    session = world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert not world.of(A).draining
    session.drain_progress(True, 0, "")
    assert world.of(A).drained
    world.fleet.open(A, 7401, "0.1.0", "boot-1")
    assert world.of(A).drained is None


async def test_that_it_drains_already_answers_an_order_to_drain() -> None:
    world = World()
    world.join(A).drain_progress(False, None, "")
    world.fleet.send(A, Drain(60.0, "scale in"))
    assert world.of(A).draining
    world.fleet.send(A, Resume("load is back"))
    assert not world.of(A).draining


async def test_the_view_tells_for_how_long_orders_reach_it() -> None:
    world = World()
    session = world.join(A)
    world.clock.advance(3.0)
    assert world.of(A).in_session_seconds == 3.0
    session.close()
    assert world.of(A).in_session_seconds is None
