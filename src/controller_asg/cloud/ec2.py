"""The port to EC2, spoken with boto3. One object serves all groups of one region.

What a reader would get wrong: Describe lags behind RunInstances and TerminateInstances by seconds, so absence proves
nothing; and the same ClientToken must come with the same parameters for ever, so what builds a launch is pure.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from controller_asg.cloud.calls import Ec2Calls
from controller_asg.cloud.launch_call import (
    ACTIVITY_TAG,
    CONTROLLER_TAG,
    GROUP_TAG,
    LAUNCH_VERSION_TAG,
    launched_count,
    run_instances_parameters,
)
from controller_asg.cloud.launch_check import check_launch
from controller_asg.cloud.subnets import find_subnets
from controller_asg.model.activity import LaunchRequest
from controller_asg.model.clock import Clock
from controller_asg.model.errors import CloudError, Fault, RejectedError, UncertainError
from controller_asg.model.group import Group, Image
from controller_asg.model.instance import CloudInstance, Ec2State, StatusCheck
from controller_asg.model.offering import Market

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import (
        FilterTypeDef,
        InstanceStatusTypeDef,
        InstanceTypeDef,
        TagTypeDef,
    )

log = structlog.get_logger()

PAGE_SIZE = 1_000  # EC2's largest for DescribeInstances and DescribeInstanceStatus
PAGES_LIMIT = 1_000  # a million instances: beyond it EC2 repeats itself
TERMINATE_LIMIT = 1_000  # ids in one call (EC2 API Reference, TerminateInstances)
SUBNETS_KEPT_SECONDS = 300.0
SUBNETS_KEPT_LIMIT = 512  # answers; beyond it all are dropped and asked for again
STATUS_INTERVAL_SECONDS = 5.0  # EC2 itself renews status checks once a minute
# Checks that could not be renewed count so long, then they are UNKNOWN.
STATUS_KEPT_SECONDS = 120.0
CONSOLE_LIMIT_CHARACTERS = 8_192

# EC2 Auto Scaling's own mark on an instance of its groups.
EC2_GROUP_TAG = "aws:autoscaling:groupName"
# Tag calls have a code of their own for it ("Error codes for the Amazon EC2 API").
UNKNOWN_INSTANCE = ("InvalidInstanceID.NotFound", "InvalidID")
_MEMBER_TAGS = (CONTROLLER_TAG, GROUP_TAG, ACTIVITY_TAG, LAUNCH_VERSION_TAG)
_INSTANCE_ID = re.compile(r"\bi-[0-9a-f]{8,17}\b")
# EC2's words for one check, worst first.
_CHECKS = (
    ("impaired", StatusCheck.IMPAIRED),
    ("initializing", StatusCheck.INITIALIZING),
    ("insufficient-data", StatusCheck.UNKNOWN),
    ("ok", StatusCheck.OK),
)


class Ec2Cloud:
    """Implements `cloud.port.Cloud`. `close()` it; a call after that fails with RuntimeError.

    `region` empty: from AWS_REGION, the AWS configuration, or instance metadata. `endpoint_url` empty: AWS's own.
    `chance` spreads the retries of throttled calls; `build_client` replaces boto3's clients, by service.
    """

    def __init__(
        self,
        controller_name: str,
        region: str,
        endpoint_url: str,
        clock: Clock,
        chance: random.Random | None = None,
        status_interval_seconds: float = STATUS_INTERVAL_SECONDS,
        build_client: Callable[[str], Any] | None = None,
    ) -> None:
        self._controller_name = controller_name
        self._clock = clock
        chance = chance or random.Random()  # noqa: S311  # spreads retries, keeps no secret
        self._calls = Ec2Calls(region, endpoint_url, clock, chance, build=build_client)
        self._status_interval_seconds = status_interval_seconds
        self._checks: Mapping[str, StatusCheck] = {}
        self._checks_at = float("-inf")
        self._checks_failing = False
        self._subnets: dict[tuple[object, ...], tuple[float, tuple[tuple[str, str], ...]]] = {}

    def close(self) -> None:
        """Drops what waits for a thread; running calls end by their own timeouts, unheard."""
        self._calls.close()

    async def describe_instances(self) -> tuple[CloudInstance, ...]:
        filters: list[FilterTypeDef] = [
            {"Name": f"tag:{CONTROLLER_TAG}", "Values": [self._controller_name]},
            {"Name": "tag-key", "Values": [GROUP_TAG]},
        ]
        found = await self._instances(filters)
        if any(instance["State"]["Name"] == "running" for instance in found.values()):
            await self._renew_checks()
        return tuple(_view(instance, self._checks) for instance in found.values())

    async def run_instances(self, request: LaunchRequest) -> tuple[CloudInstance, ...]:
        where = f"group {request.group}, activity {request.client_token}"
        call = run_instances_parameters(self._controller_name, request)
        try:
            answer = await self._calls.change(
                "RunInstances", where, lambda ec2: ec2.run_instances(**call), launched_count(request)
            )
        except RejectedError as error:
            if error.code not in ("IdempotentParameterMismatch", "IdempotentInstanceTerminated"):
                raise
            return await self._launched_before(request, error)
        return tuple(_view(instance, self._checks) for instance in answer["Instances"])

    async def terminate_instances(self, instance_ids: tuple[str, ...]) -> None:
        protected: list[CloudError] = []
        remaining = list(dict.fromkeys(instance_ids))
        while remaining:
            batch = remaining[:TERMINATE_LIMIT]
            try:
                await self._calls.change(
                    "TerminateInstances",
                    ", ".join(batch[:3]) + (f" and {len(batch) - 3} more" if len(batch) > 3 else ""),
                    lambda ec2, ids=batch: ec2.terminate_instances(InstanceIds=ids),  # type: ignore[misc]
                    len(batch),
                )
                done = set(batch)
            except RejectedError as error:
                # EC2 refuses the whole call for one id, and names it. One that is gone, or that somebody protected
                # from termination, must not keep the others alive.
                done = set(_INSTANCE_ID.findall(error.what)) & set(batch)
                if not done or error.code not in ("InvalidInstanceID.NotFound", "OperationNotPermitted"):
                    raise
                if error.code == "OperationNotPermitted":
                    protected.append(error)
            remaining = [instance_id for instance_id in remaining if instance_id not in done]
        if protected:
            raise protected[0]

    async def instance(self, instance_id: str) -> CloudInstance | None:
        found = await self._instances([{"Name": "instance-id", "Values": [instance_id]}])
        if instance_id not in found:
            return None
        seen = _view(found[instance_id], self._checks)
        tags = {tag["Key"]: tag["Value"] for tag in found[instance_id].get("Tags", [])}
        return replace(seen, group=seen.group or tags.get(EC2_GROUP_TAG, ""))

    async def attach_instance(self, group: str, activity_id: str, instance_id: str) -> CloudInstance:
        tags: list[TagTypeDef] = [
            {"Key": CONTROLLER_TAG, "Value": self._controller_name},
            {"Key": GROUP_TAG, "Value": group},
            {"Key": ACTIVITY_TAG, "Value": activity_id},
        ]
        await self._calls.change(
            "CreateTags", instance_id, lambda ec2: ec2.create_tags(Resources=[instance_id], Tags=tags), 0
        )
        seen = await self.instance(instance_id)
        if seen is None:
            raise RejectedError("EC2 knows no such instance", instance_id, "attach one that runs")
        return replace(seen, group=group, activity_id=activity_id)  # Describe may lag behind the tags

    async def detach_instances(self, instance_ids: tuple[str, ...]) -> None:
        tags: list[TagTypeDef] = [{"Key": key} for key in _MEMBER_TAGS]
        remaining = list(instance_ids)
        while remaining:
            try:
                await self._calls.change(
                    "DeleteTags",
                    ", ".join(remaining[:3]),
                    lambda ec2, ids=tuple(remaining): ec2.delete_tags(Resources=ids, Tags=tags),  # type: ignore[misc]
                    0,
                )
                return
            except RejectedError as error:
                gone = set(_INSTANCE_ID.findall(error.what)) & set(remaining)
                if not gone or error.code not in UNKNOWN_INSTANCE:
                    raise
                remaining = [instance_id for instance_id in remaining if instance_id not in gone]

    async def find_image(self, image: Image) -> str:
        if image.ssm_parameter is not None:
            return await self._image_of_parameter(image.ssm_parameter)
        where = "launch.image"
        if image.id is not None:
            ids = [image.id]
            try:
                answer = await self._calls.read(
                    "DescribeImages", where, lambda ec2: ec2.describe_images(ImageIds=ids)
                )
            except RejectedError as error:
                raise RejectedError(
                    f"EC2 knows no image {image.id}", where, "name one that this account may use", error.code
                ) from error
            if not answer["Images"]:
                raise RejectedError(
                    f"EC2 knows no image {image.id}", where, "name one that this account may use"
                )
            return image.id
        assert image.name is not None
        filters: list[FilterTypeDef] = [
            {"Name": "name", "Values": [image.name]},
            {"Name": "state", "Values": ["available"]},
        ]
        owners = [image.owner]
        answer = await self._calls.read(
            "DescribeImages", where, lambda ec2: ec2.describe_images(Filters=filters, Owners=owners)
        )
        if not answer["Images"]:
            what = f"no image of {image.owner} that is available is named {image.name}"
            raise RejectedError(what, where, "mend name or owner, or build the image")
        newest = max(answer["Images"], key=lambda found: (found.get("CreationDate", ""), found["ImageId"]))
        return newest["ImageId"]

    async def check_launch(self, group: Group, image_id: str) -> tuple[Fault, ...]:
        return await check_launch(self._calls, self._controller_name, group, image_id)

    async def console_output(self, instance_id: str) -> str:
        try:
            answer = await self._calls.read(
                "GetConsoleOutput", instance_id, lambda ec2: ec2.get_console_output(InstanceId=instance_id)
            )
        except RejectedError:
            return ""  # gone, or not of our account
        return answer.get("Output", "")[-CONSOLE_LIMIT_CHARACTERS:]

    async def subnets(self, group: Group) -> tuple[tuple[str, str], ...]:
        key = (group.launch.subnets, group.launch.zones)
        now = self._clock.monotonic()
        kept = self._subnets.get(key)
        if kept is not None and now - kept[0] < SUBNETS_KEPT_SECONDS:
            return kept[1]
        subnets = await find_subnets(self._calls, group.launch, f"group {group.name}")
        found = tuple((subnet.subnet_id, subnet.zone) for subnet in subnets)
        if not found:
            what = (
                "EC2 knows none of the named subnets"
                if group.launch.subnets
                else "no default subnet is there"
            )
            raise RejectedError(what, f"group {group.name}, launch.subnets", "name subnets of this region")
        if len(self._subnets) >= SUBNETS_KEPT_LIMIT:
            self._subnets.clear()
        self._subnets[key] = (now, found)
        return found

    async def _image_of_parameter(self, name: str) -> str:
        where = "launch.image.ssm_parameter"
        try:
            value = await self._calls.ssm_parameter(name, where)
        except RejectedError as error:
            raise RejectedError(
                f"there is no parameter {name}", where, "mend its name", error.code
            ) from error
        if not value.startswith("ami-"):
            raise RejectedError(f"{name} holds no image id", where, "name a parameter that holds an AMI's id")
        return value

    async def _launched_before(
        self, request: LaunchRequest, error: RejectedError
    ) -> tuple[CloudInstance, ...]:
        """What an earlier call with this token made, when EC2 won't repeat its answer.

        That is after its instances were terminated, or when a newer version of this program builds another call
        from the same journalled request. Empty: all of it is gone. Raises UncertainError while Describe may only lag.
        """
        found = await self._instances([{"Name": f"tag:{ACTIVITY_TAG}", "Values": [request.client_token]}])
        if not found and error.code == "IdempotentParameterMismatch":
            mend = "the same call shows its instances once EC2's Describe has caught up"
            raise UncertainError(error.what, error.where, mend, error.code) from error
        return tuple(_view(instance, self._checks) for instance in found.values())

    async def _instances(self, filters: "list[FilterTypeDef]") -> "dict[str, InstanceTypeDef]":
        """By id: pages may change between two calls, and then an instance stands on both."""
        found: dict[str, InstanceTypeDef] = {}
        token = ""
        # Not boto's paginator: each page takes its own turn in the limiter and has its own timeout.
        for _ in range(PAGES_LIMIT):
            page = {"NextToken": token} if token else {}
            answer = await self._calls.read(
                "DescribeInstances",
                "EC2",
                lambda ec2, page=page: ec2.describe_instances(  # type: ignore[misc]
                    Filters=filters, MaxResults=PAGE_SIZE, **page
                ),
            )
            for reservation in answer["Reservations"]:
                for instance in reservation.get("Instances", []):
                    found[instance["InstanceId"]] = instance
            token = answer.get("NextToken", "")
            if not token:
                return found
        raise CloudError(f"DescribeInstances has no end after {PAGES_LIMIT} pages", "EC2")

    async def _renew_checks(self) -> None:
        """Status checks of the account's running instances, at most every `status_interval_seconds`.

        They are a witness of three, so a failure here doesn't blind the controller: old ones count for a while.
        DescribeInstanceStatus knows no tags, and without IncludeAllInstances only the running, which alone have checks.
        """
        now = self._clock.monotonic()
        if now - self._checks_at < self._status_interval_seconds:
            return
        checks: dict[str, StatusCheck] = {}
        token = ""
        try:
            for _ in range(PAGES_LIMIT):
                page = {"NextToken": token} if token else {}
                answer = await self._calls.read(
                    "DescribeInstanceStatus",
                    "EC2",
                    lambda ec2, page=page: ec2.describe_instance_status(  # type: ignore[misc]
                        MaxResults=PAGE_SIZE, **page
                    ),
                )
                checks.update((status["InstanceId"], _worst(status)) for status in answer["InstanceStatuses"])
                token = answer.get("NextToken", "")
                if not token:
                    break
        except CloudError as error:
            if not self._checks_failing:
                log.warning("status_checks_unknown", error=str(error))
            self._checks_failing = True
            if now - self._checks_at >= STATUS_KEPT_SECONDS:
                self._checks = {}
            return
        self._checks, self._checks_at, self._checks_failing = checks, now, False


def _view(instance: "InstanceTypeDef", checks: Mapping[str, StatusCheck]) -> CloudInstance:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    state = Ec2State(instance["State"]["Name"])
    status = StatusCheck.UNKNOWN
    if state is Ec2State.PENDING:
        status = StatusCheck.INITIALIZING
    elif state is Ec2State.RUNNING:
        status = checks.get(instance["InstanceId"], StatusCheck.UNKNOWN)
    return CloudInstance(
        instance_id=instance["InstanceId"],
        group=tags.get(GROUP_TAG, ""),
        activity_id=tags.get(ACTIVITY_TAG, ""),
        launch_version=tags.get(LAUNCH_VERSION_TAG, ""),
        state=state,
        status=status,
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        instance_type=instance.get("InstanceType", ""),
        private_ip=instance.get("PrivateIpAddress", ""),
        image_id=instance.get("ImageId", ""),
        launched_at=_aware(instance["LaunchTime"]),
        market=Market.SPOT if instance.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND,
    )


def _worst(status: "InstanceStatusTypeDef") -> StatusCheck:
    words = {
        status.get("InstanceStatus", {}).get("Status", ""),
        status.get("SystemStatus", {}).get("Status", ""),
    }
    return next((check for word, check in _CHECKS if word in words), StatusCheck.UNKNOWN)


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
