"""The plan while it is being made. One lives for one call of `plan`; nothing else ever sees it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.agent_order import AgentOrder
from controller_asg.model.decision import Step
from controller_asg.model.hold import Process
from controller_asg.model.instance import (
    APART_STATES,
    LEAVING_STATES,
    PARKED_STATES,
    PENDING_STATES,
    CloudInstance,
    Instance,
    Leaving,
    LifecycleState,
)
from controller_asg.model.offering import Market, Offering
from controller_asg.planner import leaving as leaving_rules
from controller_asg.planner.health import HEALTHY, Health, Verdict
from controller_asg.planner.plan import LaunchPlan, TaggingPlan, TerminationPlan
from controller_asg.planner.snapshot import Member, Snapshot
from controller_asg.policy.serving import Fleet

UNKNOWN = Offering("", "", Market.ON_DEMAND)
_SERVING = (LifecycleState.IN_SERVICE,)
_PARKED = tuple(sorted(PARKED_STATES))
_WAITING = (LifecycleState.TERMINATING_WAIT,)
_PENDING = tuple(sorted(PENDING_STATES))
_LIVE = tuple(sorted(state for state in LifecycleState if state not in LEAVING_STATES | APART_STATES))


class Draft:
    """Instances, activities and the record as the rules have changed them so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.now = snapshot.now
        self.record = snapshot.record
        self.group = snapshot.record.group
        self.members: dict[str, Member] = {}
        # The same members apart, so that no rule has to go through all of them.
        self._by_state: defaultdict[LifecycleState, dict[str, Member]] = defaultdict(dict)
        for member in snapshot.members:
            instance = member.instance
            self.members[instance.instance_id] = self._by_state[instance.state][instance.instance_id] = member
        self.activities = {a.activity_id: a for a in snapshot.open_activities}
        # On those that are not plainly healthy.
        self.verdicts: dict[str, Verdict] = {}
        self.changed_instances: set[str] = set()
        self.changed_activities: set[str] = set()
        self.gone: list[str] = []
        # What `advance` found on its way through all members, for the rules after it.
        self.outdated: list[str] = []
        self.wants_out: list[str] = []
        self.unheard_held = False  # many were adopted and are not heard
        # (instance id, reason) of those that EC2 itself says are dead.
        self.lost: list[tuple[str, str]] = []
        # What began and ended of drains and lifecycle hooks, and who was taken back.
        self.waits: list[str] = []
        # Instances are being replaced: so many more than desired are wanted meanwhile, so large a share stays healthy.
        self.replacing = False
        self.over = 0
        self.min_healthy_percentage = self.group.min_healthy_percentage
        self.scheduled: list[str] = []  # what scheduled actions did
        self.fleet: Fleet | None = None
        self.steps: list[Step] = []
        self.launches: tuple[LaunchPlan, ...] = ()
        self.terminations: list[TerminationPlan] = []
        self.taggings: list[TaggingPlan] = []
        self.bootstraps: list[str] = []
        self.agent_orders: list[tuple[str, AgentOrder]] = []
        self.conditions: list[tuple[str, str]] = []

    def watched_seconds(self, since_at: datetime) -> float:
        """How much of the time since then we have watched: what deadlines of others count."""
        watched = self.now - max(since_at, self.snapshot.watching_since_at)
        for began_at, ended_at in self.snapshot.watched_before:
            if ended_at > since_at:
                watched += ended_at - max(since_at, began_at)
        return watched.total_seconds()

    def put(self, instance: Instance, cloud: CloudInstance | None = None) -> None:
        """A changed instance, or a new one; `cloud` is EC2's view of one that nobody knew."""
        member = self._displace(instance.instance_id)
        self._place(replace(member, instance=instance) if member else Member(instance, cloud, None))
        self.changed_instances.add(instance.instance_id)

    def _place(self, member: Member) -> None:
        instance = member.instance
        self.members[instance.instance_id] = self._by_state[instance.state][instance.instance_id] = member

    def _displace(self, instance_id: str) -> Member | None:
        member = self.members.get(instance_id)
        if member is not None:
            del self._by_state[member.instance.state][instance_id]
        return member

    def move(self, instance: Instance, state: LifecycleState, reason: str = "") -> Instance:
        """Into `state` from now on; a reason that is already there is kept when none is given."""
        moved = replace(instance, state=state, state_since_at=self.now, reason=reason or instance.reason)
        if state is LifecycleState.IN_SERVICE:
            moved = replace(moved, in_service_at=self.now)
        self.put(moved)
        return moved

    def forget(self, instance_id: str) -> None:
        self._displace(instance_id)
        del self.members[instance_id]
        self.changed_instances.discard(instance_id)
        self.gone.append(instance_id)

    def update(self, activity: Activity) -> None:
        self.activities[activity.activity_id] = activity
        self.changed_activities.add(activity.activity_id)

    def end(self, activity: Activity, status: ActivityStatus, message: str = "") -> None:
        self.update(
            replace(
                activity, status=status, ended_at=self.now, status_message=message or activity.status_message
            )
        )

    def terminate(
        self,
        instance_ids: tuple[str, ...],
        cause: str,
        keep_console: bool = False,
        *,
        leaving: Leaving = Leaving.REPLACED,
        at_once: bool = False,
    ) -> None:
        """They leave from now on, by one call; those that work, drain or have hooks wait for that first.

        `at_once`: nothing is waited for, for they are dead or never served. Not while Terminate is suspended.
        """
        if self.held(f"terminate {', '.join(instance_ids)}: {cause}", Process.TERMINATE):
            return
        calling = []
        for instance_id in instance_ids:
            if at_once or not leaving_rules.begin(self, instance_id, cause, leaving):
                instance = replace(self.members[instance_id].instance, leaving=leaving)
                self.move(instance, LifecycleState.TERMINATING, cause)
                calling.append(instance_id)
        if calling:
            self.terminations.append(TerminationPlan(tuple(calling), cause, keep_console))

    def held(self, would: str, *processes: Process) -> bool:
        """Whether one of the processes is suspended; then a step says what would have been done."""
        suspension = self.record.suspension(*processes)
        if suspension is None:
            return False
        process, hold = suspension
        desired = self.record.desired_capacity
        reason = f"would {would}, but {process} is suspended {hold.said()}"
        self.steps.append(Step("suspended", desired, desired, reason))
        return True

    def open_launches(self) -> Iterator[Activity]:
        for activity in self.activities.values():
            arrives = activity.kind in (ActivityKind.LAUNCH, ActivityKind.ATTACH)
            if arrives and activity.status is ActivityStatus.IN_PROGRESS:
                yield activity

    def launching(self) -> list[Offering]:
        """Of each instance that was asked for and isn't known by its id yet."""
        calls = [activity for activity in self.open_launches() if not activity.acknowledged]
        attaching = [UNKNOWN for tagging in self.taggings if tagging.kind is ActivityKind.ATTACH]
        if not calls:
            return attaching
        known = Counter(member.instance.activity_id for member in self.members.values())
        return attaching + [
            activity.launch.offering if activity.launch else UNKNOWN
            for activity in calls
            for _ in range(activity.instance_count - known[activity.activity_id])
        ]

    def verdict(self, member: Member) -> Verdict:
        return self.verdicts.get(member.instance.instance_id, HEALTHY)

    def unhealthy(self) -> list[Member]:
        """Those that are to be replaced and are not on their way out."""
        return [
            self.members[instance_id]
            for instance_id, verdict in self.verdicts.items()
            if verdict.health is Health.UNHEALTHY
            and instance_id in self.members
            and self.members[instance_id].instance.state not in LEAVING_STATES | APART_STATES
        ]

    def live(self) -> list[Member]:
        """Every member that is neither on its way out nor apart."""
        return self._in(_LIVE)

    def parked(self) -> list[Member]:
        """Those on standby, or on their way there."""
        return self._in(_PARKED)

    def waiting(self) -> list[Member]:
        """Those in Terminating:Wait."""
        return self._in(_WAITING)

    def pending(self) -> list[Member]:
        return self._in(_PENDING)

    def warming(self) -> int:
        """How many are launched and don't count yet."""
        warm_at = self.now - timedelta(seconds=self.group.default_instance_warmup_seconds)
        fresh = sum(
            member.instance.in_service_at is not None and member.instance.in_service_at > warm_at
            for member in self.serving()
        )
        return len(self.pending()) + len(self.launching()) + fresh

    def serving(self) -> list[Member]:
        return self._in(_SERVING)

    def _in(self, states: Iterable[LifecycleState]) -> list[Member]:
        return [
            member for state in states if state in self._by_state for member in self._by_state[state].values()
        ]
