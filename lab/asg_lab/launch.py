"""RunInstances as EC2 does it, where moto does less.

Launch template merged into the request, everything checked before a dry run succeeds, ClientToken honoured, MaxCount
instances (fewer when the zone's capacity says so), the default subnet filled in, a profile for each instance.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import convert_tag_spec, filter_iam_instance_profiles, parse_user_data

from asg_lab.pool import State
from asg_lab.world import Launched, World

USER_DATA_BYTES = 16384  # before base64 (EC2 User Guide, "user data")
CLIENT_TOKEN_CHARACTERS = 64
ROOT_DEVICE_GIB = 8
PARAMETERS = (
    *("ImageId", "InstanceType", "KeyName", "UserData", "SecurityGroupIds", "SecurityGroups", "SubnetId"),
    *("IamInstanceProfile", "NetworkInterfaces", "BlockDeviceMappings", "Placement", "Monitoring"),
    *(
        "InstanceMarketOptions",
        "InstanceInitiatedShutdownBehavior",
        "DisableApiTermination",
        "DisableApiStop",
    ),
    *("EbsOptimized", "PrivateIpAddress", "MetadataOptions"),
)


def run_instances(world: World, response: Any) -> Any:
    """The answer to a RunInstances request; `response` is moto's InstanceResponse."""
    backend = response.ec2_backend
    token = response._get_param("ClientToken") or ""
    print_of_request = fingerprint(response.querystring)
    if len(token) > CLIENT_TOKEN_CHARACTERS:
        raise EC2ClientError("InvalidParameterValue", "ClientToken may have 64 characters")
    if (used := world.tokens.get(token)) is not None:
        if used.fingerprint != print_of_request:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                "The client token was used for a request with other parameters",
            )
        reservation = backend.reservations.get(used.reservation_id)
        if reservation is None or all(
            each._state.name in (State.SHUTTING_DOWN, State.TERMINATED) for each in reservation.instances
        ):
            raise EC2ClientError(
                "IdempotentInstanceTerminated",
                "The client token was used for a request whose instances have been terminated",
            )
        return ActionResult(reservation)
    request = merged(response, backend)
    _check(world, backend, request, response)
    response.error_on_dryrun()
    count = _count(world, response, request)
    reservation = _launch(backend, response, request, count, token)
    if token:
        world.tokens[token] = Launched(print_of_request, reservation.id)
    return ActionResult(reservation)


