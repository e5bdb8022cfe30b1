"""A made-up EC2 in virtual time, spoken to by boto3's own methods: the real adapter runs on it unchanged.

It keeps what EC2's documentation promises and no more. A client token launches once. Describe answers from one of
several replicas, each as far behind as `lag_seconds` allows, so an instance may appear, vanish and appear again. Calls
are counted against token buckets; capacity and quota run out; an answer may be lost after the work was done.
"""

import asyncio
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from controller_asg.cloud.launch_call import ACTIVITY_TAG, GROUP_TAG
from controller_asg.cloud.limiter import LIMITS
from controller_asg.model.clock import Clock
from controller_asg.model.instance import Ec2State
from controller_asg.model.offering import Market, Offering
from controller_asg.simulate.virtual_time import VirtualLoop

ZONES = (
    ("subnet-aaaaaaaa", "us-east-1a"),
    ("subnet-bbbbbbbb", "us-east-1b"),
    ("subnet-cccccccc", "us-east-1c"),
)
GOOD_IMAGE = "ami-0123456789abcdef0"
# It boots, and its agent never speaks.
BAD_IMAGE = "ami-0bad0bad0bad0bad0"
REPLICAS = 3
CALL_SECONDS = (0.05, 0.3)
FURTHER_PAGE = "DescribeInstances page"  # what all pages but the first are counted as
CONNECT_TIMEOUT_SECONDS = 3.0
LOST_ANSWER_SECONDS = 10.0
SHUTTING_DOWN_SECONDS = (1.0, 10.0)
STOPPING_SECONDS = 2.0
# EC2 shows a terminated instance for about an hour.
TERMINATED_SHOWN_SECONDS = 3600.0
# A client token is "valid for at least 24 hours after the termination of the instance" (EC2 API Reference, "Ensuring
# idempotency"); no longer here, so that nobody counts on more.
TOKEN_SECONDS = 86_400.0
STATUS_OK_AFTER_SECONDS = 20.0
ALIVE = (Ec2State.PENDING, Ec2State.RUNNING)


@dataclass(slots=True)
class Faults:
    """What goes wrong now. `lost_answers` and `errors` go down by one with each call they spoil."""

    lost_answers: int = 0  # of calls that change something: done, and never told
    internal_errors: int = 0  # done, and told as InternalError
    errors: list[str] = field(default_factory=list)  # codes that the next RunInstances answer
    full: set[tuple[str, str]] = field(default_factory=set)  # (zone, instance type); "" is every type
    short: set[Offering] = field(default_factory=set)  # no capacity; with zone "": over the account's quota
    room: int | None = None  # instances the account may have in all
    lag_seconds: float = 0.0
    slow_seconds: float = 0.0  # the longest a call takes
    page_size: int = 0  # the most instances of one page; 0: as asked
    dies_pending_ratio: float = 0.0
    mute_launches: bool = False  # what is launched now boots, and its agent never speaks
    unreachable: bool = False
    cut_off: bool = False  # the controller's own network is gone
    busy_account: bool = False  # others spend the account's tokens


@dataclass(slots=True)
class Machine:
    """One instance as it truly is."""

    instance_id: str
    token: str
    tags: Mapping[str, str]
    zone: str
    subnet_id: str
    instance_type: str
    image_id: str
    private_ip: str
    launched_at: datetime
    boots_at: float  # the loop's time at which its agent may speak
    mute: bool  # its agent never starts
    market: Market = Market.ON_DEMAND
    state: Ec2State = Ec2State.PENDING
    running_since: float | None = None
    impaired: bool = False
    # (when each replica sees it, what it then shows), oldest first.
    shown: list[tuple[tuple[float, ...], Ec2State, Mapping[str, str]]] = field(default_factory=list)

    @property
    def group(self) -> str:
        return self.tags.get(GROUP_TAG, "")

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


