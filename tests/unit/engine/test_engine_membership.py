"""Members that come and go by an operator's word, and freezes, through the real engine in a made-up world."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from controller_asg.model.errors import ConflictError, NotFoundError, SpecError
from controller_asg.model.hold import Hold, Process
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby, Move
from controller_asg.simulate.world import World
from tests.unit.engine.test_engine import WEB, play

CALM = {**WEB, "policies": []}


def hold(world: World, seconds: float = 60, everywhere: bool = False) -> Hold:
    now = world.clock.now()
    return Hold("anna", "a test", now, now + timedelta(seconds=seconds), everywhere)


def states(world: World) -> dict[str, str]:
    return {each.instance.instance_id: each.instance.state.value for each in world.engine.instances()}


async def grown(world: World, size: int = 3) -> list[str]:
    await world.apply(web=CALM)
    await world.engine.set_desired_capacity("web", size, "test")
    await world.until(lambda: len(world.in_service()) == size, 120)
    return world.in_service()


def test_what_stands_by_outlives_a_restart_and_its_agents_silence_and_comes_back() -> None:
    async def scene(world: World) -> None:
        one = (await grown(world))[0]
        order = EnterStandby((one,), True, "anna")
        assert await world.engine.move_instances(order, True) == ("web", (one,), 2)
        assert await world.engine.move_instances(order, False) == ("web", (one,), 2)
        await world.until(lambda: states(world)[one] == "Standby", 5)
        await world.crash()
        world.freeze(one)
        await world.start()
        await world.clock.sleep(60)
        assert states(world)[one] == "Standby"
        assert await world.engine.move_instances(order, False) == ("web", (), 2)
        world.agents.agent(one).behaviour.frozen = False
        back = ExitStandby((one,), "anna")
        assert await world.engine.move_instances(back, False) == ("web", (one,), 3)
        await world.until(lambda: len(world.in_service()) == 3, 30)

    world = play(scene)
    assert (world.ec2.calls["RunInstances"], world.ec2.calls["TerminateInstances"]) == (3, 0)


def after_commit(world: World) -> None:
    world.disk.after_commit = world.kill


def lost_answer(world: World) -> None:
    world.ec2.faults.lost_answers = 1
    world.loop.call_later(1.0, world.kill)


async def ordered(world: World, order: Move) -> None:
    """The controller may die before it answers; then wait until it has."""
    with suppress(ConnectionResetError):
        await world.ask(world.engine.move_instances(order, False, "web"))
    await world.clock.sleep(2)


@pytest.mark.parametrize("dies", [after_commit, lost_answer])
def test_a_crash_while_detaching_or_attaching_loses_nothing_and_doubles_nothing(
    dies: Callable[[World], None],
) -> None:
    """Killed between the journal and the call, and between the call and its answer."""

    async def scene(world: World) -> None:
        one = (await grown(world))[0]
        dies(world)
        await ordered(world, Detach((one,), True, "anna"))
        await world.start()
        await world.until(lambda: one not in states(world), 180)
        assert one not in world.alive()
        assert world.ec2.machines[one].alive
        assert len(world.in_service()) == 2
        dies(world)
        await ordered(world, Attach((one,), "anna"))
        await world.start()
        await world.until(lambda: len(world.in_service()) == 3, 60)
        assert one in world.in_service()
        assert world.engine.groups("web")[0].record.desired_capacity == 3

    world = play(scene)
    assert (world.ec2.calls["RunInstances"], world.ec2.calls["TerminateInstances"]) == (3, 0)


def test_what_may_not_be_attached_is_refused_before_anything_is_journalled() -> None:
    async def scene(world: World) -> None:
        one, two, _ = await grown(world)
        await world.apply(jobs={**CALM, "min_size": 0, "max_size": 1})
        refused = {one: "is InService in group web", "i-0fedcba9876543210": "EC2 knows no such instance"}
        for instance_id, says in refused.items():
            with pytest.raises((ConflictError, NotFoundError), match=says):
                await world.engine.move_instances(Attach((instance_id,), "anna"), False, "jobs")
        await world.engine.move_instances(Detach((one, two), False, "anna"), False)
        with pytest.raises(ConflictError, match="is Detaching in group web"):
            await world.engine.move_instances(Attach((one,), "anna"), False, "jobs")
        await world.until(lambda: one not in states(world), 180)
        with pytest.raises(ConflictError, match="above max_size 1"):
            await world.engine.move_instances(Attach((one, two), "anna"), False, "jobs")
        world.ec2.stop(two)
        await world.clock.sleep(5)
        with pytest.raises(ConflictError, match="is stopped"):
            await world.engine.move_instances(Attach((two,), "anna"), False, "jobs")
        zone = world.ec2.machines[one].zone
        others = [each for each in ("us-east-1a", "us-east-1b", "us-east-1c") if each != zone]
        elsewhere = {**CALM["launch"], "zones": others}
        await world.apply(far={**CALM, "min_size": 0, "max_size": 1, "launch": elsewhere})
        with pytest.raises(ConflictError, match=f"is in {zone}, and the group in {', '.join(others)}"):
            await world.engine.move_instances(Attach((one,), "anna"), False, "far")
        await world.engine.move_instances(Attach((one,), "anna"), False, "jobs")
        await world.until(lambda: world.in_service("jobs") == [one], 60)
        both = (one, world.in_service()[0])
        with pytest.raises(SpecError, match="several groups: jobs, web"):
            await world.engine.move_instances(EnterStandby(both, True, "anna"), False)

    play(scene)


def test_what_is_attached_to_a_group_that_is_deleted_meanwhile_is_left_running_and_without_its_tags() -> None:
    async def scene(world: World) -> None:
        one = (await grown(world))[0]
        await world.apply(jobs={**CALM, "min_size": 0, "max_size": 1})
        await world.engine.move_instances(Detach((one,), True, "anna"), False)
        await world.until(lambda: one not in states(world), 180)
        world.ec2.faults.lost_answers = 1
        await world.engine.move_instances(Attach((one,), "anna"), False, "jobs")
        assert await world.engine.delete_group("jobs", False, False)
        await world.until(lambda: world.ec2.machines[one].group == "jobs", 30)
        await world.until(lambda: not world.ec2.machines[one].group, 60)
        assert world.ec2.machines[one].alive
        await world.until(lambda: not [f for f in world.engine.findings() if f.where == one], 30)

    play(scene)


def test_frozen_groups_do_nothing_even_new_ones_until_the_freeze_ends_by_itself() -> None:
    async def scene(world: World) -> None:
        one = (await grown(world))[0]
        everything = tuple(Process)
        assert await world.engine.suspend("", everything, hold(world, 60, everywhere=True), False) == ("web",)
        await world.apply(jobs={**CALM, "min_size": 1})
        world.freeze(one)
        await world.crash()
        await world.start()
        assert world.engine.status().summary == "2 groups, 3 of 4 in service, 2 frozen"
        for validate_only in (True, False):
            with pytest.raises(ConflictError, match=r"Terminate is suspended until .* by anna: a test"):
                await world.engine.terminate_instance(one, True, "bob", validate_only)
        await world.clock.sleep(45)
        assert (world.ec2.calls["RunInstances"], world.ec2.calls["TerminateInstances"]) == (3, 0)
        (status,) = world.engine.groups("web")
        assert "Frozen" in [condition.kind for condition in status.conditions]
        decided = (await world.engine.decisions("web"))[0]
        assert f"would take {one} for unhealthy" in decided.steps[0].reason
        await world.until(lambda: not world.engine.groups("jobs")[0].record.suspended, 30)
        await world.until(lambda: len(world.in_service("jobs")) == 1, 60)
        await world.until(lambda: one not in states(world), 120)

    play(scene)


def test_a_freeze_is_obeyed_while_ec2_does_not_answer_and_thawing_changes_once() -> None:
    async def scene(world: World) -> None:
        world.ec2.faults.unreachable = True
        assert await world.engine.suspend("web", tuple(Process), hold(world), True) == ("web",)
        assert not world.engine.groups("web")[0].record.suspended
        await world.engine.suspend("web", tuple(Process), hold(world, 3600), False)
        world.ec2.faults.unreachable = False
        world.ec2.stop(world.in_service()[0])
        await world.clock.sleep(30)
        assert world.ec2.calls["TerminateInstances"] == 0
        assert await world.engine.resume("", tuple(Process), False) == ("web",)
        assert await world.engine.resume("", tuple(Process), False) == ()
        await world.until(lambda: len(world.in_service()) == 2, 120)

    play(scene)


@pytest.mark.parametrize(
    ("protection", "refused"),
    [("none", ()), ("prevent-force-deletion", (True,)), ("prevent-all-deletion", (True, False))],
)
def test_deletion_protection_refuses_as_ec2_does(protection: str, refused: tuple[bool, ...]) -> None:
    async def scene(world: World) -> None:
        await world.apply(empty={**CALM, "min_size": 0, "deletion_protection": protection})
        for force in (True, False):
            if force in refused:
                with pytest.raises(ConflictError, match="apply it with deletion_protection: none first"):
                    await world.engine.delete_group("empty", force, True)
            else:
                assert await world.engine.delete_group("empty", force, True)

    play(scene)
