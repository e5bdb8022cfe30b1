"""RunInstances as EC2 wants it: a pure function of the request, so that a replay is the same call to the byte."""

from typing import TYPE_CHECKING

from controller_asg.model.activity import LaunchRequest

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import (
        BlockDeviceMappingTypeDef,
        RunInstancesRequestTypeDef,
        TagSpecificationTypeDef,
        TagTypeDef,
    )

CONTROLLER_TAG = "controller-asg:controller"
GROUP_TAG = "controller-asg:group"
ACTIVITY_TAG = "controller-asg:activity"
LAUNCH_VERSION_TAG = "controller-asg:launch-version"
NAME_TAG = "Name"
OUR_TAGS = (CONTROLLER_TAG, GROUP_TAG, ACTIVITY_TAG, LAUNCH_VERSION_TAG, NAME_TAG)

LAUNCH_LIMIT = (
    1_000  # instances in one call: no more tokens fit EC2's bucket for RunInstances (see limiter.py)
)
CLIENT_TOKEN_LIMIT = 64  # ASCII characters (EC2 Developer Guide, "Ensuring idempotency")


def launched_count(request: LaunchRequest) -> int:
    """How many instances the call asks for, which is fewer than `request.count` beyond LAUNCH_LIMIT."""
    return min(request.count, LAUNCH_LIMIT)


def run_instances_parameters(controller_name: str, request: LaunchRequest) -> "RunInstancesRequestTypeDef":
    """MinCount is 1: where a zone has room for two of three, two now are better than none. The caller sees fewer."""
    assert 0 < len(request.client_token) <= CLIENT_TOKEN_LIMIT
    assert request.count > 0
    tags = {
        **dict(request.tags),
        CONTROLLER_TAG: controller_name,
        GROUP_TAG: request.group,
        ACTIVITY_TAG: request.client_token,
        LAUNCH_VERSION_TAG: request.launch_version,
        NAME_TAG: request.group,
    }
    tag_list: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
    on_instance: TagSpecificationTypeDef = {"ResourceType": "instance", "Tags": tag_list}
    on_volume: TagSpecificationTypeDef = {"ResourceType": "volume", "Tags": tag_list}
    call: RunInstancesRequestTypeDef = {
        "ClientToken": request.client_token,
        "MinCount": 1,
        "MaxCount": launched_count(request),
        "ImageId": request.image_id,
        "InstanceType": request.instance_type,  # type: ignore[typeddict-item]  # the stubs lag behind EC2's new types
        "MetadataOptions": {
            "HttpTokens": "optional" if request.metadata_tokens == "optional" else "required",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 1,
            # The agent learns its group from its own tags, without a permission.
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": [on_instance, on_volume],
    }
    if request.subnet_id:
        call["SubnetId"] = request.subnet_id
    if request.zone and not request.subnet_id:
        call["Placement"] = {"AvailabilityZone": request.zone}
    if request.security_groups:
        call["SecurityGroupIds"] = list(request.security_groups)
    if request.key_pair:
        call["KeyName"] = request.key_pair
    if request.instance_profile:
        by_arn = request.instance_profile.startswith("arn:")
        call["IamInstanceProfile"] = {"Arn" if by_arn else "Name": request.instance_profile}  # type: ignore[misc]
    if request.disks:
        call["BlockDeviceMappings"] = [_disk(disk) for disk in request.disks]
    if request.user_data:
        call["UserData"] = request.user_data  # botocore encodes it
    if request.spot:
        call["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return call


def _disk(disk: tuple[str, int, str, int, int, bool | None, bool]) -> "BlockDeviceMappingTypeDef":
    device, size_gib, kind, iops, throughput_mib, encrypted, delete_on_termination = disk
    mapping: BlockDeviceMappingTypeDef = {
        "DeviceName": device,
        "Ebs": {
            "VolumeSize": size_gib,
            "VolumeType": kind,  # type: ignore[typeddict-item]
            "DeleteOnTermination": delete_on_termination,
        },
    }
    if iops:
        mapping["Ebs"]["Iops"] = iops
    if throughput_mib:
        mapping["Ebs"]["Throughput"] = throughput_mib
    if encrypted is not None:
        mapping["Ebs"]["Encrypted"] = encrypted
    return mapping
