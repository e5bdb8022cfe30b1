"""The real engine in a made-up world: what it does when things go well, and when they don't."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.model.activity import ActivityStatus
from controller_asg.model.errors import (
    CloudError,
    ConflictError,
    FencedError,
    NotFoundError,
    SpecError,
    StoreError,
)
from controller_asg.simulate.ec2 import BAD_IMAGE
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.world import World

WEB: dict[str, Any] = {
    "launch": {"image": {"id": "ami-0123456789abcdef0"}},
    "policies": [{"type": "thresholds"}],
    "min_size": 2,
    "max_size": 5,
    "default_instance_warmup_seconds": 0,
}


def play(scene: Callable[[World], Coroutine[Any, Any, None]], seed: int = 1) -> World:
    """Run a scene in a world whose group `web` is at its minimum and in service."""

    async def whole() -> World:
        world = World(seed)
        await world.start()
        await world.apply(web=WEB)
        await world.until(lambda: len(world.in_service()) == 2, 120)
        await scene(world)
        await world.stop()
        return world

    return run_virtual(whole(), VirtualLoop())


def test_a_load_step_launches_within_a_second_and_the_instance_comes_into_service() -> None:
    async def scene(world: World) -> None:
        hot, started = world.in_service()[0], world.clock.monotonic()
        world.loads[hot] = 95.0
        await world.until(lambda: world.ec2.calls["RunInstances"] == 3, 2)
        assert world.clock.monotonic() - started <= 1.5
        world.loads[hot] = 50.0
        await world.until(lambda: len(world.in_service()) == 3, 60)

    world = play(scene)
    assert len(world.ec2.alive()) == 3


def test_the_idle_instance_itself_goes() -> None:
    async def scene(world: World) -> None:
        await world.engine.set_desired_capacity("web", 3, "test")
        await world.until(lambda: len(world.in_service()) == 3, 120)
        idle = world.in_service()[1]
        world.loads[idle] = 2.0
        await world.until(lambda: idle not in [c.instance_id for c in world.ec2.alive()], 60)

    assert len(play(scene).ec2.alive()) == 2


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_dead_instance_is_judged_within_five_seconds_and_replaced(how: str) -> None:
    async def scene(world: World) -> None:
        victim = world.in_service()[0]
        if how == "killed":
            world.ec2.stop(victim)
        else:
            world.freeze(victim)
        await world.until(lambda: world.ec2.calls["RunInstances"] == 3, 5)
        await world.until(lambda: victim not in [c.instance_id for c in world.ec2.alive()], 120)
        await world.until(lambda: len(world.in_service()) == 2, 120)

    assert len(play(scene).ec2.alive()) == 2


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2, 0.4, 1.0, 5.0, 21.0])
def test_a_controller_killed_during_a_launch_launches_nothing_twice(moment: float) -> None:
    async def scene(world: World) -> None:
        world.loads[world.in_service()[0]] = 95.0
        await world.clock.sleep(1.0 + moment)
        await world.crash()
        world.loads.clear()
        await world.clock.sleep(3)
        await world.start()
        await world.until(lambda: not world.disk.activities or _settled(world), 200)

    def _settled(world: World) -> bool:
        desired = world.disk.groups["web"].desired_capacity
        return len(world.in_service()) == desired == len(world.ec2.alive())

    world = play(scene)
    tokens = [token for token, _ in world.ec2.launches]
    assert len(tokens) == len(set(tokens))


def test_an_answer_lost_after_the_launch_makes_no_second_instance() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.lost_answers = 2
        await world.engine.set_desired_capacity("web", 3, "test")
        await world.until(lambda: len(world.in_service()) == 3, 120)
        await world.clock.sleep(60)

    assert len(play(scene).ec2.alive()) == 3


def test_a_lost_store_finds_the_same_fleet_and_changes_nothing() -> None:
    async def scene(world: World) -> None:
        await world.engine.set_desired_capacity("web", 4, "test")
        await world.until(lambda: len(world.in_service()) == 4, 120)
        launches = world.ec2.calls["RunInstances"]
        await world.crash()
        world.disk.__init__()  # type: ignore[misc]
        await world.start()
        await world.apply(web=WEB)
        await world.until(lambda: len(world.in_service()) == 4, 60)
        await world.clock.sleep(120)
        assert world.ec2.calls["RunInstances"] == launches
        assert "TerminateInstances" not in world.ec2.calls

    assert len(play(scene).ec2.alive()) == 4


def test_a_cut_network_of_the_controller_replaces_nobody() -> None:
    async def scene(world: World) -> None:
        launches = world.ec2.calls["RunInstances"]
        world.cut()
        await world.clock.sleep(120)
        assert world.engine.status().cloud_fault
        world.mend()
        await world.clock.sleep(60)
        assert world.ec2.calls["RunInstances"] == launches

    assert len(play(scene).ec2.alive()) == 2


def test_a_full_zone_is_left_out_at_once() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.full = {("us-east-1c", "")}
        await world.engine.set_desired_capacity("web", 5, "test")
        await world.until(lambda: len(world.in_service()) == 5, 60)

    assert "us-east-1c" not in {c.zone for c in play(scene).ec2.alive()}


def test_throttling_is_waited_out_and_is_no_failed_launch() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.errors = ["RequestLimitExceeded"] * 3
        await world.engine.set_desired_capacity("web", 3, "test")
        await world.until(lambda: len(world.in_service()) == 3, 120)

    world = play(scene)
    assert all(a.status is ActivityStatus.SUCCESSFUL for a in world.disk.activities.values())


def test_a_launch_that_ec2_refuses_is_repeated_ever_more_slowly() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.errors = ["InvalidAMIID.NotFound"] * 1000
        before = world.ec2.calls["RunInstances"]
        await world.engine.set_desired_capacity("web", 3, "test")
        await world.clock.sleep(600)
        assert 5 <= world.ec2.calls["RunInstances"] - before <= 10
        (status,) = world.engine.groups("web")
        assert "LaunchesFailing" in [condition.kind for condition in status.conditions]

    play(scene)


def test_while_the_store_refuses_nothing_is_done_and_afterwards_everything() -> None:
    async def scene(world: World) -> None:
        world.disk.broken = "the disk is full"
        launches = world.ec2.calls["RunInstances"]
        with pytest.raises(StoreError):
            await world.engine.set_desired_capacity("web", 4, "test")
        world.loads[world.in_service()[0]] = 95.0
        await world.clock.sleep(30)
        assert world.ec2.calls["RunInstances"] == launches
        assert world.engine.status().store_fault
        world.disk.broken = ""
        await world.until(lambda: world.ec2.calls["RunInstances"] > launches, 10)

    play(scene)


def test_a_commit_that_landed_though_it_was_told_to_have_failed_launches_nothing_twice() -> None:
    async def scene(world: World) -> None:
        world.disk.lost_answers = 1
        world.loads[world.in_service()[0]] = 95.0
        await world.until(lambda: not world.disk.lost_answers, 10)
        world.loads.clear()
        await world.until(lambda: len(world.in_service()) == 3, 60)
        await world.clock.sleep(30)
        assert not [a for a in world.disk.activities.values() if a.status is ActivityStatus.IN_PROGRESS]

    assert len(play(scene).ec2.alive()) == 3


def test_a_controller_whose_store_was_taken_over_stops() -> None:
    async def scene(world: World) -> None:
        world.disk.epoch += 1
        world.loads[world.in_service()[0]] = 95.0
        launches = world.ec2.calls["RunInstances"]
        with pytest.raises(ExceptionGroup) as caught:
            await world.controller_end()
        assert caught.group_contains(FencedError, depth=2)
        assert world.ec2.calls["RunInstances"] == launches

    play(scene)


def test_ec2_is_asked_rarely_at_rest() -> None:
    async def scene(world: World) -> None:
        await world.clock.sleep(60)
        before = world.ec2.calls["DescribeInstances"]
        await world.clock.sleep(600)
        assert world.ec2.calls["DescribeInstances"] - before <= 61

    play(scene)


def test_orders_outside_of_the_bounds_are_refused_and_change_nothing() -> None:
    async def scene(world: World) -> None:
        with pytest.raises(SpecError, match="write 2 to 5"):
            await world.engine.set_desired_capacity("web", 6, "test")
        for validate_only in (True, False):
            with pytest.raises(ConflictError, match="max_size"):
                await world.engine.launch_instances("web", 4, "test", validate_only)
        with pytest.raises(NotFoundError, match="nothing was touched"):
            await world.engine.terminate_instance("i-0ffffffffffffffff", True, "test")
        with pytest.raises(NotFoundError, match="known groups: web"):
            world.engine.groups("wbe")
        with pytest.raises(ConflictError, match="2 instances"):
            await world.engine.delete_group("web", force=False, validate_only=False)
        assert world.disk.groups["web"].desired_capacity == 2

    play(scene)


def test_what_is_only_checked_is_told_the_size_and_changes_nothing() -> None:
    async def scene(world: World) -> None:
        one = world.in_service()[0]
        assert await world.engine.launch_instances("web", 3, "test", validate_only=True) == 5
        assert await world.engine.terminate_instance(one, True, "test", validate_only=True) == (
            "web",
            2,
            True,
        )
        assert await world.engine.launch_instances("web", 1, "test") == 3
        assert await world.engine.terminate_instance(one, True, "test", validate_only=True) == (
            "web",
            2,
            True,
        )
        assert await world.engine.terminate_instance(one, False, "test", validate_only=True) == (
            "web",
            3,
            True,
        )
        for _ in range(2):
            assert await world.engine.set_instance_health(one, False, "test", validate_only=True)
        assert one in world.in_service()
        assert await world.engine.terminate_instance(one, True, "test") == ("web", 2, True)
        with pytest.raises(ConflictError, match="on its way out"):
            await world.engine.set_instance_health(one, False, "test", validate_only=True)

    play(scene)


def test_a_group_takes_orders_from_the_moment_it_is_stored() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.slow_seconds = 3.0
        worker = {**WEB, "launch": {**WEB["launch"], "zones": ["us-east-1b"]}}
        applying = asyncio.create_task(world.engine.apply_groups({"worker": worker}, False))
        await world.until(lambda: len(world.engine.groups()) == 2, 60, every=0.001)
        assert not applying.done(), "EC2 is asked for its subnets meanwhile"
        assert await world.engine.set_desired_capacity("worker", 3, "test") == (2, 3)
        await applying

    play(scene)


def test_a_deleted_group_takes_its_instances_with_it() -> None:
    async def scene(world: World) -> None:
        assert await world.engine.delete_group("web", force=True, validate_only=False)
        await world.until(lambda: not world.ec2.alive(), 30)
        await world.until(
            lambda: all(a.status is not ActivityStatus.IN_PROGRESS for a in world.disk.activities.values()),
            30,
        )

    play(scene)


SAVE_LOGS = {"name": "save-logs", "transition": "terminate", "heartbeat_timeout_seconds": 600}


def test_who_waits_for_a_hook_goes_with_a_group_deleted_by_force_and_keeps_it_otherwise() -> None:
    async def scene(world: World) -> None:
        await world.apply(web={**WEB, "min_size": 0, "lifecycle_hooks": [SAVE_LOGS]})
        await world.engine.set_desired_capacity("web", 0, "test")
        await world.until(lambda: not world.in_service(), 10)
        await world.clock.sleep(60)
        assert len(world.alive()) == 2
        with pytest.raises(ConflictError, match="2 instances"):
            await world.engine.delete_group("web", force=False, validate_only=False)
        assert await world.engine.delete_group("web", force=True, validate_only=False)
        await world.until(lambda: not world.ec2.alive(), 30)

    play(scene)


def test_a_hook_outlives_the_controller_and_its_completion_ends_the_wait() -> None:
    async def scene(world: World) -> None:
        await world.apply(web={**WEB, "min_size": 0, "lifecycle_hooks": [SAVE_LOGS]})
        await world.engine.set_desired_capacity("web", 1, "test")
        await world.until(lambda: any(one.hooks for one in world.disk.instances.values()), 10)
        await world.crash()
        await world.start()
        (waiting,) = [i for i in world.disk.instances.values() if i.hooks]
        meant = LifecycleAction(token=waiting.hooks[0].token)
        named = await world.engine.complete_lifecycle_action(meant, "CONTINUE", "test")
        assert named == (waiting.instance_id, "save-logs")
        await world.until(lambda: waiting.instance_id not in world.alive(), 30)
        with pytest.raises(NotFoundError, match="is open"):
            await world.engine.complete_lifecycle_action(meant, "CONTINUE", "test")

    play(scene)


def test_applying_again_changes_nothing_and_validating_even_less() -> None:
    async def scene(world: World) -> None:
        applied, _ = await world.engine.apply_groups({"web": WEB}, validate_only=False)
        assert not applied[0].changed
        applied, _ = await world.engine.apply_groups({"web": {**WEB, "max_size": 7}}, validate_only=True)
        assert applied[0].changed
        assert world.disk.groups["web"].group.max_size == 5

    play(scene)


def test_applying_never_lowers_a_fleet_that_is_scaled_out() -> None:
    async def scene(world: World) -> None:
        await world.engine.set_desired_capacity("web", 4, "test")
        await world.engine.apply_groups(
            {"web": {**WEB, "initial_capacity": 2, "max_size": 6}}, validate_only=False
        )
        await world.clock.sleep(60)
        assert world.disk.groups["web"].desired_capacity == 4

    play(scene)


def test_a_decision_that_only_repeats_is_one_row_with_a_count() -> None:
    async def scene(world: World) -> None:
        world.loads = dict.fromkeys(world.in_service(), 2.0)
        await world.clock.sleep(200)
        held = [d for d in world.disk.decisions.values() if "min_size" in [s.name for s in d.steps]]
        assert len(held) == 1
        assert held[0].count > 60

    play(scene)


def test_ec2_that_never_answers_leaves_the_fleet_alone() -> None:
    async def scene(world: World) -> None:
        await world.crash()
        world.ec2.faults.unreachable = True
        with pytest.raises(TimeoutError):
            await world.start()
        assert isinstance(world.engine.status().cloud_fault, str)
        assert CloudError.__name__ not in world.engine.status().summary
        world.ec2.faults.unreachable = False
        await world.until(lambda: len(world.in_service()) == 2, 60)

    assert len(play(scene).ec2.alive()) == 2


def test_a_document_that_landed_though_its_commit_failed_is_managed_all_the_same() -> None:
    async def scene(world: World) -> None:
        world.disk.lost_answers = 1
        with pytest.raises(StoreError):
            await world.apply(worker={**WEB, "min_size": 1, "policies": []})
        await world.until(lambda: len(world.alive("worker")) == 1, 30)
        await world.until(lambda: len(world.in_service("worker")) == 1, 60)

    play(scene)


def test_a_broken_image_costs_three_instances_and_never_the_size() -> None:
    async def scene(world: World) -> None:
        six = {**WEB, "min_size": 6, "max_size": 9, "policies": [], "registration_timeout_seconds": 60}
        await world.apply(web=six)
        await world.until(lambda: len(world.in_service()) == 6, 120)
        await world.apply(web={**six, "min_size": 8, "launch": {"image": {"id": BAD_IMAGE}}})
        await world.until(lambda: len(world.in_service()) == 8, 300)
        for dead in world.in_service()[:2]:
            world.ec2.stop(dead)
        await world.until(lambda: len(world.in_service()) == 8, 300)
        await world.clock.sleep(600)
        assert sum(machine.image_id == BAD_IMAGE for machine in world.ec2.machines.values()) == 3
        assert len(world.in_service()) == 8
        (status,) = world.engine.groups("web")
        assert "LaunchVersionStopped" in [condition.kind for condition in status.conditions]

    play(scene)


@pytest.mark.parametrize("share", [0.34, 0.5, 1.0])
def test_a_partition_of_ten_minutes_replaces_nobody(share: float) -> None:
    async def scene(world: World) -> None:
        await world.apply(web={**WEB, "min_size": 6, "max_size": 9, "policies": []})
        await world.until(lambda: len(world.in_service()) == 6, 120)
        before, lost = dict(world.ec2.calls), world.in_service()[: round(6 * share)]
        world.agents.network.up.update(lost)
        world.agents.network.down.update(lost)
        await world.clock.sleep(600)
        world.agents.network.up.clear()
        world.agents.network.down.clear()
        await world.clock.sleep(60)
        for action in ("RunInstances", "TerminateInstances"):
            assert world.ec2.calls[action] == before.get(action, 0)
        assert len(world.in_service()) == 6

    play(scene)


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0])
def test_a_clock_that_steps_kills_nobody(seconds: float) -> None:
    async def scene(world: World) -> None:
        await world.engine.set_desired_capacity("web", 4, "test")
        await world.until(lambda: world.ec2.calls["RunInstances"] == 4, 5)
        world.clock.step(seconds)
        await world.until(lambda: len(world.in_service()) == 4, 60)
        assert "TerminateInstances" not in world.ec2.calls
        world.freeze(world.in_service()[0])
        await world.until(lambda: world.ec2.calls["RunInstances"] == 5, 10)

    play(scene)


async def _cut_short(world: World, call: Coroutine[Any, Any, Any], landed: Callable[[], bool]) -> None:
    """Whoever asked goes away once the store has it, and before it has answered."""
    usual, world.disk.commit_seconds = world.disk.commit_seconds, 1.0
    asked = asyncio.ensure_future(call)
    await world.until(landed, 10, every=0.05)
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    world.disk.commit_seconds = usual
    await world.clock.sleep(5)


def test_a_document_counts_though_whoever_applied_it_has_gone() -> None:
    async def scene(world: World) -> None:
        larger = {"web": {**WEB, "max_size": 9}}
        call = world.engine.apply_groups(larger, False)
        await _cut_short(world, call, lambda: world.disk.groups["web"].max_size == 9)
        await world.engine.set_desired_capacity("web", 3, "alice")
        assert world.disk.groups["web"].max_size == 9

    play(scene)


def test_a_group_is_deleted_though_whoever_deleted_it_has_gone() -> None:
    async def scene(world: World) -> None:
        call = world.engine.delete_group("web", True, False)
        await _cut_short(world, call, lambda: "web" not in world.disk.groups)
        assert world.engine.groups() == ()
        await world.until(lambda: not world.ec2.alive(), 120)

    play(scene)


def test_whoever_stops_waiting_for_a_group_holds_up_no_other() -> None:
    async def scene(world: World) -> None:
        await world.apply(api=WEB)
        lock = world.engine._reconcilers["web"].lock
        async with lock:
            asked = asyncio.ensure_future(world.engine.apply_groups({"api": WEB, "web": WEB}, False))
            await world.clock.sleep(30)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        async with asyncio.timeout(30):
            await world.engine.set_desired_capacity("api", 3, "alice")

    play(scene)


def test_an_order_to_a_group_that_is_deleted_meanwhile_is_answered() -> None:
    async def scene(world: World) -> None:
        world.disk.commit_seconds = 1.0
        deleting = asyncio.ensure_future(world.engine.delete_group("web", True, False))
        await world.clock.sleep(0.5)
        with pytest.raises(NotFoundError, match="deleted meanwhile"):
            async with asyncio.timeout(60):
                await world.engine.set_desired_capacity("web", 3, "alice")
        assert await deleting
        assert not await world.engine.delete_group("web", True, False)

    play(scene)


def test_two_groups_at_once_do_not_break_the_ceiling_of_all() -> None:
    async def whole() -> None:
        world = World(1, max_hourly_cost=3.0)
        await world.start()
        pair = [
            world.engine.apply_groups(
                {name: {**WEB, "launch": {**WEB["launch"], "instance_type": "t2.micro"}}}, False
            )
            for name in ("api", "web")
        ]
        ends = await asyncio.gather(*pair, return_exceptions=True)
        assert [type(end) for end in ends].count(SpecError) == 1
        await world.stop()

    run_virtual(whole(), VirtualLoop())


def test_a_group_whose_launch_is_not_answered_yet_is_not_deleted_without_force() -> None:
    async def scene(world: World) -> None:
        await world.apply(api={**WEB, "min_size": 0, "max_size": 1})
        await world.engine.set_desired_capacity("api", 1, "alice")
        with pytest.raises(ConflictError, match="has 0 instances, and more are on their way"):
            await world.engine.delete_group("api", False, False)

    play(scene)
