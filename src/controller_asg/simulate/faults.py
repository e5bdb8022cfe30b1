"""Everything that may go wrong in a world, one function a kind: it begins, and says how it ends.

A fault that is over leaves nothing behind it but what it did: after `end` the network carries, EC2 answers, the disk
takes what it is given. Each names whom it touched, so that the invariants know whose death was no fault of ours.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from controller_asg.model.instance import Ec2State
from controller_asg.simulate.agents import Behaviour
from controller_asg.simulate.ec2 import ZONES
from controller_asg.simulate.store import COMMIT_SECONDS
from controller_asg.simulate.world import World


class FaultKind(StrEnum):
    """By their side: EC2's, our own, the network's, the agents'."""

    ANSWER_LOST = "answer_lost"
    INTERNAL_ERROR_AFTER_WORK = "internal_error_after_work"
    ACCOUNT_BUSY = "account_busy"
    ZONE_FULL = "zone_full"
    QUOTA = "quota"
    DESCRIBE_LAGS = "describe_lags"
    PAGES_CHANGE = "pages_change"
    EC2_SLOW = "ec2_slow"
    EC2_UNREACHABLE = "ec2_unreachable"
    DIES_PENDING = "dies_pending"
    STOPPED_FROM_OUTSIDE = "stopped_from_outside"
    TERMINATED_BY_ANOTHER = "terminated_by_another"
    SPOT_INTERRUPTION = "spot_interruption"
    STATUS_IMPAIRED = "status_impaired"
    ZONE_OUTAGE = "zone_outage"
    CRASH = "crash"
    CRASH_BEFORE_COMMIT = "crash_before_commit"
    CRASH_AFTER_COMMIT = "crash_after_commit"
    LONG_DOWN = "long_down"
    STORE_FULL = "store_full"
    STORE_LOCKED = "store_locked"
    STORE_SLOW = "store_slow"
    STORE_LOST = "store_lost"
    COMMIT_ANSWER_LOST = "commit_answer_lost"
    CLOCK_FORWARD = "clock_forward"
    CLOCK_BACKWARD = "clock_backward"
    STALL = "stall"
    CONTROLLER_CUT = "controller_cut"
    AGENTS_CUT = "agents_cut"
    PARTITION = "partition"
    WAY_UP_CUT = "way_up_cut"
    WAY_DOWN_CUT = "way_down_cut"
    MESSAGES_LATE = "messages_late"
    MESSAGES_LOST = "messages_lost"
    FREEZE = "freeze"
    FREEZE_AND_THAW = "freeze_and_thaw"
    AGENT_RESTART = "agent_restart"
    AGENT_FLAPS = "agent_flaps"
    AGENT_LIES = "agent_lies"
    AGENT_REGISTERS_TWICE = "agent_registers_twice"
    AGENT_OF_ANOTHER_VERSION = "agent_of_another_version"
    AGENT_CLAIMS_ANOTHER = "agent_claims_another"
    NEVER_REGISTERS = "never_registers"


# Two witnesses may rightly speak against an instance that one of these touches, or against all.
EXCUSING = frozenset(
    {
        FaultKind.STOPPED_FROM_OUTSIDE,
        FaultKind.TERMINATED_BY_ANOTHER,
        FaultKind.SPOT_INTERRUPTION,
        FaultKind.ZONE_OUTAGE,
        FaultKind.PARTITION,
        FaultKind.WAY_UP_CUT,
        FaultKind.WAY_DOWN_CUT,
        FaultKind.FREEZE,
        FaultKind.FREEZE_AND_THAW,
    }
)
EXCUSING_ALL = frozenset({FaultKind.AGENTS_CUT, FaultKind.MESSAGES_LATE, FaultKind.MESSAGES_LOST})


@dataclass(frozen=True, slots=True)
class Fault:
    """`touches` are the instances that it may have made ill. `end` undoes it."""

    kind: FaultKind
    detail: str
    touches: frozenset[str]
    end: Callable[[], None]


def _nothing() -> None:
    return None


