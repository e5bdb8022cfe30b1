"""Everything a decision may look at, in one value with its time in it; immutable but for what policies remember."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from controller_asg.model.activity import Activity
from controller_asg.model.errors import CloudError
from controller_asg.model.immutable import immutable
from controller_asg.model.instance import AgentView, CloudInstance, Instance
from controller_asg.model.offering import Prices
from controller_asg.model.record import GroupRecord
from controller_asg.model.refresh import RefreshPreferences
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.forecast import Forecast

NO_PRICES = Prices()


@immutable
class Member:
    """One instance of the group in its three views."""

    instance: Instance
    cloud: CloudInstance | None
    agent: AgentView | None
    # How long EC2's answers have not shown it, from one to another. None: the newest one does, or none has come yet.
    missing_seconds: float | None = None


@immutable
class Answer:
    """One of EC2's answers to DescribeInstances: how long ago it was asked, and how long ago it came."""

    asked_seconds: float
    came_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call to EC2 ended. Without an error it was done; a launch then says which instances it made."""

    activity_id: str
    error: CloudError | None = None
    instances: tuple[CloudInstance, ...] = ()
    details: str = ""


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """The role's run on an instance has ended; `error` empty when it went well."""

    instance_id: str
    error: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class SetDesired:
    capacity: int
    actor: str


@dataclass(frozen=True, slots=True)
class Terminate:
    instance_id: str
    decrement: bool
    actor: str


@dataclass(frozen=True, slots=True)
class Protect:
    """`until_at` None: until it is taken back."""

    instance_ids: tuple[str, ...]
    protected: bool
    actor: str
    reason: str = ""
    until_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EnterStandby:
    """Without `decrement` a replacement is launched."""

    instance_ids: tuple[str, ...]
    decrement: bool
    actor: str


@dataclass(frozen=True, slots=True)
class ExitStandby:
    instance_ids: tuple[str, ...]
    actor: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Without `decrement` a replacement is launched."""

    instance_ids: tuple[str, ...]
    decrement: bool
    actor: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Running instances of no group; EC2 was asked."""

    instance_ids: tuple[str, ...]
    actor: str


@dataclass(frozen=True, slots=True)
class SetHealth:
    """What somebody outside knows of an instance. One said to be unhealthy is replaced after its grace period."""

    instance_id: str
    healthy: bool
    actor: str


@dataclass(frozen=True, slots=True)
class CompleteAction:
    """An open lifecycle hook of an instance is over: `result` CONTINUE or ABANDON."""

    instance_id: str
    token: str
    result: str
    actor: str


@dataclass(frozen=True, slots=True)
class RecordHeartbeat:
    """The heartbeat timeout of an open lifecycle hook counts from now."""

    instance_id: str
    token: str


RefreshAction = Literal["start", "cancel", "rollback", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class RefreshOrder:
    """What is asked of the group's refresh. `preferences`, without a None in them, and the id are a start's."""

    action: RefreshAction
    actor: str
    refresh_id: str = ""
    preferences: RefreshPreferences | None = None


Move = EnterStandby | ExitStandby | Detach | Attach


@dataclass(frozen=True, slots=True)
class ExecutePolicy:
    """`message_id` of a signed message: one that comes again is not carried out again; empty: no message."""

    policy: str
    actor: str
    honor_cooldown: bool = False
    metric_value: float | None = None
    breach_threshold: float | None = None
    message_id: str = ""


Order = (
    SetDesired
    | Terminate
    | Protect
    | SetHealth
    | CompleteAction
    | RecordHeartbeat
    | RefreshOrder
    | Move
    | ExecutePolicy
)
Fact = Outcome | Bootstrapped


@immutable
class Snapshot:
    """`observed`: EC2 has answered since the start; until then nothing is done.

    `answers` are EC2's latest ones, without a failed call between or after them. `strangers` carry the group's tag and
    stand in no record. `subnets` are (id, zone), in the operator's order; None: EC2 has not told them yet.
    `watching_since_at`: since then passes were made and EC2 answered without a gap, and no clock stepped;
    `watched_before`: the spans before, of this run and clock, for which that holds too, each (from, to). What an
    instance did in a gap nobody saw, so no deadline of its counts that. `memories` are by policy name.
    `cost_left`: USD an hour that the ceiling of all groups leaves to this one, what it costs now included.
    """

    now: datetime
    record: GroupRecord
    members: tuple[Member, ...]
    open_activities: tuple[Activity, ...]
    observed: bool
    answers: tuple[Answer, ...]
    silence_seconds: float
    ping_timeout_seconds: float
    watching_since_at: datetime
    watched_before: tuple[tuple[datetime, datetime], ...] = ()
    strangers: tuple[CloudInstance, ...] = ()
    subnets: tuple[tuple[str, str], ...] | None = None
    facts: tuple[Fact, ...] = ()
    orders: tuple[Order, ...] = ()
    memories: Mapping[str, DemandMemory] = field(default_factory=dict)
    prices: Prices = NO_PRICES
    cost_left: float | None = None
    forecast: Forecast | None = None
