"""The controller as its doors see it: every question and every order that the admin API, HTTP and CLI can put."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.engine.refreshing import RefreshProgress
from controller_asg.model.activity import Activity
from controller_asg.model.decision import Decision
from controller_asg.model.errors import Fault
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import AgentView, CloudInstance, Instance
from controller_asg.model.record import DemandMinute, GroupRecord
from controller_asg.model.scheduled_action import ScheduledAction
from controller_asg.planner.snapshot import Move, RefreshAction
from controller_asg.policy.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is true of a group and that an operator should know."""

    kind: str
    message: str
    since_at: datetime


@dataclass(frozen=True, slots=True)
class GroupStatus:
    record: GroupRecord
    instance_counts: Mapping[str, int]  # by lifecycle state
    conditions: tuple[Condition, ...]
    outdated_instance_ids: tuple[str, ...]
    last_decision: Decision | None
    next_times: tuple[tuple[datetime, ScheduledAction], ...]  # of its scheduled actions
    hourly_cost: float  # USD; what has no price counts nothing


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    instance: Instance
    health: str  # Healthy, Suspect, Unhealthy
    health_reason: str
    outdated: bool
    agent: AgentView | None
    cloud: CloudInstance | None
    as_of: datetime
    protection: Hold | None = None  # who set its scale-in protection, why and until when


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying one document did, or would do. Documents are whole, defaults filled in; None: no such group."""

    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    version: int
    outdated_instance_ids: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    epoch: int
    started_at: datetime
    summary: str  # "2 groups, 5 of 5 in service"
    cloud_fault: str
    store_fault: str = ""


class Controller(Protocol):
    """Raises SpecError, NotFoundError, ConflictError, StoreError and CloudError; each changes nothing then."""

    def status(self) -> ControllerStatus: ...

    def hourly_cost(self) -> tuple[float, float | None]:
        """(of all groups by their records, the ceiling on it), in USD; None: there is no ceiling."""

    def groups(self, name: str = "") -> tuple[GroupStatus, ...]:
        """All groups, or the one; NotFoundError for an unknown name."""

    def instances(self, group: str = "") -> tuple[InstanceStatus, ...]: ...

    def findings(self) -> tuple[Fault, ...]:
        """What is not as it should be, each with what to do about it; empty when all is well."""

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]: ...

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]: ...

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        """By the minute, the oldest first; what begins at `until` is left out."""

    async def forecast(self, group: str) -> Forecast | None:
        """Of the group's demand; None: too little of it is recorded."""

    async def apply_groups(
        self, documents: Mapping[str, Mapping[str, Any]], validate_only: bool, source: str = ""
    ) -> tuple[tuple[Applied, ...], tuple[Fault, ...]]:
        """All documents or none. Returns what changed (or would), and warnings."""

    async def delete_group(self, name: str, force: bool, validate_only: bool) -> bool:
        """False when there was no such group."""

    async def set_desired_capacity(self, group: str, desired: int, actor: str) -> tuple[int, int]:
        """(before, after). SpecError outside of the bounds."""

    async def launch_instances(self, group: str, count: int, actor: str, validate_only: bool = False) -> int:
        """Raise desired capacity by `count`; returns it, or what it would be. ConflictError beyond max_size."""

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
        """Desired capacity (before, after), and whether it was executed: not for a message that came before."""

    async def terminate_instance(
        self, instance_id: str, decrement: bool, actor: str, validate_only: bool = False
    ) -> tuple[str, int, bool]:
        """(group, desired capacity, changed), or what they would be. NotFoundError for an instance that is not ours."""

    async def protect_instances(
        self,
        instance_ids: tuple[str, ...],
        protected: bool,
        actor: str,
        validate_only: bool,
        reason: str = "",
        until_at: datetime | None = None,
    ) -> tuple[str, ...]:
        """The ids that changed (or would). The protection ends by itself at `until_at`."""

    async def move_instances(
        self, order: Move, validate_only: bool, group: str = ""
    ) -> tuple[str, tuple[str, ...], int]:
        """(group, the ids that move, desired capacity then). `group` is for those that are attached.

        ConflictError where a state or a bound does not allow it; SpecError for instances of several groups.
        """

    async def suspend(
        self, group: str, processes: tuple[Process, ...], hold: Hold, validate_only: bool
    ) -> tuple[str, ...]:
        """The groups in which that changes something; without a group all. ConflictError where there is none."""

    async def resume(
        self, group: str, processes: tuple[Process, ...], validate_only: bool
    ) -> tuple[str, ...]:
        """As `suspend`."""

    async def set_instance_health(
        self, instance_id: str, healthy: bool, actor: str, validate_only: bool = False
    ) -> bool:
        """Mark it unhealthy, so that it is replaced, or take that back. Returns whether that changes anything."""

    async def complete_lifecycle_action(
        self, meant: LifecycleAction, result: str, actor: str
    ) -> tuple[str, str]:
        """(instance id, hook) of the open hook that ends with `result`, CONTINUE or ABANDON."""

    async def record_lifecycle_action_heartbeat(self, meant: LifecycleAction) -> tuple[str, str]:
        """(instance id, hook) of the open hook whose heartbeat timeout counts from now."""

    def instance_refresh(self, group: str) -> RefreshProgress:
        """The last one. NotFoundError where there was none."""

    async def start_instance_refresh(
        self, group: str, preferences: Mapping[str, Any], actor: str, validate_only: bool
    ) -> str:
        """The new refresh's id; "" with `validate_only`. ConflictError while one is under way."""

    async def change_instance_refresh(
        self, group: str, action: RefreshAction, actor: str, validate_only: bool
    ) -> bool:
        """Any action but start. Returns whether that changed (or would change) anything."""
