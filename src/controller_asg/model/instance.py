"""An instance in three views: what we decided (Instance), what EC2 says (CloudInstance), its agent (AgentView)."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum

from controller_asg.model.immutable import immutable
from controller_asg.model.lifecycle_hook import OpenHook
from controller_asg.model.offering import Market, Offering


class LifecycleState(StrEnum):
    """EC2 Auto Scaling's names. An instance moves only down this list, but for Standby and back.

    TERMINATING and TERMINATING_PROCEED: its termination was called; one that has to wait is TERMINATING_WAIT first, and
    may come back from there into service. PENDING_PROCEED: its launch hooks are completed.
    """

    __hash__ = str.__hash__  # Enum's own is Python code, and every pass looks each state up in sets

    PENDING = "Pending"
    PENDING_WAIT = "Pending:Wait"
    PENDING_PROCEED = "Pending:Proceed"
    IN_SERVICE = "InService"
    ENTERING_STANDBY = "EnteringStandby"
    STANDBY = "Standby"
    DETACHING = "Detaching"
    DETACHED = "Detached"
    TERMINATING = "Terminating"
    TERMINATING_WAIT = "Terminating:Wait"
    TERMINATING_PROCEED = "Terminating:Proceed"
    TERMINATED = "Terminated"


PENDING_STATES = frozenset(
    {LifecycleState.PENDING, LifecycleState.PENDING_WAIT, LifecycleState.PENDING_PROCEED}
)
LEAVING_STATES = frozenset(
    {
        LifecycleState.TERMINATING,
        LifecycleState.TERMINATING_WAIT,
        LifecycleState.TERMINATING_PROCEED,
        LifecycleState.TERMINATED,
    }
)
# On standby, or on the way there.
PARKED_STATES = frozenset({LifecycleState.ENTERING_STANDBY, LifecycleState.STANDBY})
# Members that count in no size, and are not judged.
APART_STATES = PARKED_STATES | {LifecycleState.DETACHING}


class Ec2State(StrEnum):
    """EC2's instance states, by its names."""

    __hash__ = str.__hash__

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"


class StatusCheck(StrEnum):
    """The worse of EC2's instance and system status."""

    OK = "ok"
    INITIALIZING = "initializing"
    IMPAIRED = "impaired"
    UNKNOWN = "unknown"


class Leaving(StrEnum):
    """For what an instance leaves. Only what left by scaling in may be taken back."""

    SCALE_IN = "scale_in"
    UNHEALTHY = "unhealthy"
    ORDER = "order"
    REPLACED = "replaced"


@immutable
class Instance:
    """What the controller decided and keeps about one instance of a group."""

    instance_id: str
    group: str
    state: LifecycleState
    state_since_at: datetime
    launched_at: datetime
    activity_id: str  # of the launch; "" for one that was adopted without the tag
    launch_version: str
    zone: str = ""
    instance_type: str = ""
    private_ip: str = ""
    in_service_at: datetime | None = None
    protected_from_scale_in: bool = False
    # Why it is leaving, or why it was adopted; shown to operators.
    reason: str = ""
    # bootstrap: role. When the role's run on it ended well; None while it runs or where the image holds the agent.
    bootstrapped_at: datetime | None = None
    # Who said from outside that it is unhealthy; "" when nobody did.
    marked_unhealthy: str = ""
    # Set once it is on its way out.
    leaving: Leaving | None = None
    # When its agent was last asked to drain; None once that is over. In service: when it was taken back.
    drain_ordered_at: datetime | None = None
    # Those that were opened in Pending:Wait or Terminating:Wait; none in other states.
    hooks: tuple[OpenHook, ...] = ()
    market: Market = Market.ON_DEMAND

    @property
    def offering(self) -> Offering:
        return Offering(self.zone, self.instance_type, self.market)

    @property
    def is_new(self) -> bool:
        """It was launched for the group and has not served yet. Not adopted, attached, or back from Standby."""
        return self.in_service_at is None and bool(self.launch_version) and not self.adopted

    @property
    def attached(self) -> bool:
        """It came by somebody's word, or by tags of somebody's hand, and does not serve yet: it was never ours."""
        return self.in_service_at is None and not self.launch_version

    @property
    def adopted(self) -> bool:
        """It came with our tags and does not serve for us yet: it may have served before."""
        return self.reason == ADOPTED


# The reason of an instance that carried our tags and was in no record, until it serves.
ADOPTED = "adopted by its tags"


@immutable
class CloudInstance:
    """What EC2 says of one instance that carries our tags."""

    instance_id: str
    group: str
    activity_id: str
    launch_version: str
    state: Ec2State
    status: StatusCheck
    zone: str
    instance_type: str
    private_ip: str
    image_id: str
    launched_at: datetime
    market: Market = Market.ON_DEMAND


@immutable
class Sample:
    """One reading of an instance, by metric name. `arrived_at` is the controller's monotonic clock."""

    arrived_at: float
    values: Mapping[str, float]


@immutable
class Lease:
    """Work that an instance says it does, by its agent. `ends_at` is the monotonic clock of `AgentView.as_of`."""

    owner: str
    reason: str
    ends_at: float | None  # None: until it is ended
    protect_from_scale_in: bool = False


@immutable
class CommandEnd:
    """How a drain or hook command on the instance ended. No exit code: it was killed at its limit."""

    exit_code: int | None
    output: str  # the last 4 KiB


@immutable
class AgentView:
    """What MonitorC knows of one instance's agent. `as_of` is the monotonic moment at which that was so."""

    instance_id: str
    # Since any message of it arrived. None: it was never heard by this controller process.
    silent_seconds: float | None
    # How long MonitorC's own Ping has failed without one success. None: not asked, or the last one was answered.
    ping_failed_seconds: float | None = None
    ping_attempts: int = 0  # failed ones in a row
    # Newest last; bounded by the longest window any policy has.
    samples: tuple[Sample, ...] = ()
    unregister_requested: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)  # the newest value of each
    as_of: float = 0.0
    # (since when, until when) it was silent the last time, by the same clock as `as_of`.
    last_silence: tuple[float, float] | None = None
    # What it works on. None: it has not told this controller process.
    leases: tuple[Lease, ...] | None = None
    # How the last drain ended; None while it runs, or when there was none.
    drained: CommandEnd | None = None
    # By token: those that run (None) or ended, as far as this controller process has heard.
    hooks: Mapping[str, CommandEnd | None] = field(default_factory=dict)
    # A drain command runs, by its own word, and it was not asked to resume since.
    draining: bool = False
    # For how long its session has been open; None: it has none, so no order reaches it.
    in_session_seconds: float | None = None
