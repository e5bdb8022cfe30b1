"""A group as its operator writes it: sizes, policies, health, and how an instance is launched.

Desired capacity is not here: it belongs to the controller (`GroupRecord`), so applying a document never lowers a fleet
that is scaled out.
"""

import hashlib
import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from controller_asg.model.lifecycle_hook import LifecycleHook
from controller_asg.model.scaling_policy import NAME_PATTERN, STRICT, Policy, Size
from controller_asg.model.scheduled_action import ScheduledAction

Seconds = Annotated[float, Field(ge=0, le=7 * 86400)]

# Who puts the agent on a new instance: its image, or the controller, which runs the role on it over ssh.
Bootstrap = Literal["image", "role"]

TerminationPolicy = Literal[
    "Default",
    "OldestInstance",
    "NewestInstance",
    "OldestLaunchTemplate",
    "OldestLaunchConfiguration",
    "ClosestToNextInstanceHour",
    "LeastLoaded",
]
InstanceType = Annotated[str, Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]


@dataclass(frozen=True, slots=True, config=STRICT)
class Image:
    """Which AMI: exactly one of the three. The id is found when the document is applied, and pinned."""

    id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")] | None = None
    # The newest available image of that name wins; `*` and `?` as in EC2's filters.
    name: str | None = None
    owner: str = "self"
    ssm_parameter: str | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class Disk:
    """One EBS volume; device names are the image's own, for example /dev/xvda."""

    device: Annotated[str, Field(pattern=r"^/dev/[a-z0-9]+$")]
    size_gib: Annotated[int, Field(ge=1, le=65_536)]
    type: Literal["gp3", "gp2", "io1", "io2", "st1", "sc1", "standard"] = "gp3"
    iops: Annotated[int, Field(ge=100, le=256_000)] | None = None
    throughput_mib: Annotated[int, Field(ge=125, le=2_000)] | None = None
    encrypted: bool | None = None
    delete_on_termination: bool = True


