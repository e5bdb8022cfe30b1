"""One seed, one world: minutes of chaos, then quiet, with every invariant held against it. And many of them.

A seed gives one schedule, byte for byte: the same seed in another process tells the same story.
"""

import asyncio
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.model.errors import AsgError
from controller_asg.model.instance import LifecycleState
from controller_asg.model.offering import Market, Offering
from controller_asg.model.record import DemandMinute
from controller_asg.simulate.ec2 import BAD_IMAGE, GOOD_IMAGE, ZONES
from controller_asg.simulate.faults import EXCUSING, EXCUSING_ALL, Fault, FaultKind, begin
from controller_asg.simulate.invariants import AFTERMATH_SECONDS, Invariants
from controller_asg.simulate.logs import captured_logs
from controller_asg.simulate.refreshes import REST, SHARE, Refreshes
from controller_asg.simulate.regroup import leave_standby, regroup
from controller_asg.simulate.store import COMMIT_SECONDS
from controller_asg.simulate.virtual_time import START, VirtualLoop, run_virtual
from controller_asg.simulate.work import Work
from controller_asg.simulate.world import PRICES, World
from controller_asg.store.sql import SqlStore

CHAOS_SECONDS = 300.0
SET_UP_SECONDS = 300.0
# For each instance of `size`: EC2 refills the tokens of RunInstances by 2 a second, and two groups may launch all anew.
LAUNCH_SECONDS = 2.0
# What is chosen for groups of this size grows with a larger one.
USUAL_SIZE = 2.5
# From the last fault's end the world may take so long to be at rest: a registration timeout, a backoff, a replacement.
SETTLE_SECONDS = 2400.0
STEADY_SECONDS = 60.0
# So long it must then stay as it is, with no call that changes anything.
REST_SECONDS = 120.0
BOOT_SECONDS = 20.0
# One world in so many keeps its state in the real SQL store, on SQLite. It is some three times slower.
SQL_EVERY = 8
# In this share of the worlds every group has it too. Full at the calm load, so that it comes to rest soon: at max_size.
TRACKED_SHARE = 0.25
PATIENCE_SECONDS = 60
DEMAND_TRACKING = {"type": "demand_tracking", "full": 45, "patience_seconds": PATIENCE_SECONDS}
REGROUPED_SHARE = 0.3
# In those of these seeds, modulo 20, some minutes are foretold, and signed messages execute a policy.
FORETOLD = frozenset({6, 13, 17})
FORETOLD_DAY = 0.05, 25 * 60  # instances of demand, minutes: nothing but what the world's first minutes bring
FORETOLD_MINUTES = 15
BURST = {
    "type": "simple",
    "name": "burst",
    "webhook": True,
    "adjustment": 1,
    "scale_out_cooldown_seconds": 60,
}
# Worlds whose seed ends so have groups of several types and markets, with ceilings on what they cost.
OFFERED = 6
DEAREST = max(price for by_market in PRICES.by_type.values() for price in by_market.values())
# Worlds whose seed ends so have scheduled actions and a behavior; the others stay as planted bugs know them.
SCHEDULED = 3
# In those of these seeds, modulo 20, instances work, drain and have lifecycle hooks.
LEAVING = frozenset({2, 10, 15, 19})
WAIT_STATES = frozenset(
    {LifecycleState.PENDING_WAIT, LifecycleState.PENDING_PROCEED, LifecycleState.TERMINATING_WAIT}
)
ENDED_SHARE = 0.15  # of the moments at which somebody looks at those that wait
JOBS_A_MINUTE = 1.0  # of one idle instance
LONGEST_JOB_SECONDS = 120.0
# Lines of the product's log that only a bug of ours can cause.
BUG_EVENTS = frozenset(
    {
        "pass_failed",
        "task_failed",
        "ping_crashed",
        "launch_broken",
        "call_broken",
        "ec2_answer_broken",
        "policy_memory_dropped",
    }
)


