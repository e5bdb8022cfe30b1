"""One group's reconciler: observe, decide, journal, act, record. It holds no rule of its own."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from controller_asg.engine.budget import Budget
from controller_asg.engine.decision_log import DecisionLog
from controller_asg.engine.inbox import Inbox
from controller_asg.engine.memory import Memory
from controller_asg.engine.policy_memories import Remembering
from controller_asg.engine.view import CloudView
from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.agent_order import AgentOrder
from controller_asg.model.clock import Clock
from controller_asg.model.errors import StoreError
from controller_asg.model.group import Group
from controller_asg.model.instance import AgentView
from controller_asg.model.launch import launch_request
from controller_asg.model.offering import Market
from controller_asg.model.record import Change
from controller_asg.monitor.fleet import WatchSettings
from controller_asg.planner.health import Health, Verdict
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Fact, Member, Order, Snapshot
from controller_asg.policy.forecast import Forecast
from controller_asg.store.port import Store

log = structlog.get_logger()

# Passes are made every second at least. A gap of more than this, or a wall clock that moved by so much against the
# monotonic one, and nobody can say what instances did meanwhile.
GAP_SECONDS = 5.0
STEP_SECONDS = 1.0
WATCHED_SPANS = 1_000  # that are remembered; what is forgotten counts as not watched

NO_CHANGE = Change()


class Agents(Protocol):
    """What a pass asks of MonitorC."""

    def view(self, group: str) -> Mapping[str, AgentView]: ...


@dataclass(slots=True)
class Shared:
    """What all reconcilers have in common."""

    store: Store
    clock: Clock
    agents: Agents
    memory: Memory
    view: CloudView
    new_id: Callable[[], str]
    user_data: Callable[[Group], str]
    watch: Callable[[], WatchSettings]
    subnets: Callable[[str], tuple[tuple[str, str], ...] | None]
    forecast: Callable[[str], Forecast | None]
    # Carry out what was journalled: (activity, keep its instances' console).
    act: Callable[[Activity, bool], None]
    bootstrap: Callable[[str], None]
    tell_agent: Callable[[str, AgentOrder], bool]
    members_changed: Callable[[], None]
    look_at_ec2: Callable[[], None]
    budget: Budget


class Reconciler:
    """`lock` is held for a pass, and by whoever else changes the group's record."""

    def __init__(self, name: str, shared: Shared, memories: str = "") -> None:
        self.name = name
        self.lock = asyncio.Lock()
        self.inbox = Inbox()
        self.conditions: dict[str, tuple[str, datetime]] = {}  # kind -> (message, since)
        self.verdicts: Mapping[str, Verdict] = {}
        self.decisions = DecisionLog()
        self.last_pass_seconds = 0.0
        self._shared = shared
        self._memories = Remembering(name, memories)
        self.in_doubt = False  # a commit that failed may have landed
        self._watching_since_at: datetime | None = None
        self._watched_before = deque[tuple[datetime, datetime]](maxlen=WATCHED_SPANS)
        self._looked_at: tuple[datetime, float] | None = None  # wall clock and monotonic, at the last pass

    async def run_pass(self) -> None:
        """Raises StoreError when nothing could be journalled; then nothing was done either."""
        async with self.lock:
            if self.in_doubt:
                await self._read_again()
            if self.name not in self._shared.memory.groups:
                return
            facts, orders = self.inbox.take()
            try:
                started = self._shared.clock.monotonic()
                snapshot = self._observe(facts, tuple(order for order, _ in orders))
                planned = plan(snapshot)
                self.last_pass_seconds = self._shared.clock.monotonic() - started
                activities = await self._journal(snapshot, planned)
            except BaseException as error:
                self.inbox.give_back(facts)
                self.in_doubt = isinstance(error, StoreError)
                refusal = (
                    error
                    if isinstance(error, StoreError)
                    else StoreError("the pass failed", self.name, "ask again")
                )
                self.inbox.refuse(orders, refusal)
                raise
            self._act(planned, activities)
            self._remember(snapshot, planned)
            for _, done in orders:
                if not done.done():
                    done.set_result(None)
            # Last, and in a commit of its own: no launch waits for so large a document.
            now = self._shared.clock.monotonic()
            self._memories.recording.pass_made(planned.fleet, snapshot.members, snapshot.now, now)
            await self._memories.save(self._shared.store, planned.record.desired_capacity, now)

    async def _read_again(self) -> None:
        """A commit that failed may have landed all the same: what the store holds is what was decided."""
        state = await self._shared.store.load()
        for activity in self._shared.memory.reload(self.name, state):
            self._shared.act(activity, False)
        self._shared.budget.spent(self.name)
        self._shared.members_changed()
        self.in_doubt = False

    def _watching_since(self, now_at: datetime, now: float, answers: bool) -> datetime:
        """Since when we have watched without a gap: passes in time, a steady clock, and answers of EC2."""
        before, self._looked_at = self._looked_at, (now_at, now)
        since_at = self._watching_since_at
        if before is None or since_at is None:
            since_at = now_at
        elif abs((now_at - before[0]).total_seconds() - (now - before[1])) > STEP_SECONDS:
            self._watched_before.clear()  # its times are another clock's
            since_at = now_at
        elif now - before[1] > GAP_SECONDS or not answers:
            if since_at < before[0]:
                self._watched_before.append((since_at, before[0]))
            since_at = now_at
        self._watching_since_at = since_at
        return since_at

    def _observe(self, facts: tuple[Fact, ...], orders: tuple[Order, ...]) -> Snapshot:
        shared, memory = self._shared, self._shared.memory
        now_at, now = shared.clock.now(), shared.clock.monotonic()
        answers = shared.view.answers(now)
        clouds, agents = shared.view.group(self.name), shared.agents.view(self.name)
        instances = memory.by_group[self.name]
        return Snapshot(
            now=now_at,
            record=memory.groups[self.name],
            members=tuple(
                Member(
                    instance,
                    clouds.get(instance_id),
                    agents.get(instance_id),
                    shared.view.missing_seconds(instance_id),
                )
                for instance_id, instance in instances.items()
            ),
            open_activities=memory.activities_of(self.name),
            observed=shared.view.observed,
            answers=answers,
            silence_seconds=shared.watch().silent_after_seconds,
            ping_timeout_seconds=shared.watch().ping_timeout_seconds,
            watching_since_at=self._watching_since(now_at, now, bool(answers)),
            watched_before=tuple(self._watched_before),
            strangers=tuple(c for i, c in clouds.items() if i not in instances),
            subnets=shared.subnets(self.name),
            facts=facts,
            orders=orders,
            memories=self._memories.of(memory.groups[self.name].group.policies),
            prices=shared.budget.prices,
            cost_left=shared.budget.left(self.name),
            forecast=shared.forecast(self.name),
        )

    async def _journal(self, snapshot: Snapshot, planned: Plan) -> list[tuple[Activity, bool]]:
        """One transaction for all that was decided, before any call. Returns the new activities."""
        shared, now = self._shared, snapshot.now
        new: list[tuple[Activity, bool]] = []
        for launch in planned.launches:
            activity_id, template = shared.new_id(), launch.template
            offering = launch.offering
            parameters = replace(
                template.launch,
                instance_type=offering.instance_type,
                spot=offering.market is Market.SPOT,
            )
            group = replace(planned.record.group, launch=parameters, bootstrap=template.bootstrap)
            request = launch_request(
                group,
                template.image_id,
                template.version,
                activity_id,
                launch.count,
                launch.subnet_id,
                offering.zone,
                shared.user_data(group),
            )
            new.append(
                (
                    Activity(
                        activity_id,
                        self.name,
                        ActivityKind.LAUNCH,
                        ActivityStatus.IN_PROGRESS,
                        launch.cause,
                        launch.count,
                        now,
                        launch=request,
                    ),
                    False,
                )
            )
        for termination in planned.terminations:
            new.append(
                (
                    Activity(
                        shared.new_id(),
                        self.name,
                        ActivityKind.TERMINATE,
                        ActivityStatus.IN_PROGRESS,
                        termination.cause,
                        len(termination.instance_ids),
                        now,
                        instance_ids=termination.instance_ids,
                        details=termination.details,
                    ),
                    termination.keep_console,
                )
            )
        for tagging in planned.taggings:
            new.append(
                (
                    Activity(
                        shared.new_id(),
                        self.name,
                        tagging.kind,
                        ActivityStatus.IN_PROGRESS,
                        tagging.cause,
                        len(tagging.instance_ids),
                        now,
                        instance_ids=tagging.instance_ids,
                    ),
                    False,
                )
            )
        decision = self.decisions.to_write(planned.decision)
        change = Change(
            groups=(planned.record,) if planned.record != snapshot.record else (),
            instances=planned.instances,
            deleted_instances=planned.gone,
            activities=(*planned.activities, *(activity for activity, _ in new)),
            decision=decision,
        )
        decision_id = 0
        if change != NO_CHANGE:
            shared.budget.reserve(self.name, planned.hourly_cost)
            decision_id = await shared.store.commit(change)
            shared.memory.apply(change)
            shared.view.forget(planned.gone)
            shared.budget.spent(self.name)
            shared.memory.link([activity.activity_id for activity, _ in new], decision_id)
        self.decisions.passed(planned.decision, decision, decision_id)
        if planned.instances or planned.gone:
            shared.members_changed()
        return new

    def _act(self, planned: Plan, activities: list[tuple[Activity, bool]]) -> None:
        for activity, keep_console in activities:
            log.info(
                "activity_started",
                group=self.name,
                activity_id=activity.activity_id,
                kind=activity.kind.value,
                instance_count=activity.instance_count,
                reason=activity.cause,
            )
            self._shared.act(activity, keep_console)
        for instance_id in planned.bootstraps:
            self._shared.bootstrap(instance_id)
        for instance_id, order in planned.agent_orders:
            self._shared.tell_agent(instance_id, order)

    def _remember(self, snapshot: Snapshot, planned: Plan) -> None:
        """What status shows until the next pass."""
        self.verdicts = planned.verdicts
        self.conditions = {
            kind: (message, self.conditions[kind][1] if kind in self.conditions else snapshot.now)
            for kind, message in planned.conditions
        }
        if any(v.health is Health.SUSPECT for v in planned.verdicts.values()):
            self._shared.look_at_ec2()
        for instance in planned.instances:
            log.info(
                "instance_moved",
                group=self.name,
                instance_id=instance.instance_id,
                state=instance.state.value,
                reason=instance.reason,
            )
        for activity in planned.activities:
            if activity.ended_at is not None:
                log.info(
                    "activity_ended",
                    group=self.name,
                    activity_id=activity.activity_id,
                    status=activity.status.value,
                    reason=activity.status_message,
                )
