"""Where a group may launch, asked of EC2."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller_asg.cloud.calls import Ec2Calls
from controller_asg.model.group import LaunchParameters

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef


@dataclass(frozen=True, slots=True)
class Subnet:
    subnet_id: str
    zone: str
    vpc_id: str


async def find_subnets(calls: Ec2Calls, launch: LaunchParameters, where: str) -> tuple[Subnet, ...]:
    """The named subnets that EC2 knows, in the document's order; else the default subnet of each zone, by zone.

    `zones`, when named, leaves only the subnets in them, in their order. Nothing is raised for one that is missing.
    """
    named: FilterTypeDef = {"Name": "subnet-id", "Values": list(launch.subnets)}
    default: FilterTypeDef = {"Name": "default-for-az", "Values": ["true"]}
    filters = [named if launch.subnets else default]
    answer = await calls.read("DescribeSubnets", where, lambda ec2: ec2.describe_subnets(Filters=filters))
    found = [
        Subnet(subnet["SubnetId"], subnet["AvailabilityZone"], subnet["VpcId"])
        for subnet in answer["Subnets"]
    ]
    if launch.subnets:
        found.sort(key=lambda subnet: launch.subnets.index(subnet.subnet_id))
    else:
        found.sort(key=lambda subnet: subnet.zone)
    if launch.zones:
        found = [subnet for subnet in found if subnet.zone in launch.zones]
        if not launch.subnets:
            found.sort(key=lambda subnet: launch.zones.index(subnet.zone))
    return tuple(found)
