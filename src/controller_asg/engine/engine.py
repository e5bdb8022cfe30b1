"""The controller at work: one reconciler a group, one eye on EC2 for all of them, and the doors' every order."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from controller_asg.cloud.port import Cloud
from controller_asg.config import Settings
from controller_asg.engine import applying, lifecycle_actions, refreshing
from controller_asg.engine.acting import Actor
from controller_asg.engine.attachable import check_attachable
from controller_asg.engine.budget import Budget
from controller_asg.engine.controller import (
    Applied,
    Condition,
    ControllerStatus,
    GroupStatus,
    InstanceStatus,
)
from controller_asg.engine.foretelling import Foretelling
from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.engine.members import may_speak
from controller_asg.engine.memory import Memory
from controller_asg.engine.reconciler import Agents, Reconciler, Shared
from controller_asg.engine.refreshing import RefreshProgress
from controller_asg.engine.view import CloudView
from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.agent_order import AgentOrder
from controller_asg.model.clock import Clock
from controller_asg.model.decision import Decision
from controller_asg.model.errors import (
    CloudError,
    ConflictError,
    Fault,
    FencedError,
    NotFoundError,
    SpecError,
    StoreError,
)
from controller_asg.model.group import Group
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import APART_STATES, LEAVING_STATES, Instance, LifecycleState
from controller_asg.model.offering import Prices
from controller_asg.model.record import Change, DemandMinute, GroupRecord, State
from controller_asg.model.refresh import parse_preferences
from controller_asg.model.scaling_policy import window_seconds
from controller_asg.monitor.fleet import Member as Expected
from controller_asg.monitor.fleet import WatchSettings
from controller_asg.planner import execution, membership, suspension
from controller_asg.planner.schedule import next_times
from controller_asg.planner.snapshot import (
    NO_PRICES,
    Attach,
    Bootstrapped,
    CompleteAction,
    ExecutePolicy,
    Move,
    Order,
    Outcome,
    Protect,
    RecordHeartbeat,
    RefreshAction,
    RefreshOrder,
    SetDesired,
    SetHealth,
    Terminate,
)
from controller_asg.policy.forecast import Forecast
from controller_asg.store.port import Store

T = TypeVar("T")

log = structlog.get_logger()

# A group without any event is still looked at so often: deadlines, cooldowns and backoffs end unannounced.
TICK_SECONDS = 1.0
# Events come in crowds (one a sample): passes of a group are so far apart at least, and no more than a fifth busy.
COALESCE_SECONDS = 0.02
BUSY_RATIO = 4.0
# While instances come and go EC2 is asked this often; at rest every `observe_interval_seconds`.
MOTION_INTERVAL_SECONDS = 2.0
# Two looks at EC2 are so far apart at least, however many ask for one.
LOOK_SPACING_SECONDS = 0.5
SUBNETS_FRESH_SECONDS = 300.0
PRUNE_EVERY_SECONDS = 3600.0
DEMAND_DAYS = 15  # of recorded demand: two weeks, whole at every moment
RETRY_SECONDS = 2.0
# So many times of scheduled actions are shown ahead.
NEXT_TIMES = 5
# A launch with its registration, or a termination, that takes longer is shown by `findings`.
OVERDUE_SECONDS = 900.0


class Watch(Agents, Protocol):
    """What the engine asks of MonitorC beside its views."""

    @property
    def settings(self) -> WatchSettings: ...

    def expect(self, members: Iterable[Expected]) -> None: ...

    def keep(self, window_seconds: float) -> None: ...

    def send(self, instance_id: str, order: AgentOrder) -> bool: ...


class Bootstrap(Protocol):
    async def run(self, instance: Instance) -> tuple[str, str]:
        """(error, output); error is empty when it went well."""


class Engine:
    """Implements `Controller`. `progress` is called after every pass (the watchdog lives on it)."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        fleet: Watch,
        clock: Clock,
        settings: Settings,
        user_data: Callable[[Group], str],
        bootstrap: Bootstrap,
        progress: Callable[[], None] = lambda: None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        random_source: random.Random | None = None,
        prices: Prices = NO_PRICES,
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._fleet = fleet
        self._clock = clock
        self._settings = settings
        self._user_data = user_data
        self._bootstrap = bootstrap
        self._progress = progress
        self._new_id = new_id
        self._actor = Actor(cloud, clock, random_source or random.Random(), self._deliver)  # noqa: S311 - jitter
        self._memory = Memory(State((), (), ()))
        self._view = CloudView()
        self._budget = Budget(self._memory, prices, settings.max_hourly_cost)
        self._foretelling = Foretelling(store, clock)
        self._reconcilers: dict[str, Reconciler] = {}
        self._subnets: dict[str, tuple[float, int, tuple[tuple[str, str], ...]]] = {}
        self._bootstrapping: set[str] = set()
        self._applying = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()  # that operators asked for, and are under way
        self._doubtful: set[str] = set()  # groups of a commit that failed, and may have landed
        self._attaching = asyncio.Lock()  # two orders may name the same instance
        self._look = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._epoch = 0
        self._started_at = clock.now()
        self._cloud_fault = ""
        self._store_fault = ""

    # Life

    async def start(self) -> None:
        """Take the store over and load it. Raises StoreError."""
        self._epoch = await self._store.open()
        self._memory = Memory(await self._store.load())
        self._budget = Budget(self._memory, self._budget.prices, self._settings.max_hourly_cost)
        memories = {each.group: each.document for each in await self._store.memories()}
        for name in self._memory.groups:
            self._reconcilers[name] = self._new_reconciler(name, memories.get(name, ""))
        self._members_changed()
        self._keep_windows()

    async def run(self) -> None:
        """Until cancelled. Returns by raising FencedError when another controller has taken the store over."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._watch_ec2(), name="observe")
                tasks.create_task(self._watch_subnets(), name="subnets")
                tasks.create_task(self._prune(), name="prune")
                tasks.create_task(self._watch_doubts(), name="doubts")
                tasks.create_task(self._foretell(), name="foretell")
                for name in self._reconcilers:
                    self._spawn_reconciler(name)
                for activity in list(self._memory.open_activities.values()):
                    if not activity.acknowledged:
                        self._act(activity, False)
        finally:
            for change in self._changes:
                change.cancel()

    def settings_changed(self, settings: Settings, prices: Prices) -> None:
        self._settings = settings
        self._budget.changed(prices, settings.max_hourly_cost)
        self._look.set()

    def wake(self, group: str, why: str) -> None:
        """Something happened that the group's reconciler should look at."""
        reconciler = self._reconcilers.get(group)
        if reconciler is not None:
            reconciler.inbox.awake.set()

    async def agent_unknown(self, instance_id: str) -> None:
        """An agent speaks whose instance we don't know: EC2 may know it by now."""
        self._look.set()

    @property
    def observed(self) -> bool:
        """EC2 has answered at least once."""
        return self._view.observed

    # The eye on EC2

    async def _watch_ec2(self) -> None:
        while True:
            self._look.clear()
            started = self._clock.monotonic()
            await self._observe_ec2(started)
            await self._clock.sleep(LOOK_SPACING_SECONDS)
            interval = self._settings.observe_interval_seconds
            if self._memory.open_activities or not self._view.observed:
                interval = min(interval, MOTION_INTERVAL_SECONDS)
            left = started + interval - self._clock.monotonic()
            if left > 0:
                await self._clock.wait(self._look, left)

    async def _observe_ec2(self, started: float) -> None:
        try:
            seen = await self._cloud.describe_instances()
        except CloudError as error:
            if not self._cloud_fault:
                log.warning("ec2_unreachable", error=str(error))
            self._cloud_fault = str(error)
            self._view.failed()
            return
        except Exception:
            # One broken answer must not end the eye on EC2; the next look is a new try.
            log.exception("ec2_answer_broken")
            self._cloud_fault = "EC2's answer could not be read; see the journal"
            self._view.failed()
            return
        if self._cloud_fault:
            log.info("ec2_reachable")
        self._cloud_fault = ""
        changed = self._view.update(seen, self._memory.instances, started, self._clock.monotonic())
        if not self._reconcilers.keys().isdisjoint(changed):
            self._members_changed()
        for group in changed:
            self.wake(group, "ec2")

    # Reconcilers

    def _new_reconciler(self, name: str, memories: str = "") -> Reconciler:
        shared = Shared(
            store=self._store,
            clock=self._clock,
            agents=self._fleet,
            memory=self._memory,
            view=self._view,
            new_id=self._new_id,
            user_data=self._user_data,
            watch=lambda: self._fleet.settings,
            subnets=self._known_subnets,
            forecast=self._foretelling.of,
            act=self._act,
            bootstrap=self._start_bootstrap,
            tell_agent=self._fleet.send,
            members_changed=self._members_changed,
            look_at_ec2=self._look.set,
            budget=self._budget,
        )
        return Reconciler(name, shared, memories)

    def _spawn_reconciler(self, name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(self._reconcile(name), name=f"reconcile:{name}")

    async def _reconcile(self, name: str) -> None:
        reconciler = self._reconcilers[name]
        while self._reconcilers.get(name) is reconciler:
            reconciler.inbox.awake.clear()
            pause = max(COALESCE_SECONDS, BUSY_RATIO * reconciler.last_pass_seconds)
            try:
                await reconciler.run_pass()
                self._store_fault = ""
            except FencedError:
                raise  # another controller has taken over: this one must stop
            except StoreError as error:
                log.error("pass_not_journalled", group=name, error=str(error))
                self._store_fault, pause = str(error), RETRY_SECONDS
            except Exception:
                # One sick group never stops the others.
                log.exception("pass_failed", group=name)
                pause = RETRY_SECONDS
            self._progress()
            await self._clock.sleep(pause)
            await self._clock.wait(reconciler.inbox.awake, TICK_SECONDS)

    async def _watch_subnets(self) -> None:
        """Where groups may launch, asked of EC2 beside the passes: one that hangs must not hold a pass."""
        while True:
            for name in list(self._memory.groups):
                await self._refresh_subnets(name)
            await self._clock.sleep(RETRY_SECONDS)

    async def _refresh_subnets(self, name: str) -> None:
        """Asked again now and then, and whenever the document changed."""
        record, now, kept = self._memory.groups.get(name), self._clock.monotonic(), self._subnets.get(name)
        if record is None:
            return
        if kept is not None and kept[1] == record.version and now - kept[0] < SUBNETS_FRESH_SECONDS:
            return
        try:
            found = await self._cloud.subnets(record.group)
        except CloudError as error:
            log.warning("subnets_unknown", group=name, error=str(error))
            return
        self._subnets[name] = (now, record.version, found)
        self.wake(name, "subnets")

    async def _foretell(self) -> None:
        while True:
            await self._foretelling.refresh(list(self._memory.groups.values()))
            await self._clock.sleep(RETRY_SECONDS)

    def _known_subnets(self, name: str) -> tuple[tuple[str, str], ...] | None:
        """Those of an earlier document until EC2 has told the new ones; None: not told yet."""
        kept = self._subnets.get(name)
        return kept[2] if kept is not None else None

    def _members_changed(self) -> None:
        """Tell MonitorC who may speak."""
        self._fleet.expect(may_speak(self._memory.instances.values(), self._view.instances))

    def _keep_windows(self) -> None:
        windows = [
            window_seconds(policy)
            for record in self._memory.groups.values()
            for policy in record.group.policies
        ]
        self._fleet.keep(max(windows, default=1.0))

    # Acting

    def _act(self, activity: Activity, keep_console: bool) -> None:
        self._spawn(self._actor.act(activity, keep_console), f"act:{activity.activity_id}")
        self._look.set()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(_guarded(work, name), name=name)

    def _deliver(self, group: str, outcome: Outcome) -> None:
        reconciler = self._reconcilers.get(group)
        if reconciler is not None:
            reconciler.inbox.put_fact(outcome)
        else:
            self._spawn(self._end_of_deleted(outcome), f"end:{outcome.activity_id}")
        self._look.set()

    async def _end_of_deleted(self, outcome: Outcome) -> None:
        """A call of a group that is no more: nobody waits for its instances, so the answer ends it."""
        activity = self._memory.open_activities.get(outcome.activity_id)
        if activity is None:
            return
        if activity.kind is ActivityKind.LAUNCH and outcome.instances:
            await self._cloud.terminate_instances(tuple(c.instance_id for c in outcome.instances))
        elif activity.kind is ActivityKind.ATTACH and outcome.error is None:
            await self._cloud.detach_instances(activity.instance_ids)
        ended = Change(activities=(applying.ended(activity, outcome, self._clock.now()),))
        while True:
            try:
                await self._commit(ended, ())
            except FencedError:
                raise
            except StoreError as error:
                log.warning("end_not_journalled", activity_id=activity.activity_id, error=str(error))
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    def _start_bootstrap(self, instance_id: str) -> None:
        if instance_id not in self._bootstrapping:
            self._bootstrapping.add(instance_id)
            self._spawn(self._run_bootstrap(self._memory.instances[instance_id]), f"bootstrap:{instance_id}")

    async def _run_bootstrap(self, instance: Instance) -> None:
        try:
            error, output = await self._bootstrap.run(instance)
        finally:
            self._bootstrapping.discard(instance.instance_id)
        log.info("bootstrap_ended", group=instance.group, instance_id=instance.instance_id, error=error)
        reconciler = self._reconcilers.get(instance.group)
        if reconciler is not None:
            reconciler.inbox.put_fact(Bootstrapped(instance.instance_id, error, output))

    async def _commit(self, change: Change, groups: Iterable[str]) -> None:
        """A transaction outside of a pass. When it fails it may have landed all the same: `groups` are read again."""
        try:
            await self._store.commit(change)
        except StoreError:
            for name in groups:
                self._doubtful.add(name)
                if name in self._reconcilers:
                    # Its next pass would write over what landed.
                    self._reconcilers[name].in_doubt = True
            raise
        self._memory.apply(change)

    async def _clear_doubts(self) -> None:
        """Take over what the store holds of the groups whose last change may have landed. Raises StoreError."""
        for name in sorted(self._doubtful):
            reconciler = self._reconcilers.get(name)
            async with reconciler.lock if reconciler is not None else asyncio.Lock():
                state = await self._store.load()
                unknown = self._memory.reload(name, state)
                self._budget.spent(name)
            self._doubtful.discard(name)
            if name in self._memory.groups:
                self._begin(name)
            elif reconciler is not None:
                self._end(name)
            for activity in unknown:
                self._act(activity, False)

    async def _watch_doubts(self) -> None:
        while True:
            try:
                await self._clear_doubts()
            except FencedError:
                raise
            except StoreError as error:
                log.warning("store_not_read", error=str(error))
            await self._clock.sleep(RETRY_SECONDS)

    def _begin(self, name: str) -> None:
        """The group has a reconciler from now on, and its next pass soon."""
        self._keep_windows()
        if name not in self._reconcilers:
            self._reconcilers[name] = self._new_reconciler(name)
            self._spawn_reconciler(name)
        self.wake(name, "document")

    def _end(self, name: str) -> None:
        reconciler = self._reconcilers.pop(name)
        self._subnets.pop(name, None)
        gone = NotFoundError("the group was deleted meanwhile", f"groups.{name}", "apply it again")
        reconciler.inbox.refuse(reconciler.inbox.take()[1], gone)
        reconciler.inbox.awake.set()
        self._members_changed()

    async def _prune(self) -> None:
        while True:
            try:
                now = self._clock.now()
                await self._store.prune(
                    now - timedelta(days=self._settings.history_days), now - timedelta(days=DEMAND_DAYS)
                )
            except FencedError:
                raise
            except StoreError as error:
                log.warning("prune_failed", error=str(error))
            await self._clock.sleep(PRUNE_EVERY_SECONDS)

    # Questions

    def status(self) -> ControllerStatus:
        serving = sum(i.state is LifecycleState.IN_SERVICE for i in self._memory.instances.values())
        wanted = sum(record.desired_capacity for record in self._memory.groups.values())
        count = len(self._memory.groups)
        summary = f"{count} group{'' if count == 1 else 's'}, {serving:,} of {wanted:,} in service"
        held = [record for record in self._memory.groups.values() if record.suspended]
        frozen = sum(map(suspension.frozen, held))
        summary += f", {frozen} frozen" if frozen else ""
        summary += f", {len(held) - frozen} with suspended processes" if len(held) > frozen else ""
        return ControllerStatus(self._epoch, self._started_at, summary, self._cloud_fault, self._store_fault)

    def hourly_cost(self) -> tuple[float, float | None]:
        return sum(map(self._budget.cost, self._memory.groups)), self._settings.max_hourly_cost or None

    def groups(self, name: str = "") -> tuple[GroupStatus, ...]:
        records = [self._memory.record(name)] if name else self._memory.groups.values()
        return tuple(
            GroupStatus(
                record,
                _counts(self._memory.by_group[record.group.name].values()),
                tuple(
                    Condition(kind, message, since_at)
                    for kind, (message, since_at) in self._reconcilers[record.group.name].conditions.items()
                ),
                applying.outdated(self._memory, record),
                self._reconcilers[record.group.name].decisions.latest,
                next_times(record, self._clock.now(), NEXT_TIMES),
                self._budget.cost(record.group.name),
            )
            for record in records
        )

    def instances(self, group: str = "") -> tuple[InstanceStatus, ...]:
        names = [self._memory.record(group).group.name] if group else list(self._memory.groups)
        found = []
        for name in names:
            agents, reconciler = self._fleet.view(name), self._reconcilers[name]
            version = self._memory.groups[name].launch_version
            protections = dict(self._memory.groups[name].protections)
            for instance_id, instance in self._memory.by_group[name].items():
                verdict = reconciler.verdicts.get(instance_id)
                found.append(
                    InstanceStatus(
                        instance,
                        verdict.health.value if verdict else "Healthy",
                        verdict.reason if verdict else "",
                        instance.launch_version != version,
                        agents.get(instance_id),
                        self._view.instances.get(instance_id),
                        self._clock.now(),
                        protections.get(instance_id),
                    )
                )
        return tuple(found)

    def findings(self) -> tuple[Fault, ...]:
        found = []
        status, now = self.status(), self._clock.now()
        if status.cloud_fault:
            found.append(Fault("EC2", status.cloud_fault, "nothing is launched or judged until it answers"))
        if status.store_fault:
            found.append(Fault("store", status.store_fault, "nothing is done until it takes what is decided"))
        for cloud in self._view.instances.values():
            if cloud.group not in self._memory.groups and cloud.state in applying.ALIVE:
                what = f"runs with the tag of group {cloud.group}, which is not applied"
                found.append(Fault(cloud.instance_id, what, "apply the group again, or terminate it by hand"))
        for activity in self._memory.open_activities.values():
            age_seconds = (now - activity.started_at).total_seconds()
            if age_seconds > OVERDUE_SECONDS:
                what = f"{activity.kind} is under way for {age_seconds / 60:.0f} minutes: {activity.cause}"
                mend = f"journalctl -u controller-asg ASG_ACTIVITY_ID={activity.activity_id}"
                found.append(Fault(f"activity {activity.activity_id}", what, mend))
        for name, reconciler in self._reconcilers.items():
            for kind, (message, _) in reconciler.conditions.items():
                found.append(Fault(f"groups.{name}", f"{kind}: {message}", f"controller-asg why {name}"))
        return tuple(found)

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]:
        if group:
            self._memory.record(group)
        return await self._store.activities(group, limit, open_only)

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]:
        self._memory.record(group)
        return await self._store.decisions(group, limit)

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        self._memory.record(group)
        return await self._store.demand(group, since, until)

    async def forecast(self, group: str) -> Forecast | None:
        self._memory.record(group)
        return self._foretelling.of(group) or await self._foretelling.make(group)

    # Orders

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Whoever asks may go away meanwhile: what may be committed is carried out to its end all the same.

        Else the store would hold what memory does not.
        """
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._change_ended)
        return await asyncio.shield(task)

    def _change_ended(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # who has asked was told, or has gone

    async def apply_groups(
        self, documents: Mapping[str, Mapping[str, Any]], validate_only: bool, source: str = ""
    ) -> tuple[tuple[Applied, ...], tuple[Fault, ...]]:
        # Changes one at a time: two that fit the ceiling of all by themselves may break it together.
        async def in_turn() -> tuple[tuple[Applied, ...], tuple[Fault, ...]]:
            async with contextlib.nullcontext() if validate_only else self._applying:
                return await self._apply_groups(documents, validate_only, source)

        return await self._to_its_end(in_turn())

    async def _apply_groups(
        self, documents: Mapping[str, Mapping[str, Any]], validate_only: bool, source: str
    ) -> tuple[tuple[Applied, ...], tuple[Fault, ...]]:
        wanted, warnings = await applying.check(
            self._cloud, documents, source, self._user_data, self._budget.faults
        )
        await self._clear_doubts()
        if any(name not in self._memory.groups for name in documents) and not validate_only:
            # A new group finds what carries its tags already: the store may have been lost.
            await self._observe_ec2(self._clock.monotonic())
            if self._cloud_fault:
                raise CloudError(self._cloud_fault, "EC2", "apply again when EC2 answers")
        async with contextlib.AsyncExitStack() as locks:
            for name in sorted(documents):
                if name in self._reconcilers:
                    await locks.enter_async_context(self._reconcilers[name].lock)
            applied, change = applying.differences(self._memory, self._view, wanted, self._clock.now())
            if not validate_only and change.groups:
                await self._commit(change, documents)
        if not validate_only:
            for record in change.groups:
                name = record.group.name
                log.info("group_applied", group=name, version=record.version)
                self._begin(name)
            for record in change.groups:
                await self._refresh_subnets(record.group.name)
        return applied, warnings

    async def delete_group(self, name: str, force: bool, validate_only: bool) -> bool:
        return await self._to_its_end(self._delete_group(name, force, validate_only))

    async def _delete_group(self, name: str, force: bool, validate_only: bool) -> bool:
        if name not in self._memory.groups:
            return False
        async with self._reconcilers[name].lock:
            if name not in self._memory.groups:
                return False
            applying.check_deletable(self._memory.record(name).group, force)
            instances = self._memory.by_group[name].values()
            going = {*LEAVING_STATES, LifecycleState.DETACHING} - {LifecycleState.TERMINATING_WAIT}
            staying = tuple(i.instance_id for i in instances if i.state not in going)
            coming = any(
                activity.kind is ActivityKind.LAUNCH and not activity.acknowledged
                for activity in self._memory.activities_of(name)
            )
            if (staying or coming) and not force:
                raise ConflictError(
                    f"has {len(staying)} instances" + (", and more are on their way" if coming else ""),
                    f"groups.{name}",
                    "set its sizes to 0 first, or ask with force",
                )
            if validate_only:
                return True
            now = self._clock.now()
            activities: tuple[Activity, ...] = ()
            if staying:
                activities = (
                    Activity(
                        self._new_id(),
                        name,
                        ActivityKind.TERMINATE,
                        ActivityStatus.IN_PROGRESS,
                        "the group is deleted",
                        len(staying),
                        now,
                        instance_ids=staying,
                    ),
                )
            await self._commit(Change(deleted_groups=(name,), activities=activities), (name,))
            self._end(name)
        for activity in activities:
            self._act(activity, False)
        log.info("group_deleted", group=name)
        return True

    async def set_desired_capacity(self, group: str, desired: int, actor: str) -> tuple[int, int]:
        record = self._memory.record(group)
        low, high = record.min_size, record.max_size
        if not low <= desired <= high:
            what = f"{desired} is outside of min_size {low} to max_size {high}"
            raise SpecError((Fault(f"groups.{group}.desired_capacity", what, f"write {low} to {high}"),))
        await self._order(group, SetDesired(desired, actor))
        return record.desired_capacity, self._memory.record(group).desired_capacity

    async def launch_instances(self, group: str, count: int, actor: str, validate_only: bool = False) -> int:
        record = self._memory.record(group)
        wanted = record.desired_capacity + count
        if wanted > record.max_size:
            what = f"{wanted} would be above max_size {record.max_size}"
            raise ConflictError(what, f"groups.{group}", "raise max_size, or terminate an instance first")
        await self._order(group, SetDesired(wanted, actor), validate_only)
        return wanted if validate_only else self._memory.record(group).desired_capacity

    async def execute_policy(
        self,
        group: str,
        policy: str,
        actor: str,
        *,
        honor_cooldown: bool = False,
        metric_value: float | None = None,
        breach_threshold: float | None = None,
        message_id: str = "",
    ) -> tuple[int, int, bool]:
        record = self._memory.record(group)
        if message_id and execution.heard(record, policy, message_id):
            return record.desired_capacity, record.desired_capacity, False
        order = ExecutePolicy(policy, actor, honor_cooldown, metric_value, breach_threshold, message_id)
        execution.check(record, order, self._clock.now())
        await self._order(group, order)
        return record.desired_capacity, self._memory.record(group).desired_capacity, True

    async def terminate_instance(
        self, instance_id: str, decrement: bool, actor: str, validate_only: bool = False
    ) -> tuple[str, int, bool]:
        instance = self._memory.instance(instance_id)
        changed = instance.state not in LEAVING_STATES
        if instance.state is LifecycleState.DETACHING:
            raise ConflictError("is being detached", instance_id, "terminate it at EC2 once it is")
        if changed or instance.state is LifecycleState.TERMINATING_WAIT:
            suspension.refuse_termination(self._memory.record(instance.group), instance_id)
            await self._order(instance.group, Terminate(instance_id, decrement, actor), validate_only)
        record = self._memory.record(instance.group)
        desired = record.desired_capacity
        if validate_only and changed and decrement and instance.state not in APART_STATES:
            desired = max(desired - 1, record.min_size)
        return instance.group, desired, changed

    async def protect_instances(
        self,
        instance_ids: tuple[str, ...],
        protected: bool,
        actor: str,
        validate_only: bool,
        reason: str = "",
        until_at: datetime | None = None,
    ) -> tuple[str, ...]:
        order = Protect(instance_ids, protected, actor, reason, until_at)
        changing = [
            instance
            for instance in map(self._memory.instance, instance_ids)
            if instance.state not in LEAVING_STATES
            and suspension.protection_differs(self._memory.record(instance.group), instance, order)
        ]
        for group in sorted({i.group for i in changing}):
            ids = tuple(i.instance_id for i in changing if i.group == group)
            await self._order(group, Protect(ids, protected, actor, reason, until_at), validate_only)
        return tuple(i.instance_id for i in changing)

    async def move_instances(
        self, order: Move, validate_only: bool, group: str = ""
    ) -> tuple[str, tuple[str, ...], int]:
        if isinstance(order, Attach):
            self._memory.record(group)
            async with self._attaching:
                zones = {zone for _, zone in self._known_subnets(group) or ()}
                await check_attachable(self._cloud, self._memory, group, order.instance_ids, zones)
                return await self._move(group, order, validate_only)
        groups = sorted({self._memory.instance(instance_id).group for instance_id in order.instance_ids})
        if len(groups) > 1:
            what = f"are of several groups: {', '.join(groups)}"
            raise SpecError((Fault("instance_ids", what, "ask for each group by itself"),))
        return await self._move(groups[0], order, validate_only)

    async def _move(self, group: str, order: Move, validate_only: bool) -> tuple[str, tuple[str, ...], int]:
        ids, change = self._moving(group, order)
        if ids:
            await self._order(group, order, validate_only)
        if not ids or validate_only:
            return group, ids, self._memory.record(group).desired_capacity + change
        left, _ = self._moving(group, order)
        if left:
            raise ConflictError("the group's pass left them as they are", ", ".join(left), "ask again")
        return group, ids, self._memory.record(group).desired_capacity

    def _moving(self, group: str, order: Move) -> tuple[tuple[str, ...], int]:
        activities = {each.activity_id: each for each in self._memory.activities_of(group)}
        return membership.moving(order, self._memory.record(group), self._memory.by_group[group], activities)

    async def suspend(
        self, group: str, processes: tuple[Process, ...], hold: Hold, validate_only: bool
    ) -> tuple[str, ...]:
        def change(record: GroupRecord) -> GroupRecord:
            return suspension.suspend(record, processes, hold)

        return await self._to_its_end(self._change_records(group, change, validate_only))

    async def resume(
        self, group: str, processes: tuple[Process, ...], validate_only: bool
    ) -> tuple[str, ...]:
        def change(record: GroupRecord) -> GroupRecord:
            return suspension.resume(record, processes)

        return await self._to_its_end(self._change_records(group, change, validate_only))

    async def _change_records(
        self, group: str, change: Callable[[GroupRecord], GroupRecord], validate_only: bool
    ) -> tuple[str, ...]:
        """In one transaction for all of them, between passes, and whether EC2 answers or not."""
        await self._clear_doubts()
        names = [self._memory.record(group).group.name] if group else sorted(self._memory.groups)
        if not names:
            raise ConflictError("there is none", "groups", "apply one first")
        async with contextlib.AsyncExitStack() as locks:
            for name in names:
                await locks.enter_async_context(self._reconcilers[name].lock)
            pairs = [(self._memory.record(name), change(self._memory.record(name))) for name in names]
            changed = tuple(after for before, after in pairs if after != before)
            if changed and not validate_only:
                await self._commit(Change(groups=changed), names)
        for record in changed:
            self.wake(record.group.name, "suspension")
        return tuple(record.group.name for record in changed)

    async def set_instance_health(
        self, instance_id: str, healthy: bool, actor: str, validate_only: bool = False
    ) -> bool:
        instance = self._memory.instance(instance_id)
        if instance.state in LEAVING_STATES:
            raise ConflictError("is on its way out", instance_id, "its health matters no more")
        changed = bool(instance.marked_unhealthy) == healthy
        if changed:
            await self._order(instance.group, SetHealth(instance_id, healthy, actor), validate_only)
        return changed

    async def complete_lifecycle_action(
        self, meant: LifecycleAction, result: str, actor: str
    ) -> tuple[str, str]:
        wanted = lifecycle_actions.checked(result)
        instance, hook = lifecycle_actions.find(self._memory, meant)
        await self._order(instance.group, CompleteAction(instance.instance_id, hook.token, wanted, actor))
        return instance.instance_id, hook.name

    async def record_lifecycle_action_heartbeat(self, meant: LifecycleAction) -> tuple[str, str]:
        instance, hook = lifecycle_actions.find(self._memory, meant)
        await self._order(instance.group, RecordHeartbeat(instance.instance_id, hook.token))
        return instance.instance_id, hook.name

    def instance_refresh(self, group: str) -> RefreshProgress:
        record = self._memory.record(group)
        instances = self._memory.by_group[group].values()
        return refreshing.progress(record, instances, self._fleet.view(group), self._clock.now())

    async def start_instance_refresh(
        self, group: str, preferences: Mapping[str, Any], actor: str, validate_only: bool
    ) -> str:
        record = self._memory.record(group)
        whole = parse_preferences(preferences, record.group)
        refreshing.check_start(record)
        refresh_id = self._new_id()
        await self._order(group, RefreshOrder("start", actor, refresh_id, whole), validate_only)
        return "" if validate_only else refresh_id

    async def change_instance_refresh(
        self, group: str, action: RefreshAction, actor: str, validate_only: bool
    ) -> bool:
        changed = refreshing.changes(self._memory.record(group), action)
        if changed:
            await self._order(group, RefreshOrder(action, actor), validate_only)
        return changed

    async def _order(self, group: str, order: Order, validate_only: bool = False) -> None:
        """Put it to the group's next pass, and wait until that is journalled; or only see whether that can be."""
        if not self.observed:
            raise ConflictError(
                "EC2 has not answered since the start", f"groups.{group}", "ask again in a moment"
            )
        if not validate_only:
            await self._reconcilers[group].inbox.put_order(order)


def _counts(instances: Iterable[Instance]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for instance in instances:
        counts[instance.state.value] = counts.get(instance.state.value, 0) + 1
    return counts


async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        # The edge of a task: its failure is told, and stops nobody else.
        log.exception("task_failed", task=name)
