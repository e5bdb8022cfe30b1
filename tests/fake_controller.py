"""A controller in memory, for the doors' tests: two groups that obey orders at once, and errors on cue."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from controller_asg.engine import refreshing
from controller_asg.engine.controller import (
    Applied,
    Condition,
    ControllerStatus,
    GroupStatus,
    InstanceStatus,
)
from controller_asg.engine.lifecycle_actions import LifecycleAction, checked, find
from controller_asg.engine.memory import Memory
from controller_asg.engine.refreshing import RefreshProgress
from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.decision import Decision, Step, Vote
from controller_asg.model.document import parse_groups
from controller_asg.model.errors import AsgError, ConflictError, Fault, NotFoundError, SpecError
from controller_asg.model.group import group_to_dict
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import AgentView, Lease, LifecycleState
from controller_asg.model.lifecycle_hook import OpenHook
from controller_asg.model.record import DemandMinute, GroupRecord, Scheduled, State
from controller_asg.model.refresh import InstanceRefresh, RefreshStatus, parse_preferences
from controller_asg.planner.schedule import next_times
from controller_asg.planner.snapshot import Move, RefreshAction
from controller_asg.planner.suspension import suspend
from controller_asg.policy.forecast import Forecast
from tests.making import NOW, cloud, instance, record

A, B, C = (f"i-{number:017x}" for number in (1, 2, 3))  # A and B of web (min 2), C of jobs (min 0)
METRIC_MISSING = "no agent reports app.queue, so policy target_tracking abstains"


MORNING = {
    "name": "morning",
    "recurrence": "0 8 * * *",
    "time_zone": "Europe/Berlin",
    "duration_seconds": 36_000,
    "min_size": 1,
    "desired_capacity": 3,
}


HOOK = OpenHook("save-logs", "token-1", "terminate", NOW, NOW, 60.0, "ABANDON", "save.sh", "")


class FakeController:
    """Implements `Controller`. `failing` is raised by the next call, `orders` tells what was ordered."""

    def __init__(self) -> None:
        self.records = {
            "web": record(desired=2),
            "jobs": replace(
                record(desired=1, name="jobs", min_size=0, scheduled_actions=[MORNING]),
                scheduled=(Scheduled("morning", NOW - timedelta(hours=5), in_force=True),),
            ),
        }
        self.members = {
            A: instance(1),
            B: instance(2, protected_from_scale_in=True),
            C: replace(instance(3), group="jobs"),
        }
        self.orders: list[tuple[Any, ...]] = []
        self.failing: Exception | None = None
        self.decided = [decision()]
        self.leases: tuple[Lease, ...] | None = None  # of A
        self.found: tuple[Fault, ...] = ()
        self.foretold: Forecast | None = Forecast(NOW.timestamp(), (1.5,) * 24, "14.0 days", 0.125)
        self.refresh_becomes: list[dict[str, Any]] = []  # at each look
        self.minutes = [DemandMinute("web", NOW + timedelta(minutes=n), 1.5, 2.0) for n in range(3)]

    def _may_fail(self) -> None:
        if self.failing is not None:
            failing, self.failing = self.failing, None
            raise failing

    def _record(self, name: str) -> GroupRecord:
        if name not in self.records:
            raise NotFoundError("is no group of ours", f"groups.{name}", "see `controller-asg groups`")
        return self.records[name]

    def status(self) -> ControllerStatus:
        self._may_fail()
        return ControllerStatus(
            7, NOW, "2 groups, 3 of 3 in service", "RequestLimitExceeded", "database or disk is full"
        )

    def hourly_cost(self) -> tuple[float, float | None]:
        return 0.0348, 0.5

    def groups(self, name: str = "") -> tuple[GroupStatus, ...]:
        self._may_fail()
        found = [self._record(name)] if name else list(self.records.values())
        return tuple(
            GroupStatus(
                each,
                {"InService": sum(m.group == each.group.name for m in self.members.values())},
                (Condition("MetricMissing", METRIC_MISSING, NOW),) if each.group.name == "web" else (),
                (A,) if each.group.name == "web" else (),
                self.decided[0] if each.group.name == "web" and self.decided else None,
                next_times(each, NOW, 5),
                0.0232,
            )
            for each in found
        )

    def instances(self, group: str = "") -> tuple[InstanceStatus, ...]:
        self._may_fail()
        if group:
            self._record(group)
        return tuple(
            InstanceStatus(
                each,
                "Healthy" if each.instance_id == A else "Suspect",
                "" if each.instance_id == A else "silent for 3 s",
                each.instance_id == A,
                AgentView(each.instance_id, 0.4, metrics={"cpu_percent": 41.25}, leases=self.leases)
                if each.instance_id == A
                else None,
                cloud(each),
                NOW,
                Hold("anna", "a long job", NOW, NOW + timedelta(hours=1)) if each.instance_id == B else None,
            )
            for each in self.members.values()
            if group in ("", each.group)
        )

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]:
        self._may_fail()
        if group:
            self._record(group)
        ended = activity("11111111", ActivityStatus.SUCCESSFUL)
        found = [replace(ended, ended_at=NOW + timedelta(seconds=41)), activity("22222222")]
        if open_only:
            found = found[1:]
        return tuple(found[:limit])

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]:
        self._may_fail()
        self._record(group)
        return tuple(self.decided[:limit])

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        self._may_fail()
        self._record(group)
        return tuple(minute for minute in self.minutes if since <= minute.minute_at < until)

    async def forecast(self, group: str) -> Forecast | None:
        self._may_fail()
        self._record(group)
        return self.foretold

    async def execute_policy(
        self, group: str, policy: str, actor: str, *, message_id: str = "", **keys: Any
    ) -> tuple[int, int, bool]:
        self._may_fail()
        self._record(group)
        self.orders.append(("execute", group, policy, actor, message_id, keys))
        return 2, 4, message_id != "msg_known"

    async def apply_groups(
        self, documents: Mapping[str, Mapping[str, Any]], validate_only: bool, source: str = ""
    ) -> tuple[tuple[Applied, ...], tuple[Fault, ...]]:
        self._may_fail()
        self.orders.append(("apply", tuple(documents), validate_only, source))
        wanted = parse_groups(documents, source)
        warning = Fault("groups.web.policies[0].metric", "is reported by no agent", "see that it is sent")
        return tuple(Applied(each.name, None, group_to_dict(each), 1) for each in wanted), (warning,)

    async def delete_group(self, name: str, force: bool, validate_only: bool) -> bool:
        self._may_fail()
        if name in self.records and not force:
            raise ConflictError("has 2 instances", f"groups.{name}", "ask with force")
        return self.records.pop(name, None) is not None

    async def set_desired_capacity(self, group: str, desired: int, actor: str) -> tuple[int, int]:
        self._may_fail()
        old = self._record(group)
        low, high = old.group.min_size, old.group.max_size
        if not low <= desired <= high:
            what = f"{desired} is outside of min_size {low} to max_size {high}"
            raise SpecError((Fault(f"groups.{group}.desired_capacity", what, f"write {low} to {high}"),))
        self.orders.append(("set_desired", group, desired, actor))
        self.records[group] = replace(old, desired_capacity=desired)
        return old.desired_capacity, desired

    async def launch_instances(self, group: str, count: int, actor: str, validate_only: bool = False) -> int:
        self._may_fail()
        old = self._record(group)
        wanted = old.desired_capacity + count
        if wanted > old.group.max_size:
            what = f"{wanted} would be above max_size {old.group.max_size}"
            raise ConflictError(what, f"groups.{group}", "raise max_size")
        if validate_only:
            return wanted
        self.orders.append(("launch", group, count, actor))
        self.records[group] = replace(old, desired_capacity=wanted)
        return wanted

    async def terminate_instance(
        self, instance_id: str, decrement: bool, actor: str, validate_only: bool = False
    ) -> tuple[str, int, bool]:
        self._may_fail()
        if instance_id not in self.members:
            raise NotFoundError("is no instance of ours", f"instances.{instance_id}", "nothing was touched")
        member = self.members[instance_id]
        old = self.records[member.group]
        if member.state is LifecycleState.TERMINATING:
            return member.group, old.desired_capacity, False
        desired = max(old.desired_capacity - decrement, old.group.min_size)
        if validate_only:
            return member.group, desired, True
        self.orders.append(("terminate", instance_id, decrement, actor))
        self.members[instance_id] = replace(member, state=LifecycleState.TERMINATING)
        self.records[member.group] = replace(old, desired_capacity=desired)
        return member.group, desired, True

    async def protect_instances(
        self,
        instance_ids: tuple[str, ...],
        protected: bool,
        actor: str,
        validate_only: bool,
        reason: str = "",
        until_at: datetime | None = None,
    ) -> tuple[str, ...]:
        self._may_fail()
        changed = tuple(i for i in instance_ids if self.members[i].protected_from_scale_in != protected)
        if not validate_only:
            hold = (reason, until_at) if reason or until_at else ()
            self.orders.append(("protect", instance_ids, protected, actor, *hold))
        return changed

    async def move_instances(
        self, order: Move, validate_only: bool, group: str = ""
    ) -> tuple[str, tuple[str, ...], int]:
        self._may_fail()
        if not validate_only:
            self.orders.append(("move", order, group))
        return group or "web", order.instance_ids, 2

    async def suspend(
        self, group: str, processes: tuple[Process, ...], hold: Hold, validate_only: bool
    ) -> tuple[str, ...]:
        self._may_fail()
        if not validate_only:
            self.orders.append(("suspend", group, processes, hold))
            for name in [group] if group else list(self.records):
                self.records[name] = suspend(self._record(name), processes, hold)
        return (group,) if group else tuple(self.records)

    async def resume(
        self, group: str, processes: tuple[Process, ...], validate_only: bool
    ) -> tuple[str, ...]:
        self._may_fail()
        self.orders.append(("resume", group, processes))
        return (group,) if group else tuple(self.records)

    async def set_instance_health(
        self, instance_id: str, healthy: bool, actor: str, validate_only: bool = False
    ) -> bool:
        self._may_fail()
        if instance_id not in self.members:
            raise NotFoundError("is no instance of ours", f"instances.{instance_id}", "nothing was touched")
        if not validate_only:
            self.orders.append(("health", instance_id, healthy, actor))
        return not healthy

    async def complete_lifecycle_action(
        self, meant: LifecycleAction, result: str, actor: str
    ) -> tuple[str, str]:
        self._may_fail()
        instance, hook = find(self._memory(), meant)
        self.orders.append(("complete", hook.token, checked(result).value, actor))
        return instance.instance_id, hook.name

    async def record_lifecycle_action_heartbeat(self, meant: LifecycleAction) -> tuple[str, str]:
        self._may_fail()
        instance, hook = find(self._memory(), meant)
        self.orders.append(("heartbeat", hook.token))
        return instance.instance_id, hook.name

    def _memory(self) -> Memory:
        return Memory(State(tuple(self.records.values()), tuple(self.members.values()), ()))

    def instance_refresh(self, group: str) -> RefreshProgress:
        self._may_fail()
        record = self._record(group)
        if record.refresh is not None and self.refresh_becomes:
            changed = replace(record.refresh, **self.refresh_becomes.pop(0))
            record = self.records[group] = replace(record, refresh=changed)
        return refreshing.progress(record, self.members.values(), {}, NOW)

    async def start_instance_refresh(
        self, group: str, preferences: Mapping[str, Any], actor: str, validate_only: bool
    ) -> str:
        self._may_fail()
        old = self._record(group)
        whole = parse_preferences(preferences, old.group)
        refreshing.check_start(old)
        if validate_only:
            return ""
        self.orders.append(("start refresh", group, actor))
        begun = InstanceRefresh("r-1", "new", "old", whole, RefreshStatus.IN_PROGRESS, NOW, actor)
        self.records[group] = replace(old, refresh=begun)
        return "r-1"

    async def change_instance_refresh(
        self, group: str, action: RefreshAction, actor: str, validate_only: bool
    ) -> bool:
        self._may_fail()
        changed = refreshing.changes(self._record(group), action)
        self.orders.append((action, group, actor))
        return changed

    def findings(self) -> tuple[Fault, ...]:
        return self.found


class FakeDaemon:
    """What the admin service asks of the daemon around it."""

    version = "9.9.9"

    def __init__(self) -> None:
        self.settings_fault = ""
        self.refusing: AsgError | None = None

    def public_settings(self) -> Mapping[str, str]:
        return {"region": "eu-central-1"}

    async def reload(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.refusing is not None:
            raise self.refusing
        return ("log_level",), ("http_listen",)


def activity(number: str, status: ActivityStatus = ActivityStatus.IN_PROGRESS) -> Activity:
    return Activity(number, "web", ActivityKind.LAUNCH, status, "cpu_percent 91 on one", 1, NOW, (A,))


def decision() -> Decision:
    return Decision(
        group="web",
        first_at=NOW,
        last_at=NOW + timedelta(seconds=40),
        desired_before=2,
        desired_after=3,
        votes=(
            Vote("thresholds", 6, "cpu_percent 91 is above 80"),
            Vote("target_tracking", None, "app.queue: no sample in 10 s"),
        ),
        steps=(
            Step("max_size", 6, 5, "never more than 5"),
            Step("cooldown", 3, 3, "11 s of 30 s are over"),
        ),
        actions=("launch 1 in us-east-1a",),
        summary="web 2 → 3: launch 1 in us-east-1a",
        count=40,
        decision_id=12,
    )