@dataclass(slots=True)
class _Bucket:
    burst: float
    per_second: float
    tokens: float
    at: float = 0.0

    def take(self, now: float, cost: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


class SimulatedEc2:
    """The methods of boto3's EC2 client that the controller calls, and the world's side below them.

    `launches` logs every RunInstances that made instances: (token, instance ids). `on_launch(token, machines)`,
    `on_terminate(machine)` and `on_tagged(machine, its tags before)` hear of each as it happens, `tell` of what a
    person would want to read.
    """

    def __init__(
        self, loop: VirtualLoop, clock: Clock, chance: random.Random, boot_seconds: float = 20.0
    ) -> None:
        self._loop, self._clock, self._chance = loop, clock, chance
        self.boot_seconds: Callable[[], float] = lambda: boot_seconds * chance.uniform(0.8, 1.2)
        self._numbers = itertools.count(1)
        self._addresses: dict[str, str] = {}  # address -> the living instance that has it
        self._tokens: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {}
        self._terminated: dict[str, float] = {}  # instance id -> when
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._pages: dict[str, list[str]] = {}
        self.machines: dict[str, Machine] = {}
        self.running: dict[str, Machine] = {}  # those of them whose operating system runs
        self.launches: list[tuple[str, tuple[str, ...]]] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.faults = Faults()
        self.on_launch: Callable[[str, list[Machine]], None] = lambda token, machines: None
        self.on_terminate: Callable[[Machine], None] = lambda machine: None
        self.on_tagged: Callable[[Machine, Mapping[str, str]], None] = lambda machine, before: None
        self.tell: Callable[[str], None] = lambda text: None

    # boto3's side

    def run_instances(self, **call: Any) -> dict[str, Any]:
        token = call.get("ClientToken", "")
        dry = call.get("DryRun", False)
        self._enter("RunInstances", 0 if dry else call["MaxCount"], "RunInstances dry" if dry else "")
        if call["ImageId"] not in (GOOD_IMAGE, BAD_IMAGE):
            raise _error("InvalidAMIID.NotFound", f"The image id '{call['ImageId']}' does not exist")
        if dry:
            raise _error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        if self.faults.errors:
            raise _error(self.faults.errors.pop(0), "made up")
        known = self._tokens.get(token) if token else None
        if known is not None and not self._expired(known[1]):
            if known[0] != call:
                raise _error("IdempotentParameterMismatch", "Arguments on this idempotent request differ")
            machines = [self.machines[i] for i in known[1] if i in self.machines]
            if not any(machine.alive for machine in machines):
                raise _error("IdempotentInstanceTerminated", "The instances of this token were terminated")
            return {"Instances": [self._shape(m, m.state, m.tags) for m in machines]}
        made = self._launch(call)
        self.tell(
            f"ec2: RunInstances {token} makes {', '.join(m.instance_id for m in made)} in {made[0].zone}"
        )
        self.on_launch(made[0].token, made)
        self._leave("RunInstances")
        return {"Instances": [self._shape(machine, machine.state, machine.tags) for machine in made]}

    def terminate_instances(self, InstanceIds: list[str]) -> dict[str, Any]:
        self._enter("TerminateInstances", len(InstanceIds))
        replica = self._replica()
        unknown = [i for i in InstanceIds if self._seen(i, replica) is None]
        if unknown:
            what = f"The instance IDs '{', '.join(unknown)}' do not exist"
            raise _error("InvalidInstanceID.NotFound", what)
        for instance_id in InstanceIds:
            machine = self.machines[instance_id]
            if machine.state not in (Ec2State.SHUTTING_DOWN, Ec2State.TERMINATED):
                self.tell(f"ec2: TerminateInstances {instance_id}")
                self.on_terminate(machine)
                self.shut_down(instance_id)
        self._leave("TerminateInstances")
        return {"TerminatingInstances": []}

    def create_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> dict[str, Any]:
        new = {tag["Key"]: tag["Value"] for tag in Tags}
        self._tag("CreateTags", Resources, lambda tags: {**tags, **new})
        return {}

    def delete_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> dict[str, Any]:
        keys = {tag["Key"] for tag in Tags}
        self._tag("DeleteTags", Resources, lambda tags: {k: v for k, v in tags.items() if k not in keys})
        return {}

    def _tag(
        self,
        action: str,
        instance_ids: list[str],
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> None:
        self._enter(action)
        unknown = [i for i in instance_ids if i not in self.machines]
        if unknown:
            raise _error("InvalidID", f"The ID '{', '.join(unknown)}' is not valid")
        for instance_id in instance_ids:
            machine = self.machines[instance_id]
            before, machine.tags = machine.tags, change(machine.tags)
            if before != machine.tags:
                self.tell(f"ec2: {action} {instance_id}, now of group {machine.group or '-'}")
                self.on_tagged(machine, before)
                self._show(machine)
        self._leave(action)

    def describe_instances(
        self,
        Filters: list[dict[str, Any]],
        MaxResults: int = 1000,
        NextToken: str = "",
    ) -> dict[str, Any]:
        """Known filters: `tag:`, `tag-key`, `instance-id`. A page's rest is what there is when it is asked for."""
        self._enter("DescribeInstances", counted_as=FURTHER_PAGE if NextToken else "")
        replica = self._replica()
        rest = self._pages.pop(NextToken, []) if NextToken else list(self.machines)
        size = min(MaxResults, self.faults.page_size or MaxResults)
        shown = []
        for number, instance_id in enumerate(rest):
            seen = self._seen(instance_id, replica)
            if seen is not None and _matches(instance_id, seen[1], Filters):
                shown.append(self._shape(self.machines[instance_id], *seen))
            if len(shown) == size and rest[number + 1 :]:
                token = f"page-{next(self._numbers)}"
                self._pages[token] = rest[number + 1 :]
                return {"Reservations": [{"Instances": shown}], "NextToken": token}
        return {"Reservations": [{"Instances": shown}]}

    def describe_instance_status(self, MaxResults: int = 1000, NextToken: str = "") -> dict[str, Any]:
        self._enter("DescribeInstanceStatus")
        now = self._loop.time()
        return {
            "InstanceStatuses": [
                {"InstanceId": machine.instance_id, "InstanceStatus": {"Status": word}, "SystemStatus": {}}
                for machine in self.running.values()
                for word in [_status(machine, now)]
            ]
        }

    def describe_images(self, ImageIds: list[str], **_: Any) -> dict[str, Any]:
        self._enter("DescribeImages")
        return {
            "Images": [{"ImageId": i, "State": "available"} for i in ImageIds if i in (GOOD_IMAGE, BAD_IMAGE)]
        }

    def describe_subnets(self, **_: Any) -> dict[str, Any]:
        self._enter("DescribeSubnets")
        return {
            "Subnets": [
                {"SubnetId": subnet, "AvailabilityZone": zone, "VpcId": "vpc-1"} for subnet, zone in ZONES
            ]
        }

    def describe_instance_types(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        self._enter("DescribeInstanceTypes")
        return {"InstanceTypes": [{"InstanceType": name} for name in Filters[0]["Values"]]}

    def get_console_output(self, InstanceId: str) -> dict[str, Any]:
        self._enter("GetConsoleOutput")
        return {"Output": f"{InstanceId} login:"}

    def close(self) -> None:
        """A client's connections are dropped; this one has none."""

    # The world's side

    def alive(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.alive]

    def holder(self, address: str) -> str:
        """The living instance that has an address now; "" when none has."""
        return self._addresses.get(address, "")

    def shut_down(self, instance_id: str) -> None:
        """As TerminateInstances, an interruption of spot capacity, or somebody at the console does."""
        machine = self.machines[instance_id]
        if machine.state in (Ec2State.SHUTTING_DOWN, Ec2State.TERMINATED):
            return
        self._move(machine, Ec2State.SHUTTING_DOWN)
        self._later(SHUTTING_DOWN_SECONDS, machine, Ec2State.TERMINATED)

    def stop(self, instance_id: str) -> None:
        """Stopped from outside, or its kernel has halted."""
        machine = self.machines.get(instance_id)
        if machine is not None and machine.alive:
            self._move(machine, Ec2State.STOPPING)
            self._later((STOPPING_SECONDS, STOPPING_SECONDS), machine, Ec2State.STOPPED)

    def _launch(self, call: Mapping[str, Any]) -> list[Machine]:
        subnet = call.get("SubnetId", "")
        zone = dict(ZONES).get(subnet) or call.get("Placement", {}).get("AvailabilityZone") or ZONES[0][1]
        kind = call["InstanceType"]
        if {(zone, kind), (zone, "")} & self.faults.full:
            raise _error(
                "InsufficientInstanceCapacity", f"We currently do not have sufficient {kind} capacity"
            )
        market = _market(call)
        if Offering(zone, kind, market) in self.faults.short:
            raise _error("InsufficientInstanceCapacity", f"There is no {market} capacity of {kind} in {zone}")
        if Offering("", kind, market) in self.faults.short:
            spot = market is Market.SPOT
            code = "MaxSpotInstanceCountExceeded" if spot else "VcpuLimitExceeded"
            raise _error(code, f"You have requested more {kind} than your quota allows for")
        count = call["MaxCount"]
        if self.faults.room is not None:
            count = min(count, self.faults.room - len(self.alive()))
            if count < call["MinCount"]:
                raise _error("InstanceLimitExceeded", "Your quota allows for no more running instances")
        tags = {tag["Key"]: tag["Value"] for tag in call["TagSpecifications"][0]["Tags"]}
        made = [self._make(call, tags, zone, subnet) for _ in range(count)]
        ids = tuple(machine.instance_id for machine in made)
        token = call.get("ClientToken", "")
        if token:
            self._tokens[token] = (call, ids)
        self.launches.append((token, ids))
        return made

    def _make(self, call: Mapping[str, Any], tags: Mapping[str, str], zone: str, subnet: str) -> Machine:
        instance_id = f"i-{next(self._numbers):017x}"
        address = next(a for a in _addresses() if a not in self._addresses)
        boots_in = self.boot_seconds()
        machine = Machine(
            instance_id=instance_id,
            token=tags.get(ACTIVITY_TAG, ""),
            tags=tags,
            zone=zone,
            subnet_id=subnet,
            instance_type=call["InstanceType"],
            image_id=call["ImageId"],
            private_ip=address,
            launched_at=self._clock.now(),
            boots_at=self._loop.time() + boots_in,
            mute=self.faults.mute_launches or call["ImageId"] == BAD_IMAGE,
            market=_market(call),
        )
        self._addresses[address] = instance_id
        self.machines[instance_id] = machine
        self._move(machine, Ec2State.PENDING)
        if self._chance.random() < self.faults.dies_pending_ratio:
            self._later((1.0, boots_in), machine, Ec2State.TERMINATED)
        else:
            self._later((boots_in * 0.5, boots_in * 0.5), machine, Ec2State.RUNNING)
        return machine

    def _expired(self, instance_ids: tuple[str, ...]) -> bool:
        """The client token of these instances means nothing any more: the last of them ended too long ago."""
        ended = max(self._terminated.get(instance_id, math.inf) for instance_id in instance_ids)
        return self._loop.time() - ended >= TOKEN_SECONDS

    def _later(self, seconds: tuple[float, float], machine: Machine, state: Ec2State) -> None:
        was = machine.state
        self._loop.call_later(
            self._chance.uniform(*seconds),
            lambda: self._move(machine, state) if machine.state is was else None,
        )

    def _move(self, machine: Machine, state: Ec2State) -> None:
        now = self._loop.time()
        machine.state = state
        if state is Ec2State.RUNNING:
            machine.running_since = now
            self.running[machine.instance_id] = machine
        else:
            self.running.pop(machine.instance_id, None)
        if state is Ec2State.TERMINATED:
            self._terminated[machine.instance_id] = now
            # EC2 gives the address to the next one at once.
            self._addresses.pop(machine.private_ip, None)
            self._loop.call_later(TERMINATED_SHOWN_SECONDS, self.machines.pop, machine.instance_id, None)
        self._show(machine)

    def _show(self, machine: Machine) -> None:
        """Each replica will show what it is now."""
        now = self._loop.time()
        lag = self.faults.lag_seconds
        earliest = machine.shown[-1][0] if machine.shown else (0.0,) * REPLICAS
        seen_at = tuple(max(at, now + (self._chance.uniform(0, lag) if lag else 0.0)) for at in earliest)
        machine.shown.append((seen_at, machine.state, machine.tags))

    def _seen(self, instance_id: str, replica: int) -> tuple[Ec2State, Mapping[str, str]] | None:
        machine, now = self.machines.get(instance_id), self._loop.time()
        if machine is None:
            return None
        return next(
            ((state, tags) for at, state, tags in reversed(machine.shown) if at[replica] <= now), None
        )

    def _replica(self) -> int:
        return self._chance.randrange(REPLICAS)

    def _shape(self, machine: Machine, state: Ec2State, tags: Mapping[str, str]) -> dict[str, Any]:
        return {
            "InstanceId": machine.instance_id,
            "State": {"Name": state.value},
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            "Placement": {"AvailabilityZone": machine.zone},
            "InstanceType": machine.instance_type,
            "ImageId": machine.image_id,
            "LaunchTime": machine.launched_at,
            **({"InstanceLifecycle": "spot"} if machine.market is Market.SPOT else {}),
            **(
                {"PrivateIpAddress": machine.private_ip}
                if state not in (Ec2State.TERMINATED, Ec2State.SHUTTING_DOWN)
                else {}
            ),
        }

    def _enter(self, action: str, instances: int = 0, counted_as: str = "") -> None:
        """The call has arrived, unless it can't; it is counted against the account's tokens."""
        self.calls[counted_as or action] += 1
        if self.faults.unreachable or self.faults.cut_off:
            self._loop.answer_takes(CONNECT_TIMEOUT_SECONDS)
            raise ConnectTimeoutError(endpoint_url="https://ec2.simulated")
        seconds = self._chance.uniform(*CALL_SECONDS)
        if self.faults.slow_seconds:
            seconds += self._chance.uniform(0, self.faults.slow_seconds)
        self._loop.answer_takes(seconds)
        if not self._take_tokens(action, instances):
            self.tell(f"ec2: {action} is throttled")
            raise _error("RequestLimitExceeded", "Request limit exceeded.", 503)

    def _take_tokens(self, action: str, instances: int) -> bool:
        limit = LIMITS.get(action)
        if limit is None:
            return True
        if self.faults.busy_account and self._chance.random() < 0.5:
            return False
        rates = [("request", limit.requests, 1.0)]
        if limit.instances is not None and instances:
            rates.append(("instances", limit.instances, float(instances)))
        now, taken = self._loop.time(), True
        for kind, rate, cost in rates:
            bucket = self._buckets.setdefault(
                (action, kind), _Bucket(rate.burst, rate.per_second, rate.burst, now)
            )
            taken = bucket.take(now, cost) and taken
        return taken

    def _leave(self, action: str) -> None:
        """The work is done. Whether that is told is another matter."""
        if self.faults.lost_answers:
            self.faults.lost_answers -= 1
            self.tell(f"ec2: the answer to {action} is lost")
            self._loop.answer_takes(LOST_ANSWER_SECONDS)
            raise ReadTimeoutError(endpoint_url="https://ec2.simulated")
        if self.faults.internal_errors:
            self.faults.internal_errors -= 1
            self.tell(f"ec2: {action} was done, and is told as InternalError")
            raise _error("InternalError", "An internal error has occurred", 500)


def _addresses() -> Iterator[str]:
    return (f"10.0.{number // 250}.{number % 250 + 4}" for number in itertools.count())


def _market(call: Mapping[str, Any]) -> Market:
    return (
        Market.SPOT if call.get("InstanceMarketOptions", {}).get("MarketType") == "spot" else Market.ON_DEMAND
    )


def _status(machine: Machine, now: float) -> str:
    if machine.impaired:
        return "impaired"
    since = machine.running_since
    return "ok" if since is not None and now - since >= STATUS_OK_AFTER_SECONDS else "initializing"


def _matches(instance_id: str, tags: Mapping[str, str], filters: list[dict[str, Any]]) -> bool:
    for one in filters:
        name, values = one["Name"], one["Values"]
        if name == "instance-id" and instance_id not in values:
            return False
        if name == "tag-key" and not any(value in tags for value in values):
            return False
        if name.startswith("tag:") and tags.get(name[4:]) not in values:
            return False
    return True


def _error(code: str, message: str, status: int = 400) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "made up")


def running_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "the simulated world lives in a VirtualLoop only"
    return loop