@dataclass(frozen=True, slots=True, config=STRICT)
class LaunchParameters:
    """How EC2 is asked for an instance. A change here makes running instances outdated; it never replaces them."""

    image: Image
    instance_type: InstanceType = "t2.micro"
    # Further types, after instance_type, for when EC2 has none of those before: an offering (zone, type, market) that
    # failed is avoided for a time that doubles from 5 s to 5 minutes. All count as one instance: EC2's
    # WeightedCapacity is not known here.
    instance_types: Annotated[tuple[InstanceType, ...], Field(max_length=39)] = ()
    # Which type first, within the zone that is to be filled: prioritized, in the order written; or lowest-price, by the
    # controller's prices_file.
    allocation_strategy: Literal["prioritized", "lowest-price"] = "prioritized"
    # So many instances are On-Demand before any is Spot.
    on_demand_base_capacity: Annotated[int, Field(ge=0, le=10_000)] = 0
    # Of those above the base, rounded up. 100 without `spot`, else 0. Where Spot has none, On-Demand is taken.
    on_demand_percentage_above_base_capacity: Annotated[int, Field(ge=0, le=100)] | None = None
    # Ids. With none, EC2's default subnet of each of `zones`, or of any zone.
    subnets: tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...] = ()
    zones: tuple[str, ...] = ()
    security_groups: tuple[Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")], ...] = ()
    key_pair: str | None = None
    # Name or ARN.
    instance_profile: str | None = None
    disks: tuple[Disk, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    # The operator's own user data, added to ours: a script (`#!`) or `#cloud-config`.
    user_data: str = ""
    metadata_tokens: Literal["required", "optional"] = "required"
    # All above on_demand_base_capacity are Spot: short for a percentage of 0.
    spot: bool = False

    @property
    def types(self) -> tuple[str, ...]:
        """In order of priority."""
        return (self.instance_type, *self.instance_types)

    @property
    def on_demand_percentage(self) -> int:
        percentage = self.on_demand_percentage_above_base_capacity
        return (0 if self.spot else 100) if percentage is None else percentage

    def on_demand_of(self, total: int) -> int:
        """How many of `total` instances are to be On-Demand: EC2's arithmetic, rounded up in their favour."""
        base = min(self.on_demand_base_capacity, total)
        # Floor division of what is below zero rounds up what is above it.
        return base - ((base - total) * self.on_demand_percentage // 100)


@dataclass(frozen=True, slots=True, config=STRICT)
class Rate:
    """So many instances, or so large a share of the group, within so long: one of `count` and `percent`."""

    # The last so many seconds, at every moment anew.
    period_seconds: Annotated[float, Field(ge=1, le=3600)]
    # Instances.
    count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    # Of the size at the period's start.
    percent: Annotated[float, Field(gt=0, le=10_000)] | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class Direction:
    """How fast policies may scale in one direction, in the terms of Kubernetes' horizontal pod autoscaler.

    Orders, scheduled actions and bounds are not held, nor counted.
    """

    # How much within how long. None: as fast as policies wish.
    rates: Annotated[tuple[Rate, ...], Field(max_length=10)] = ()
    # Of several rates the one that lets most through (max) or least (min). disabled: policies never scale this way.
    select: Literal["max", "min", "disabled"] = "max"
    # Scaling in, the highest wish of so long counts; scaling out, the lowest. What the controller did not watch through
    # holds back scaling in.
    stabilization_window_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0

    def said(self) -> str:
        if self.select == "disabled":
            return "disabled"
        amounts = [
            (f"{r.percent:g} %" if r.count is None else f"{r.count}", r.period_seconds) for r in self.rates
        ]
        return f"{self.select} of " + ", ".join(f"{amount} in {seconds:g} s" for amount, seconds in amounts)


@dataclass(frozen=True, slots=True, config=STRICT)
class Behavior:
    """Bounds on the speed of policies, for each direction."""

    # See below.
    scale_out: Direction = Direction()
    # See below.
    scale_in: Direction = Direction()
    # Policies scale in only as far as no other of them would scale out again at once: what the instances carry now is
    # spread over those that stay. A sum stays as it is. demand_tracking plans ahead by itself.
    projection: bool = True


@dataclass(frozen=True, slots=True, config=STRICT)
class InstanceMaintenancePolicy:
    """How far capacity may go while instances are replaced, in percent of desired capacity: EC2's key of that name.

    It holds for unhealthy instances, those of max_instance_lifetime_seconds and, unless that says otherwise itself, for
    an instance refresh. rebalance_zones and the return to Spot launch first in any case, so they rest where the maximum
    is 100. The two may be 100 apart at the most. Where EC2 takes -1 for none, leave the key out.
    """

    # In service, healthy and past their warmup, at least.
    min_healthy_percentage: Annotated[int, Field(ge=0, le=100)]
    # In service, booting or being replaced, at the most; this may be above max_size. At 100 an instance goes before its
    # replacement is launched. Where both bounds leave no room, one at a time is launched first (EC2 may terminate it
    # first).
    max_healthy_percentage: Annotated[int, Field(ge=100, le=200)]


@dataclass(frozen=True, slots=True, config=STRICT)
class Group:
    """One auto scaling group. Defaults stand here and nowhere else."""

    # The key of the group in the document.
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    # How EC2 is asked for an instance.
    launch: LaunchParameters
    # Never fewer instances.
    min_size: Size = 2
    # Never more instances.
    max_size: Size = 5
    # Desired capacity of a group that has no instances yet; min_size when absent.
    initial_capacity: Size | None = None
    # Scaling out takes the highest vote, scaling in needs the consent of all. As many as EC2 allows: 50.
    policies: tuple[Policy, ...] = ()
    # USD an hour, by the controller's prices_file: no launch raises the cost of the group's instances above it, and
    # desired capacity stays at what it pays for, but never below min_size. None: no ceiling but the controller's own
    # max_hourly_cost, which all groups share.
    max_hourly_cost: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    # On-Demand instances that stand in for Spot are given back one at a time, the Spot one launched first, with so long
    # between two. Needs room below max_size. 0: never.
    spot_return_seconds: Seconds = 0.0
    # Bounds and desired capacity by the clock. As many as EC2 allows: 125.
    scheduled_actions: Annotated[tuple[ScheduledAction, ...], Field(max_length=125)] = ()
    # How fast policies may scale out and in, beside their own cooldowns.
    behavior: Behavior = Behavior()
    # image: the AMI holds the agent. role: the controller runs the role monitor_agent on the new instance over ssh.
    bootstrap: Bootstrap = "image"
    # From the launch to the agent's first good sample. Then the instance is terminated and another one launched.
    registration_timeout_seconds: Annotated[float, Field(ge=10, le=7200)] = 300.0
    # So long after it came into service, no verdict by silence or status checks; EC2's states always count.
    health_check_grace_period_seconds: Seconds = 0.0
    # So long after it came into service an instance's metrics count in no policy: a boot is no load to scale out for.
    default_instance_warmup_seconds: Seconds = 30.0
    # Of desired capacity: what we terminate ourselves never leaves fewer healthy instances than that. Scaling in always
    # goes by it, which EC2 does not bound; replacing goes by instance_maintenance_policy where there is one.
    min_healthy_percentage: Annotated[int, Field(ge=0, le=100)] = 90
    # See below. Without one, replacements of the unhealthy are launched first where max_size leaves room (EC2
    # terminates first); a refresh and max_instance_lifetime_seconds go by min_healthy_percentage and 100 %, as in EC2.
    instance_maintenance_policy: InstanceMaintenancePolicy | None = None
    # 0, or one day at least, as in EC2: instances are replaced from nine tenths of that time in service on, a tenth of
    # the group at a time and one at least, so that none gets older (EC2 goes one by one while there is time). Protected
    # ones stay.
    max_instance_lifetime_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 0
    # Which goes first in the fullest zone when the group shrinks; the next one decides where one finds several alike.
    # Idle ones go before busy ones whatever the zone, and in a zone those that boot before those that serve.
    # Default, only as the last: of the oldest launch parameters, then closest to its next full hour. Where EC2 leaves
    # it to chance, the oldest goes. LeastLoaded, which EC2 lacks: of the lowest cpu_percent. OldestLaunchConfiguration
    # means OldestLaunchTemplate. AllocationStrategy is left out: offerings are chosen at launch, and what had to be
    # bought On-Demand goes back to Spot by `spot_return_seconds`.
    termination_policies: Annotated[tuple[TerminationPolicy, ...], Field(min_length=1)] = ("Default",)
    # This share of a group, or of its part in one zone, of four or more that fell silent within a minute is taken for
    # a fault of ours: none of them is replaced until they speak again, or EC2 confirms their deaths.
    mass_silence_percentage: Annotated[int, Field(ge=1, le=100)] = 30
    # Of desired capacity: so many unhealthy instances are replaced at a time, one at least. Those that EC2 itself says
    # are dead don't wait.
    replacement_budget_percentage: Annotated[int, Field(ge=1, le=100)] = 20
    # Of one version of the launch parameters, so many instances in a row that don't come into service stop it: the last
    # good version is launched instead. Until its first success no more than that are launched from a new version.
    failed_launches_limit: Annotated[int, Field(ge=1, le=100)] = 3
    # More launches than this share of max_size within the window, less what was scaled in or terminated on somebody's
    # word, are taken for a runaway, and held back.
    growth_limit_percentage: Annotated[int, Field(ge=100, le=100_000)] = 300
    growth_window_seconds: Annotated[float, Field(ge=10, le=86_400)] = 600.0
    # EC2's AZRebalance, here only where asked for: level zones that differ by two or more, launching in the emptiest,
    # then terminating in the fullest. Needs room below max_size.
    rebalance_zones: bool = False
    # While an instance works its agent holds leases. Idle ones go first; a busy one that has to go, by scaling in, an
    # order or a replacement, waits in Terminating:Wait until its leases have ended and its agent is drained, and so
    # long at the most. One that scales in is taken back when capacity is wanted again. 0: nobody is waited for.
    drain_timeout_seconds: Annotated[float, Field(ge=0, le=172_800)] = 300.0
    # Ask the agents of idle instances too before they go: they take no new lease from then on, and run their drain
    # command. One whose agent does not answer for ten seconds goes all the same. false: an idle one goes one round trip
    # sooner, and work that begins just then is lost.
    drain: bool = True
    # What an instance waits for when it is launched or terminated: EC2's lifecycle hooks, 50 at the most.
    lifecycle_hooks: Annotated[tuple[LifecycleHook, ...], Field(max_length=50)] = ()
    # From InService on. Scale-in passes over instances that are protected; a dead one is replaced all the same.
    new_instances_protected_from_scale_in: bool = False
    # As in EC2: prevent-force-deletion lets a group go only when it is empty, prevent-all-deletion never, until another
    # document is applied. Nothing else is held by it.
    deletion_protection: Literal["none", "prevent-force-deletion", "prevent-all-deletion"] = "none"


def healthy_range(group: Group) -> tuple[int, int]:
    """Between which percentages of desired capacity instances are replaced."""
    policy = group.instance_maintenance_policy
    if policy is None:
        return group.min_healthy_percentage, 100
    return policy.min_healthy_percentage, policy.max_healthy_percentage


# Left out of a launch version while they have their default, so that instances of earlier releases stay up to date.
_LATER_KEYS = {
    "instance_types": [],
    "allocation_strategy": "prioritized",
    "on_demand_base_capacity": 0,
    "on_demand_percentage_above_base_capacity": None,
}

_GROUP: TypeAdapter[Group] = TypeAdapter(Group)
_LAUNCH: TypeAdapter[LaunchParameters] = TypeAdapter(LaunchParameters)


def launch_to_dict(launch: LaunchParameters) -> dict[str, Any]:
    """As `group_to_dict`, of the launch parameters alone."""
    document: dict[str, Any] = _LAUNCH.dump_python(launch, mode="json")
    return document


def launch_from_dict(document: dict[str, Any]) -> LaunchParameters:
    """The inverse of `launch_to_dict`."""
    return _LAUNCH.validate_json(json.dumps(document))


def group_to_dict(group: Group) -> dict[str, Any]:
    """The document with every default filled in, as JSON-ready values."""
    document: dict[str, Any] = _GROUP.dump_python(group, mode="json")
    return document


def group_from_dict(document: dict[str, Any]) -> Group:
    """The inverse of `group_to_dict`, for documents that were validated before. Raises pydantic's ValidationError."""
    return _GROUP.validate_json(json.dumps(document))


def group_json_schema() -> dict[str, Any]:
    return _GROUP.json_schema()


def launch_version(launch: LaunchParameters, image_id: str, bootstrap: str) -> str:
    """A short name of what an instance is launched from: equal parameters and image, equal version."""
    parameters = _LAUNCH.dump_python(launch, mode="json")
    for key, default in _LATER_KEYS.items():
        if parameters[key] == default:
            del parameters[key]
    text = json.dumps([parameters, image_id, bootstrap], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