def begin(kind: FaultKind, world: World, chance: random.Random) -> Fault | None:
    """Let it happen. None: there is nobody it could happen to now."""
    faults, disk = world.ec2.faults, world.disk
    match kind:
        case FaultKind.ANSWER_LOST:
            faults.lost_answers = chance.randint(1, 3)
            return _fault(kind, f"{faults.lost_answers} answers", end=lambda: _set(faults, lost_answers=0))
        case FaultKind.INTERNAL_ERROR_AFTER_WORK:
            faults.internal_errors = chance.randint(1, 3)
            return _fault(
                kind, f"{faults.internal_errors} times", end=lambda: _set(faults, internal_errors=0)
            )
        case FaultKind.ACCOUNT_BUSY:
            faults.busy_account = True
            return _fault(kind, "", end=lambda: _set(faults, busy_account=False))
        case FaultKind.ZONE_FULL:
            place = (chance.choice(ZONES)[1], "")
            faults.full = {*faults.full, place}
            return _fault(kind, place[0], end=lambda: _set(faults, full=faults.full - {place}))
        case FaultKind.QUOTA:
            faults.room = len(world.ec2.alive()) + chance.randint(0, 1)
            return _fault(kind, f"{faults.room} instances", end=lambda: _set(faults, room=None))
        case FaultKind.DESCRIBE_LAGS:
            faults.lag_seconds = chance.uniform(2, 30)
            return _fault(kind, f"{faults.lag_seconds:.0f} s", end=lambda: _set(faults, lag_seconds=0.0))
        case FaultKind.PAGES_CHANGE:
            faults.page_size = chance.randint(1, 4)
            return _fault(kind, f"{faults.page_size} a page", end=lambda: _set(faults, page_size=0))
        case FaultKind.EC2_SLOW:
            faults.slow_seconds = chance.choice((3.0, 15.0, 60.0))
            return _fault(kind, f"to {faults.slow_seconds:g} s", end=lambda: _set(faults, slow_seconds=0.0))
        case FaultKind.EC2_UNREACHABLE:
            faults.unreachable = True
            return _fault(kind, "", end=lambda: _set(faults, unreachable=False))
        case FaultKind.DIES_PENDING:
            faults.dies_pending_ratio = chance.uniform(0.2, 1.0)
            detail = f"{100 * faults.dies_pending_ratio:.0f} % of launches"
            return _fault(kind, detail, end=lambda: _set(faults, dies_pending_ratio=0.0))
        case FaultKind.STOPPED_FROM_OUTSIDE:
            return _to_one(kind, world, chance, world.ec2.stop)
        case FaultKind.TERMINATED_BY_ANOTHER | FaultKind.SPOT_INTERRUPTION:
            return _to_one(kind, world, chance, world.ec2.shut_down)
        case FaultKind.STATUS_IMPAIRED:
            return _to_one(
                kind, world, chance, lambda i: _impair(world, i, True), lambda i: _impair(world, i, False)
            )
        case FaultKind.ZONE_OUTAGE:
            return _zone_outage(world, chance)
        case FaultKind.CRASH:
            _kill_after(world, chance.randint(0, 40))
            return _fault(kind, "", end=_nothing)
        case FaultKind.CRASH_BEFORE_COMMIT:
            disk.before_commit = lambda: _kill_now(world)
            return _fault(kind, "", end=lambda: _set(disk, before_commit=None))
        case FaultKind.CRASH_AFTER_COMMIT:
            disk.after_commit = lambda: _kill_now(world)
            return _fault(kind, "", end=lambda: _set(disk, after_commit=None))
        case FaultKind.LONG_DOWN:
            # The store's machine is down too, so that the controller cannot come up.
            disk.broken = "the store is gone"
            world.kill()
            return _fault(kind, "", end=lambda: _set(disk, broken=""))
        case FaultKind.STORE_FULL:
            disk.broken = "the disk is full"
            return _fault(kind, "", end=lambda: _set(disk, broken=""))
        case FaultKind.STORE_LOCKED:
            disk.broken = "the database is locked"
            return _fault(kind, "", end=lambda: _set(disk, broken=""))
        case FaultKind.STORE_LOST:
            # The operator notices, and applies the documents again: the caller's matter.
            world.kill()
            world.lose_store()
            return _fault(kind, "", end=_nothing)
        case FaultKind.STORE_SLOW:
            disk.commit_seconds = chance.uniform(0.5, 4)
            detail = f"{disk.commit_seconds:.1f} s"
            return _fault(kind, detail, end=lambda: _set(disk, commit_seconds=COMMIT_SECONDS))
        case FaultKind.COMMIT_ANSWER_LOST:
            disk.lost_answers = chance.randint(1, 2)
            return _fault(kind, f"{disk.lost_answers} commits", end=lambda: _set(disk, lost_answers=0))
        case FaultKind.CLOCK_FORWARD:
            seconds = chance.choice((5.0, 60.0, 3600.0, 86_400.0))
            world.clock.step(seconds)
            return _fault(kind, f"{seconds:g} s", end=_nothing)
        case FaultKind.CLOCK_BACKWARD:
            seconds = chance.choice((5.0, 60.0, 3600.0, 86_400.0))
            world.clock.step(-seconds)
            return _fault(kind, f"{seconds:g} s", end=_nothing)
        case FaultKind.STALL:
            seconds = chance.choice((0.7, 5.0, 30.0, 400.0))
            world.loop.stall(seconds)
            return _fault(kind, f"{seconds:g} s", end=_nothing)
        case FaultKind.CONTROLLER_CUT:
            world.cut()
            return _fault(kind, "", end=world.mend)
        case FaultKind.AGENTS_CUT:
            world.cut(whole=False)
            return _fault(kind, "", end=world.mend)
        case FaultKind.PARTITION:
            return _partition(world, chance)
        case FaultKind.WAY_UP_CUT:
            up = world.agents.network.up
            return _to_one(kind, world, chance, up.add, up.discard)
        case FaultKind.WAY_DOWN_CUT:
            down = world.agents.network.down
            return _to_one(kind, world, chance, down.add, down.discard)
        case FaultKind.MESSAGES_LATE:
            network = world.agents.network
            network.delay_seconds = chance.uniform(0.05, 2.0)
            return _fault(
                kind, f"to {network.delay_seconds:.2f} s", end=lambda: _set(network, delay_seconds=0.0)
            )
        case FaultKind.MESSAGES_LOST:
            network = world.agents.network
            network.loss_ratio = chance.uniform(0.05, 0.6)
            return _fault(kind, f"{network.loss_ratio:.0%}", end=lambda: _set(network, loss_ratio=0.0))
        case FaultKind.FREEZE:
            # For good: in the end EC2 says so too, else two at once in a small group would be held for ever.
            return _to_one(kind, world, chance, lambda i: _behave(world, i, frozen=True), world.ec2.stop)
        case FaultKind.FREEZE_AND_THAW:
            return _misbehave(kind, world, chance, frozen=True)
        case FaultKind.AGENT_RESTART:
            return _to_one(kind, world, chance, world.agents.restart)
        case FaultKind.AGENT_FLAPS:
            return _misbehave(kind, world, chance, flaps=True)
        case FaultKind.AGENT_LIES:
            return _misbehave(kind, world, chance, lies=chance.choice((0.0, 100.0)))
        case FaultKind.AGENT_REGISTERS_TWICE:
            return _misbehave(kind, world, chance, registers_twice=True)
        case FaultKind.AGENT_OF_ANOTHER_VERSION:
            return _misbehave(kind, world, chance, version="99")
        case FaultKind.AGENT_CLAIMS_ANOTHER:
            others = list(world.ec2.running)
            return _misbehave(kind, world, chance, claims=chance.choice(others) if others else "i-0")
        case FaultKind.NEVER_REGISTERS:
            faults.mute_launches = True
            return _fault(kind, "", end=lambda: _set(faults, mute_launches=False))