@dataclass(slots=True)
class Result:
    """What a seed brought. `faults` counts kinds that happened; `story` is filled when it was asked for."""

    seed: int
    broken: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    transitions: set[str] = field(default_factory=set)
    executed: int = 0  # signed messages
    foretold: int = 0  # changes of size by a forecast
    story: list[str] = field(default_factory=list)
    virtual_seconds: float = 0.0


def run_seed(seed: int, trace: bool = False, size: int = 0, chaos_seconds: float = CHAOS_SECONDS) -> Result:
    """Play the world of this seed to its end. `size` is the groups' min_size; 0: the seed chooses 1 to 4."""
    result = Result(seed)
    loop = VirtualLoop()

    def tell(text: str) -> None:
        if trace:
            result.story.append(f"{loop.time():9.3f} s  {text}")

    bugs: list[str] = []

    def hear(event: str, values: Mapping[str, Any]) -> None:
        if event in BUG_EVENTS:
            bugs.append(f"{event}: {_exception_text(values)}")
        if trace:
            said = " ".join(f"{key}={value}" for key, value in sorted(values.items()) if key != "exc_info")
            tell(f"log: {event} {said}")

    with captured_logs(hear):
        run_virtual(_Drama(seed, tell, result, bugs, size, chaos_seconds).play(), loop)
    result.virtual_seconds = loop.time()
    return result


def _exception_text(values: Mapping[str, Any]) -> str:
    return repr(sys.exc_info()[1]) if values.get("exc_info") else str(dict(values))


