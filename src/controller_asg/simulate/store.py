"""What is durable in the simulated world, and the port `Store` over it with everything that a disk may do to us.

`Disk` is the truth about what was committed. The store behind it is either the disk itself, which is fast, or the real
SQL store on a file in memory; then each load is held against the disk.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from controller_asg.model.activity import Activity, ActivityStatus
from controller_asg.model.clock import Clock
from controller_asg.model.decision import Decision
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.instance import Instance
from controller_asg.model.record import Change, DemandMinute, GroupRecord, PolicyMemories, State
from controller_asg.store.port import Store

COMMIT_SECONDS = 0.002


class Disk:
    """What survives. `broken` says why every call is refused; `on_commit(change)` hears of each before it is applied.

    `before_commit` and `after_commit` are called once, just before and after the next one is durable.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.groups: dict[str, GroupRecord] = {}
        self.instances: dict[str, Instance] = {}
        self.activities: dict[str, Activity] = {}
        self.memories: dict[str, PolicyMemories] = {}
        self.demand: dict[tuple[str, datetime], DemandMinute] = {}
        self.decisions: dict[int, Decision] = {}
        self.broken = ""
        self.lost_answers = 0  # so many commits land, and their controller hears that they failed
        self.losses = 0
        self.commit_seconds = COMMIT_SECONDS
        self.on_commit: Callable[[Change], None] = lambda change: None
        self.before_commit: Callable[[], None] | None = None
        self.after_commit: Callable[[], None] | None = None

    def apply(self, change: Change) -> int:
        self.on_commit(change)
        self.groups.update({record.group.name: record for record in change.groups})
        self.instances.update({instance.instance_id: instance for instance in change.instances})
        self.activities.update({activity.activity_id: activity for activity in change.activities})
        self.memories.update({each.group: each for each in change.memories})
        self.demand.update({(each.group, each.minute_at): each for each in change.demand})
        for instance_id in change.deleted_instances:
            self.instances.pop(instance_id, None)
        for name in change.deleted_groups:
            self.groups.pop(name, None)
            self.memories.pop(name, None)
            self.demand = {key: each for key, each in self.demand.items() if each.group != name}
            self.instances = {i: one for i, one in self.instances.items() if one.group != name}
        if change.decision is None:
            return 0
        decision_id = change.decision.decision_id or len(self.decisions) + 1
        self.decisions[decision_id] = replace(change.decision, decision_id=decision_id)
        return decision_id

    def lose(self) -> None:
        """The store is deleted, and an empty one takes its place. Epochs go on: they stand for the fence alone."""
        for kept in (
            self.groups,
            self.instances,
            self.activities,
            self.memories,
            self.demand,
            self.decisions,
        ):
            kept.clear()
        self.losses += 1

    def state(self) -> State:
        still_open = tuple(a for a in self.activities.values() if a.status is ActivityStatus.IN_PROGRESS)
        return State(tuple(self.groups.values()), tuple(self.instances.values()), still_open)


class SimulatedStore:
    """The port `Store` for one controller. `sql` is the real store that keeps the same, or None."""

    def __init__(self, disk: Disk, clock: Clock, sql: Store | None = None) -> None:
        self._disk = disk
        self._clock = clock
        self._sql = sql
        self._epoch = 0
        self._losses = disk.losses
        self._landing: asyncio.Future[int] | None = None  # the loop itself keeps no task alive

    async def open(self) -> int:
        self._refuse_if_broken()
        if self._sql is not None:
            await self._sql.open()
        self._disk.epoch += 1
        self._epoch = self._disk.epoch
        return self._epoch

    async def load(self) -> State:
        self._refuse_if_broken()
        state = self._disk.state()
        if self._sql is None:
            return state
        loaded = await self._sql.load()
        assert _outline(loaded) == _outline(state), "the SQL store does not hold what was committed"
        return loaded

    async def memories(self) -> tuple[PolicyMemories, ...]:
        self._refuse_if_broken()
        memories = tuple(self._disk.memories.values())
        if self._sql is not None:
            loaded = await self._sql.memories()
            assert set(loaded) == set(memories), (
                "the SQL store does not hold the memories that were committed"
            )
        return memories

    async def commit(self, change: Change) -> int:
        """Durable at one moment between two waits: cancelled in the first it left nothing, in the second all."""
        disk = self._disk
        _once(disk, "before_commit")
        await self._clock.sleep(disk.commit_seconds)
        self._refuse_if_broken()
        if self._epoch != disk.epoch:
            raise FencedError("a newer controller writes", "store")
        if self._sql is None:
            decision_id = disk.apply(change)
        else:
            self._landing = asyncio.ensure_future(self._land(self._sql, change))
            decision_id = await asyncio.shield(self._landing)
            self._refuse_if_gone()
        _once(disk, "after_commit")
        await self._clock.sleep(disk.commit_seconds)
        if disk.lost_answers:
            disk.lost_answers -= 1
            raise StoreError("no answer to the commit; it may be there", "store")
        return decision_id

    async def _land(self, sql: Store, change: Change) -> int:
        """On both disks or on none, also when whoever waits for it is killed, or the store lost, meanwhile."""
        await sql.commit(change)
        return 0 if self._gone else self._disk.apply(change)

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]:
        found = [
            activity
            for activity in self._disk.activities.values()
            if group in ("", activity.group)
            and not (open_only and activity.status is not ActivityStatus.IN_PROGRESS)
        ]
        return tuple(sorted(found, key=lambda a: a.started_at, reverse=True)[:limit])

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]:
        found = [d for d in self._disk.decisions.values() if d.group == group]
        return tuple(sorted(found, key=lambda d: d.decision_id, reverse=True)[:limit])

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        found = [m for m in self._disk.demand.values() if m.group == group and since <= m.minute_at < until]
        return tuple(sorted(found, key=lambda minute: minute.minute_at))

    async def prune(self, before: datetime, demand_before: datetime) -> int:
        self._refuse_if_broken()
        return 0

    async def close(self) -> None:
        return None

    @property
    def _gone(self) -> bool:
        return self._losses != self._disk.losses

    def _refuse_if_gone(self) -> None:
        if self._gone:
            raise StoreError("its file is gone", "store", "start the controller anew")

    def _refuse_if_broken(self) -> None:
        self._refuse_if_gone()
        if self._disk.broken:
            raise StoreError(self._disk.broken, "store", "free some space")


def _once(disk: Disk, hook: str) -> None:
    called = getattr(disk, hook)
    if called is not None:
        setattr(disk, hook, None)
        called()


def _outline(state: State) -> object:
    """What two states must agree on; the SQL store keeps times to the millisecond."""
    return (
        sorted((r.group.name, r.version, r.desired_capacity, r.launch_version) for r in state.groups),
        sorted((i.instance_id, i.state, i.protected_from_scale_in, i.reason) for i in state.instances),
        sorted((a.activity_id, a.acknowledged, a.instance_ids) for a in state.open_activities),
    )