def _fault(
    kind: FaultKind, detail: str, touches: Iterable[str] = (), end: Callable[[], None] = _nothing
) -> Fault:
    return Fault(kind, detail, frozenset(touches), end)


def _set(target: object, **values: object) -> None:
    for name, value in values.items():
        setattr(target, name, value)


def _behave(world: World, instance_id: str, **values: object) -> None:
    if instance_id in world.ec2.machines:
        _set(world.agents.agent(instance_id).behaviour, **values)


def _impair(world: World, instance_id: str, impaired: bool) -> None:
    if instance_id in world.ec2.machines:
        world.ec2.machines[instance_id].impaired = impaired


def _to_one(
    kind: FaultKind,
    world: World,
    chance: random.Random,
    do: Callable[[str], object],
    undo: Callable[[str], object] = lambda instance_id: None,
) -> Fault | None:
    alive = [machine.instance_id for machine in world.ec2.alive()]
    if not alive:
        return None
    victim = chance.choice(alive)
    do(victim)
    return _fault(kind, victim, (victim,), lambda: (undo(victim), None)[1])


def _misbehave(kind: FaultKind, world: World, chance: random.Random, **values: object) -> Fault | None:
    """One agent is not itself for a while."""
    well = {name: getattr(Behaviour(), name) for name in values}
    return _to_one(
        kind,
        world,
        chance,
        lambda instance_id: _behave(world, instance_id, **values),
        lambda instance_id: _behave(world, instance_id, **well),
    )


def _partition(world: World, chance: random.Random) -> Fault | None:
    """A share of the fleet can't be reached, and EC2 says that all of it is well."""
    alive = [machine.instance_id for machine in world.ec2.alive()]
    if not alive:
        return None
    share = chance.uniform(0.3, 1.0)
    lost = chance.sample(alive, max(1, round(share * len(alive))))
    network = world.agents.network
    network.up.update(lost)
    network.down.update(lost)

    def end() -> None:
        network.up.difference_update(lost)
        network.down.difference_update(lost)

    return _fault(FaultKind.PARTITION, f"{len(lost)} of {len(alive)}", lost, end)


def _zone_outage(world: World, chance: random.Random) -> Fault:
    """Nothing in the zone runs, nothing can be launched there, and EC2 says so in its checks."""
    zone = chance.choice(ZONES)[1]
    lost = [machine for machine in world.ec2.alive() if machine.zone == zone]
    for machine in lost:
        machine.impaired = True
        _behave(world, machine.instance_id, frozen=True)
    faults = world.ec2.faults
    place = (zone, "")
    faults.full = {*faults.full, place}

    def end() -> None:
        faults.full = faults.full - {place}
        for machine in lost:
            machine.impaired = False
            if machine.state is not Ec2State.TERMINATED:
                _behave(world, machine.instance_id, frozen=False)

    return _fault(FaultKind.ZONE_OUTAGE, zone, (machine.instance_id for machine in lost), end)


def _kill_after(world: World, steps: int) -> None:
    """Between two of the loop's callbacks, so at any of the controller's awaits."""
    if steps:
        world.loop.call_soon(_kill_after, world, steps - 1)
    else:
        world.kill()


def _kill_now(world: World) -> None:
    """From inside of the controller's own task: it stops at its next await, and others at theirs."""
    world.kill()