class _Drama:
    """One world from its first group to its rest."""

    def __init__(
        self,
        seed: int,
        tell: Callable[[str], None],
        result: Result,
        bugs: list[str],
        size: int,
        chaos_seconds: float,
    ) -> None:
        self._chance = random.Random(f"{seed}:drama")  # noqa: S311 - a schedule that can be replayed
        # A chance of its own: the other worlds stay as they were.
        self._tracks = random.Random(f"{seed}:demand_tracking").random() < TRACKED_SHARE  # noqa: S311
        self._messages = random.Random(f"{seed}:foretold")  # noqa: S311
        self._foretells = seed % 20 in FORETOLD
        self._executed = set[str]()
        self._clockwork = random.Random(f"{seed}:clockwork")  # noqa: S311 - so that it moves nothing else
        self._leaves = random.Random(f"{seed}:leaving") if seed % 20 in LEAVING else None  # noqa: S311 - as well
        self._deaths = random.Random(f"{seed}:ended while it waits")  # noqa: S311 - so that it moves nothing else
        self._refreshes = Refreshes(seed, tell) if seed % SHARE == REST else None
        # Operators of this share of the worlds move members and hold processes back.
        self._members = random.Random(f"{seed}:operator")  # noqa: S311 - so that it moves nothing else
        self._regroups = self._members.random() < REGROUPED_SHARE
        self._offers = random.Random(f"{seed}:offerings")  # noqa: S311 - and so that it moves nothing else
        self._offered = seed % 10 == OFFERED
        self._tell, self._result, self._bugs = tell, result, bugs
        self._seed, self._size, self._chaos_seconds = seed, size, chaos_seconds
        self._scale = size / USUAL_SIZE if size else 1.0
        self._patience = LAUNCH_SECONDS * size
        self._active: list[Fault] = []
        self._touched: dict[str, float] = {}  # instance id ("" is everybody) -> excused until
        self._demand = 0.0

    async def play(self) -> None:
        with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
            database = None if self._seed % SQL_EVERY else _SqliteFile(Path(folder, "store.db"))
            # It pays for two groups' largest min_size, whatever they are made of, and for little more.
            ceiling = DEAREST * self._offers.uniform(8, 9) if self._offered and not self._size else 0.0
            await self._play(World(self._seed, BOOT_SECONDS, database, max_hourly_cost=ceiling))

    async def _play(self, world: World) -> None:
        self._world = world
        if self._offered:  # so that groups plan while others commit
            world.disk.commit_seconds = self._offers.choice((COMMIT_SECONDS, 0.7))
        world.ec2.tell = self._tell
        world.load = self._load
        if self._leaves is not None:
            world.agents.work = Work(self._leaves, world.loop.time, JOBS_A_MINUTE, LONGEST_JOB_SECONDS)
        self._calm_work(True)
        self._invariants = Invariants(world, self._excused)
        await world.start()
        tasks = (
            asyncio.create_task(self._acts(), name="acts"),
            asyncio.create_task(world.supervise(self._ended), name="supervisor"),
            asyncio.create_task(self._tick(), name="ticker"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    self._invariants.violate("the world itself does not fail", repr(ended))
            await world.stop()
        for bug in self._bugs:
            self._invariants.violate("the controller's own code does not fail", bug)
        self._result.foretold = sum(
            decision.desired_after > decision.desired_before
            and "predictive: forecast for" in decision.summary
            for decision in world.disk.decisions.values()
        )
        self._result.broken = self._invariants.broken
        self._result.transitions = {
            f"{before or 'new'} → {after or 'forgotten'}" for before, after in self._invariants.transitions
        }

    # The three acts

    async def _acts(self) -> None:
        await self._set_up()
        await self._chaos()
        await self._settle()

    async def _set_up(self) -> None:
        chance = self._chance
        self._documents = {name: self._document() for name in ("web", "worker")[: chance.randint(1, 2)]}
        self._demand = chance.uniform(60, 400) * self._scale
        if self._foretells:
            self._remember_yesterday()
        await self._world.apply(**self._documents)
        settled_in = SET_UP_SECONDS + self._patience
        try:
            await self._world.until(lambda: not self._invariants.unsettled(), settled_in, every=1.0)
        except TimeoutError:
            for what in self._invariants.unsettled():
                self._invariants.violate(f"it settles at first: {what.partition(':')[0]}", what)
        self._tell(f"act: {len(self._documents)} groups in service, now chaos")

    async def _chaos(self) -> None:
        world, chance = self._world, self._chance
        self._calm_work(False)
        kinds = chance.sample(list(FaultKind), chance.randint(2, 7))
        ends = world.loop.time() + self._chaos_seconds
        async with asyncio.TaskGroup() as tasks:
            for kind in kinds:
                for _ in range(chance.randint(1, 3)):
                    at = chance.uniform(0, self._chaos_seconds)
                    lasts = min(chance.choice((3.0, 20.0, 60.0, 200.0)), self._chaos_seconds - at)
                    tasks.create_task(self._fault(kind, at, lasts), name=f"fault:{kind}")
            if self._refreshes is not None:
                refreshing = self._refreshes.operate(world, self._documents, self._chaos_seconds)
                tasks.create_task(refreshing, name="refreshes")
            if self._offered:
                tasks.create_task(self._offering_faults(ends), name="offerings")
            while world.loop.time() < ends:
                await asyncio.sleep(chance.uniform(2, 30))
                await self._operate()
                if self._regroups:
                    await regroup(self._world, self._members, self._tell)
                if self._foretells:
                    await self._execute()

    async def _settle(self) -> None:
        world, invariants = self._world, self._invariants
        self._demand = 50.0 * sum(record.desired_capacity for record in world.disk.groups.values())
        self._calm = True
        self._calm_work(True)
        if self._refreshes is not None:
            await self._refreshes.leave_to_end(world)
        if self._regroups:
            await leave_standby(world, self._tell)
        self._tell("act: nothing goes wrong any more")
        if self._foretells:
            # What is foretold is over then, and no floor or max_size moves any more.
            await asyncio.sleep(max(0.0, 2 * 60 * FORETOLD_MINUTES - world.loop.time()))
        try:
            await world.until(self._settled_for_long(), SETTLE_SECONDS + self._patience, every=1.0)
        except TimeoutError:
            for what in invariants.unsettled():
                invariants.violate(f"it settles: {what.partition(':')[0]}", what)
            return
        self._tell("act: settled")
        # A forecast learns from the very calm, and what it raised ends with its slot: it gets some more time.
        for _ in range(3 if self._foretells else 1):
            before = {action: world.ec2.calls[action] for action in ("RunInstances", "TerminateInstances")}
            await asyncio.sleep(REST_SECONDS)
            after = {action: world.ec2.calls[action] for action in before}
            if before == after:
                break
        else:
            if not invariants.hopeless():
                invariants.violate("nothing is done at rest", f"{before} became {after}")
        for what in invariants.unsettled():
            invariants.violate("it stays settled", what)

    def _settled_for_long(self) -> Callable[[], bool]:
        """True once everything has been as it should be for STEADY_SECONDS: cooldowns and windows are over too."""
        since = [self._world.loop.time()]
        # What demand_tracking saw of those that a refresh replaced is forgotten only after its patience.
        steady = STEADY_SECONDS + (PATIENCE_SECONDS if self._tracks and self._refreshes else 0.0)

        def settled() -> bool:
            now = self._world.loop.time()
            if self._invariants.unsettled():
                since[0] = now
            return now - since[0] >= steady

        return settled

    # What happens

    _calm = False

    def _load(self, instance_id: str) -> float:
        if self._calm:
            return 50.0
        serving = max(1, len(self._world.ec2.running))
        return min(100.0, self._demand / serving)

    async def _fault(self, kind: FaultKind, at: float, lasts: float) -> None:
        await asyncio.sleep(at)
        fault = begin(kind, self._world, self._chance)
        if fault is None:
            return
        self._result.faults[kind.value] += 1
        self._tell(f"fault: {kind} {fault.detail}".rstrip())
        self._active.append(fault)
        if kind is FaultKind.STORE_LOST:
            await self._apply_again()
        await asyncio.sleep(lasts)
        fault.end()
        self._active.remove(fault)
        until = self._world.loop.time() + AFTERMATH_SECONDS
        for touched in _excused_by(fault):
            self._touched[touched] = max(until, self._touched.get(touched, 0.0))
        self._tell(f"fault over: {kind} {fault.detail}".rstrip())

    async def _offering_faults(self, ends: float) -> None:
        """One offering after another has no capacity, or one type and market no quota; and Spot is interrupted."""
        ec2, offers = self._world.ec2, self._offers
        while (now := self._world.loop.time()) < ends:
            lasts = min(offers.choice((5.0, 30.0, 90.0)), ends - now)
            zone = offers.choice(("", *(zone for _, zone in ZONES)))
            short = {Offering(zone, name, offers.choice(tuple(Market))) for name in PRICES.by_type}
            ec2.faults.short |= short
            self._tell(f"fault: no {', '.join(map(str, sorted(short)))}")
            spot = [machine.instance_id for machine in ec2.alive() if machine.market is Market.SPOT]
            if spot and offers.random() < 0.5:
                victim = offers.choice(spot)
                self._tell(f"fault: EC2 interrupts {victim}")
                self._touched[victim] = math.inf
                ec2.shut_down(victim)
            await asyncio.sleep(lasts)
            ec2.faults.short -= short
            await asyncio.sleep(offers.uniform(1, 20))

    async def _apply_again(self) -> None:
        """After the store was lost: ansible-playbook site.yml, until it goes through."""
        while not self._world.disk.groups:
            await asyncio.sleep(5)
            if self._world.listening() is None:
                continue
            try:
                async with asyncio.timeout(60):
                    await self._world.ask(self._world.engine.apply_groups(self._documents, False))
            except (AsgError, TimeoutError, ConnectionResetError) as error:
                self._tell(f"operator: refused: {error}")

    def _excused(self, instance_id: str) -> bool:
        now = self._world.loop.time()
        if any({"", instance_id} & _excused_by(fault) for fault in self._active):
            return True
        return max(self._touched.get(instance_id, 0.0), self._touched.get("", 0.0)) > now

    async def _operate(self) -> None:
        """What people do meanwhile. What the controller refuses it may refuse."""
        world, chance = self._world, self._chance
        if world.listening() is None or not world.disk.groups:
            return
        group = chance.choice(sorted(world.disk.groups))
        record, engine = world.disk.groups[group], world.engine
        members = sorted(i for i, one in world.disk.instances.items() if one.group == group)
        low, high = record.min_size, record.max_size
        try:
            async with asyncio.timeout(20):
                await self._answer_hook()
                match chance.randrange(8):
                    case 0 | 1:
                        self._demand = chance.uniform(20, 700) * self._scale
                        self._tell(f"load: {self._demand:.0f} % of one instance in all")
                    case 2:
                        desired = chance.randint(low, high)
                        self._tell(f"operator: set-desired {group} {desired}")
                        await world.ask(engine.set_desired_capacity(group, desired, "operator"))
                    case 3 if members:
                        victim, decrement = chance.choice(members), chance.random() < 0.5
                        self._tell(f"operator: terminate {victim}")
                        await world.ask(engine.terminate_instance(victim, decrement, "operator"))
                        self._invariants.ordered_away(victim)
                    case 4 if members:
                        one, protected = chance.choice(members), chance.random() < 0.5
                        self._tell(f"operator: {'protect' if protected else 'unprotect'} {one}")
                        await world.ask(engine.protect_instances((one,), protected, "operator", False))
                    case 5 if members:
                        one, healthy = chance.choice(members), chance.random() < 0.3
                        self._tell(f"operator: mark {one} {'healthy' if healthy else 'unhealthy'}")
                        await world.ask(engine.set_instance_health(one, healthy, "operator"))
                    case 6:
                        self._documents[group] = self._document(may_be_bad=True)
                        self._tell(f"operator: apply {group} {self._documents[group]}")
                        await world.ask(engine.apply_groups({group: self._documents[group]}, False))
                    case _:
                        pass
        except (AsgError, TimeoutError, ConnectionResetError) as error:
            self._tell(f"operator: refused: {error}")
        except Exception as error:
            self._invariants.violate("an order is carried out or refused", repr(error))

    async def _answer_hook(self) -> None:
        """Somebody completes an open lifecycle hook now and then, asks for more time, or ends what waits at EC2."""
        world, chance = self._world, self._leaves
        waiting = sorted(i for i, one in world.disk.instances.items() if one.state in WAIT_STATES)
        if chance is not None and waiting and self._deaths.random() < ENDED_SHARE:
            one = self._deaths.choice(waiting)
            self._tell(f"somebody else terminates {one}, which waits")
            world.ec2.shut_down(one)
        hooks = sorted(
            hook.token for one in world.disk.instances.values() for hook in one.hooks if not hook.result
        )
        if chance is None or not hooks:
            return
        meant = LifecycleAction(token=chance.choice(hooks))
        if chance.random() < 0.5:
            self._tell(f"operator: heartbeat of {meant.token}")
            await world.ask(world.engine.record_lifecycle_action_heartbeat(meant))
        else:
            result = chance.choice(("CONTINUE", "CONTINUE", "ABANDON"))
            self._tell(f"operator: {result} {meant.token}")
            await world.ask(world.engine.complete_lifecycle_action(meant, result, "operator"))

    async def _execute(self) -> None:
        """A signed message, now and then one that came before."""
        world, messages = self._world, self._messages
        if world.listening() is None or not world.disk.groups or messages.random() < 0.5:
            return
        group, message_id = messages.choice(sorted(world.disk.groups)), f"msg_{messages.randrange(6)}"
        honor = messages.random() < 0.3
        call = world.engine.execute_policy(
            group, "burst", "a message", honor_cooldown=honor, message_id=message_id
        )
        self._tell(f"message {message_id} to {group}")
        try:
            async with asyncio.timeout(20):
                _, _, executed = await world.ask(call)
        except (AsgError, TimeoutError, ConnectionResetError) as error:
            self._tell(f"message: refused: {error}")
            return
        once = f"{group} {message_id}"
        if executed and once in self._executed and not self._result.faults[FaultKind.STORE_LOST.value]:
            self._invariants.violate("no message is carried out twice", once)
        if executed:
            self._executed.add(once)
            self._result.executed += 1

    def _foretold_policies(self) -> list[dict[str, Any]]:
        raises = self._messages.random() < 0.5
        predictive = {
            "type": "predictive",
            "target": 50,
            "mode": "forecast_and_scale",
            "max_capacity_breach_behavior": "increase_max_capacity" if raises else "honor_max_capacity",
        }
        return [BURST, predictive]

    def _remember_yesterday(self) -> None:
        """What the store has recorded of each group, so that some minutes of chaos are foretold."""
        low, minutes = FORETOLD_DAY
        for name in self._documents:
            steps = [self._messages.uniform(0, 5) * self._scale for _ in range(FORETOLD_MINUTES // 5)]
            for minute in range(minutes):
                at = START - timedelta(minutes=minute + 1)
                since_yesterday = 1439 - minute
                busy = 0 <= since_yesterday < FORETOLD_MINUTES
                demand = steps[since_yesterday // 5] if busy else low
                self._world.disk.demand[name, at] = DemandMinute(name, at, demand, 1.0)

    def _document(self, may_be_bad: bool = False) -> dict[str, Any]:
        chance = self._chance
        image = BAD_IMAGE if may_be_bad and chance.random() < 0.15 else GOOD_IMAGE
        low = self._size or chance.randint(1, 4)
        policies = [
            {"type": "thresholds"},
            {
                "type": "target_tracking",
                "metric": "cpu_percent",
                "target": 50,
                "scale_in_cooldown_seconds": 30,
            },
        ]
        return {
            "min_size": low,
            "max_size": low + round(chance.randint(0, 5) * self._scale),
            "policies": chance.sample(policies, chance.randint(0, 2))
            + ([DEMAND_TRACKING] if self._tracks else [])
            + (self._foretold_policies() if self._foretells else []),
            "registration_timeout_seconds": chance.choice((60, 120, 300)),
            "default_instance_warmup_seconds": chance.choice((0, 10, 30)),
            "health_check_grace_period_seconds": chance.choice((0, 0, 30)),
            "min_healthy_percentage": chance.choice((0, 50, 90, 100)),
            "scheduled_actions": self._scheduled_actions(low) if self._seed % 10 == SCHEDULED else [],
            "behavior": self._behavior() if self._seed % 10 == SCHEDULED else {},
            "rebalance_zones": chance.random() < 0.2,
            "new_instances_protected_from_scale_in": chance.random() < 0.1,
            **self._leaving_keys(),
            **(self._refreshes.keys() if self._refreshes is not None else {}),
            "launch": {
                "image": {"id": image},
                "tags": {"round": str(chance.randint(1, 2))},
                **(self._launch_of_offerings() if self._offered else {}),
            },
            **(self._ceiling(low) if self._offered else {}),
        }

    def _launch_of_offerings(self) -> dict[str, Any]:
        offers = self._offers
        types = offers.sample(sorted(PRICES.by_type), offers.randint(1, 3))
        return {
            "instance_type": types[0],
            "instance_types": types[1:],
            "allocation_strategy": offers.choice(("prioritized", "lowest-price")),
            "on_demand_base_capacity": offers.randint(0, 2),
            "on_demand_percentage_above_base_capacity": offers.choice((0, 25, 50, 100)),
        }

    def _ceiling(self, low: int) -> dict[str, Any]:
        """It pays for min_size, whatever the group is made of; what it can't pay for would never come to rest."""
        offers = self._offers
        ceiling = DEAREST * low * offers.uniform(1, 2)
        return {
            "spot_return_seconds": offers.choice((0, 10, 60)),
            **({"max_hourly_cost": ceiling} if offers.random() < 0.7 else {}),
        }

    def _scheduled_actions(self, low: int) -> list[dict[str, Any]]:
        """One that lasts and one that ends, in the first minutes of the world; on any day, for clocks step by days."""
        clockwork = self._clockwork
        return [
            {
                "name": f"every-{minutes}",
                "recurrence": f"0-3/{minutes} {START.hour} * * *",
                "min_size": low,
                "max_size": low + clockwork.randint(0, 5),
                "desired_capacity": low,
                **({"duration_seconds": 75} if minutes == 2 else {}),
            }
            for minutes in (2, 3)
        ]

    def _leaving_keys(self) -> dict[str, Any]:
        """Hooks of both kinds, with commands that end somehow and without any, which an operator completes or not."""
        chance = self._leaves
        if chance is None:
            return {}
        hooks = [
            {
                "name": f"{transition}-{number}",
                "transition": transition,
                "heartbeat_timeout_seconds": chance.choice((5, 20, 60)),
                # A launch that nobody completes must come to an end in quiet times.
                "default_result": "CONTINUE"
                if transition == "launch"
                else chance.choice(("CONTINUE", "ABANDON")),
                "command": chance.choice(("", "hook.sh", "hook.sh")),
            }
            for transition in ("launch", "terminate")
            for number in range(chance.choice((0, 0, 1, 2)))
        ]
        return {
            "lifecycle_hooks": hooks,
            "drain": chance.random() < 0.5,
            "drain_timeout_seconds": chance.choice((0, 20, 60, 300)),
        }

    def _behavior(self) -> dict[str, Any]:
        clockwork = self._clockwork
        return {
            way: {
                "rates": [{"count": clockwork.randint(1, 3), "period_seconds": clockwork.choice((10, 60))}],
                "stabilization_window_seconds": clockwork.choice((0, 15)),
            }
            for way in ("scale_out", "scale_in")
        }

    def _calm_work(self, calm: bool) -> None:
        if self._world.agents.work is not None:
            self._world.agents.work.calm = calm

    def _give_work(self) -> None:
        world = self._world
        if world.agents.work is None:
            return
        in_service = sorted(
            i for i, one in world.disk.instances.items() if one.state is LifecycleState.IN_SERVICE
        )
        world.agents.work.give(i for i in in_service if i in world.ec2.running)

    def _ended(self, error: BaseException | None) -> None:
        self._tell("controller: killed" if error is None else f"controller: ended with {error!r}")
        if error is not None:
            self._invariants.violate("the controller ends by no error of its own", repr(error))

    async def _tick(self) -> None:
        blinding = {
            FaultKind.EC2_UNREACHABLE,
            FaultKind.CONTROLLER_CUT,
            FaultKind.DESCRIBE_LAGS,
            FaultKind.ACCOUNT_BUSY,
            FaultKind.EC2_SLOW,
            FaultKind.STORE_FULL,
            FaultKind.STORE_LOCKED,
            FaultKind.STORE_SLOW,
            FaultKind.LONG_DOWN,
        }
        stepping = {FaultKind.CLOCK_FORWARD, FaultKind.CLOCK_BACKWARD}
        while True:
            blind = any(fault.kind in blinding for fault in self._active)
            steady = not any(fault.kind in stepping for fault in self._active)
            self._invariants.tick(self._world.listening() is not None and not blind, steady)
            self._give_work()
            await asyncio.sleep(1.0)


def _excused_by(fault: Fault) -> frozenset[str]:
    """Whom it may make look dead; "" is everybody."""
    if fault.kind in EXCUSING_ALL:
        return frozenset({""})
    return fault.touches if fault.kind in EXCUSING else frozenset()


class _SqliteFile:
    """Implements `Database`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.lose()

    def open(self) -> SqlStore:
        return SqlStore(f"sqlite:///{self._file}")

    def lose(self) -> None:
        for left in self._file.parent.glob(f"{self._file.name}*"):
            left.unlink()
        shutil.copyfile(_empty_database(), self._file)


@cache
def _empty_database() -> Path:
    """Migrated once for a process, and removed with it."""
    from controller_asg.store.migrate import migrate  # Alembic costs half a second

    folder = tempfile.TemporaryDirectory(prefix="simulate-empty-")
    _FOLDERS.append(folder)
    file = Path(folder.name, "store.db")
    migrate(f"sqlite:///{file}")
    return file


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def run_many(seeds: Iterable[int], jobs: int, trace: bool = False, size: int = 0) -> Iterator[Result]:
    """The results in the order of the seeds, from so many processes.

    They are new interpreters with one hash seed: the order of a set of names must not differ from run to run.
    """
    os.environ["PYTHONHASHSEED"] = "0"
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(run_seed, trace=trace, size=size), seeds, chunksize=1 if trace else 4)