def fingerprint(querystring: dict[str, list[str]]) -> str:
    """What must be equal for a token's second use: all parameters but the token."""
    compared = {key: value for key, value in querystring.items() if key not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class LaunchRequest:
    """A request with its template's values in it."""

    values: dict[str, Any]
    launch_template: dict[str, Any]
    zone: str = ""
    profile: dict[str, str] | None = None

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


def merged(response: Any, backend: Any) -> LaunchRequest:
    """The request's values, and the launch template's where it has none."""
    template_argument = response._get_param("LaunchTemplate", {})
    template = backend._get_template_from_args(template_argument).data if template_argument else {}
    values = {name: response._get_param(name) for name in PARAMETERS}
    for name, value in values.items():
        if value in (None, "", [], {}):
            values[name] = template.get(name)
    values["MetadataOptions"] = (template.get("MetadataOptions") or {}) | (
        response._get_param("MetadataOptions") or {}
    )
    _unfold_primary_interface(values)
    return LaunchRequest(values, template_argument)


def _unfold_primary_interface(values: dict[str, Any]) -> None:
    """A single interface says the same as the request's own subnet, groups and address."""
    interfaces = values.get("NetworkInterfaces") or []
    primary = next((each for each in interfaces if int(each.get("DeviceIndex") or 0) == 0), None)
    if primary is None or primary.get("NetworkInterfaceId"):
        return
    if values.get("SubnetId") and primary.get("SubnetId") not in (None, values["SubnetId"]):
        raise EC2ClientError(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level subnet ID may not be specified on the same request",
        )
    values["SubnetId"] = values.get("SubnetId") or primary.get("SubnetId")
    values["SecurityGroupIds"] = values.get("SecurityGroupIds") or primary.get("Groups")
    values["PrivateIpAddress"] = values.get("PrivateIpAddress") or primary.get("PrivateIpAddress")
    values["AssociatePublicIpAddress"] = primary.get("AssociatePublicIpAddress")
    values["NetworkInterfaces"] = [each for each in interfaces if each is not primary]


def _check(world: World, backend: Any, request: LaunchRequest, response: Any) -> None:
    """Raise what EC2 would; in a dry run too, where moto has not looked yet."""
    image_id = request["ImageId"]
    if not image_id:
        raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
    backend.describe_images(ami_ids=[image_id])
    image = backend.amis.get(image_id)
    if image is None or image.state != "available" or image_id not in world.images:
        raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
    if (instance_type := request["InstanceType"]) and not backend.describe_instance_type_offerings(
        "region", {"instance-type": [instance_type]}
    ):
        raise EC2ClientError(
            "InvalidInstanceType.NotFound", f"The instance type '{instance_type}' does not exist"
        )
    if request["KeyName"]:
        backend.describe_key_pairs(key_names=[request["KeyName"]])
    for group_id in request["SecurityGroupIds"] or []:
        if backend.get_security_group_from_id(group_id) is None:
            raise EC2ClientError("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
    request.zone = _zone(backend, request)
    request.profile = request["IamInstanceProfile"]
    if request.profile:
        _check_profile(response, request.profile)
    raw = base64.b64decode(str(request["UserData"] or ""), validate=False)
    if len(raw) > USER_DATA_BYTES:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")


def _zone(backend: Any, request: LaunchRequest) -> str:
    """The zone launched in; fills in its default subnet when none is named."""
    wanted = (request["Placement"] or {}).get("AvailabilityZone")
    if request["SubnetId"]:
        zone = str(backend.get_subnet(request["SubnetId"]).availability_zone)
        if wanted and wanted != zone:
            raise EC2ClientError("InvalidParameterValue", f"The subnet is in {zone}, not in {wanted}")
        return zone
    subnets = backend.get_default_subnets()
    zone = wanted or min(subnets)
    if zone not in subnets:
        raise EC2ClientError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    request.values["SubnetId"] = subnets[zone].id
    return str(zone)


def _check_profile(response: Any, profile: dict[str, str]) -> None:
    cause: Exception | None = None
    try:
        found = filter_iam_instance_profiles(
            response.current_account,
            partition=response.partition,
            iam_instance_profile_arn=profile.get("Arn"),
            iam_instance_profile_name=profile.get("Name"),
        )
    except Exception as error:  # moto raises IAM's own error here, EC2 its own
        found, cause = None, error
    if found is None:
        named = profile.get("Name") or profile.get("Arn")
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({named}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        ) from cause


def _count(world: World, response: Any, request: LaunchRequest) -> int:
    """How many to launch: MaxCount, or what the zone has left when that is MinCount or more."""
    least, most = int(response._get_param("MinCount", 1)), int(response._get_param("MaxCount", 1))
    if not 1 <= least <= most:
        raise EC2ClientError("InvalidParameterValue", f"MinCount {least} and MaxCount {most} don't fit")
    instance_type = request["InstanceType"] or "m1.small"
    limit = world.faults.capacity_limit(request.zone, instance_type)
    if limit is None:
        return most
    left = max(0, limit - world.living(request.zone, instance_type))
    if left < least:
        raise EC2ClientError(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested"
            f" ({request.zone}).",
        )
    return min(most, left)


def _launch(backend: Any, response: Any, request: LaunchRequest, count: int, token: str) -> Any:
    profile = request.profile or {}
    groups = list(request["SecurityGroupIds"] or [])
    if not groups and not request["SecurityGroups"]:
        vpc_id = backend.get_subnet(request["SubnetId"]).vpc_id
        groups = [backend.get_security_group_from_name("default", vpc_id=vpc_id).id]
    market = request["InstanceMarketOptions"] or {}
    reservation = backend.run_instances(
        request["ImageId"],
        count,
        parse_user_data(str(request["UserData"]) if request["UserData"] else None),
        request["SecurityGroups"] or [],
        instance_type=request["InstanceType"] or "m1.small",
        is_instance_type_default=not request["InstanceType"],
        region_name=response.region,
        subnet_id=request["SubnetId"],
        key_name=request["KeyName"],
        security_group_ids=groups,
        nics=[],
        private_ip=request["PrivateIpAddress"],
        associate_public_ip=request["AssociatePublicIpAddress"],
        tags=_tags(response),
        ebs_optimized=request["EbsOptimized"] or False,
        disable_api_stop=request["DisableApiStop"] or False,
        disable_api_termination=request["DisableApiTermination"] or False,
        instance_market_options=market.get("MarketType"),
        instance_initiated_shutdown_behavior=request["InstanceInitiatedShutdownBehavior"],
        launch_template=request.launch_template,
        iam_instance_profile_name=profile.get("Name"),
        iam_instance_profile_arn=profile.get("Arn"),
        monitoring_state="enabled" if (request["Monitoring"] or {}).get("Enabled") else "disabled",
        metadata_options={"HttpTokens": "required"} | request["MetadataOptions"],
        client_token=token,
        block_device_mappings=_block_devices(backend, request),
    )
    for instance in reservation.instances:
        if profile:
            backend.associate_iam_instance_profile(
                instance_id=instance.id,
                iam_instance_profile_name=profile.get("Name"),
                iam_instance_profile_arn=profile.get("Arn"),
            )
    return reservation


def _tags(response: Any) -> dict[str, dict[str, str]]:
    # moto carries no types.
    return convert_tag_spec(response._get_param("TagSpecifications", []) or [])  # type: ignore[no-any-return]


def _block_devices(backend: Any, request: LaunchRequest) -> list[dict[str, Any]]:
    """The disks asked for, with one root among them (moto adds a second one beside a template's)."""
    image = backend.amis[request["ImageId"]]
    devices = []
    for asked in request["BlockDeviceMappings"] or []:
        if asked.get("NoDevice") is not None or "Ebs" not in asked:
            continue
        disk = dict(asked["Ebs"])
        if not disk.get("VolumeSize") and not disk.get("SnapshotId"):
            if asked["DeviceName"] != image.root_device_name:
                raise EC2ClientError(
                    "MissingParameter", "The request must contain the parameter size or snapshotId"
                )
            disk["VolumeSize"] = ROOT_DEVICE_GIB
        disk.setdefault("DeleteOnTermination", True)
        devices.append({"DeviceName": asked["DeviceName"], "Ebs": disk})
    if all(each["DeviceName"] != image.root_device_name for each in devices):
        root = {"VolumeSize": ROOT_DEVICE_GIB, "VolumeType": "gp3", "DeleteOnTermination": True}
        devices.insert(0, {"DeviceName": image.root_device_name, "Ebs": root})
    return devices
