"""What the dry run says, in the operator's own terms. The lookups are held against real endpoints by the contract."""

import random
from collections.abc import Callable

import pytest
from scripted_ec2 import NS, Form, InstantClock, Reply, Server, fault

from controller_asg.cloud.ec2 import Ec2Cloud
from controller_asg.model.errors import CloudError, Fault, ThrottledError
from controller_asg.model.group import Disk, Group, Image, LaunchParameters

Serve = Callable[[Callable[[Form], Reply]], Server]
IMAGE = "ami-0123456789abcdef0"
GROUP = Group(
    "web",
    LaunchParameters(
        image=Image(id=IMAGE),
        instance_profile="web-role",
        disks=(Disk("/dev/sda1", 8, iops=200),),
        key_pair="ops",
    ),
)
LOOKUPS = {
    "DescribeImages": f"<imagesSet><item><imageId>{IMAGE}</imageId><imageState>available</imageState></item>"
    "</imagesSet>",
    "DescribeInstanceTypes": "<instanceTypeSet><item><instanceType>t2.micro</instanceType></item></instanceTypeSet>",
    "DescribeSubnets": "<subnetSet><item><subnetId>subnet-1</subnetId><availabilityZone>us-east-1a"
    "</availabilityZone><vpcId>vpc-1</vpcId></item></subnetSet>",
    "DescribeKeyPairs": "<keySet><item><keyName>ops</keyName></item></keySet>",
}


async def faults_when(serve: Serve, dry_run: Reply, **lookups: Reply) -> tuple[Fault, ...]:
    def reply(form: Form) -> Reply:
        action = form["Action"]
        if action == "RunInstances":
            assert form["DryRun"] == "true"
            assert form["SubnetId"] == "subnet-1"
            return dry_run
        if action in lookups:
            return lookups[action]
        return 200, f"<{action}Response {NS}>{LOOKUPS[action]}</{action}Response>"

    cloud = Ec2Cloud("main", "us-east-1", serve(reply).url, InstantClock(), random.Random(0))
    try:
        return await cloud.check_launch(GROUP, IMAGE)
    finally:
        cloud.close()


@pytest.mark.parametrize(
    "reply",
    [
        fault("DryRunOperation", 412),
        fault("InsufficientInstanceCapacity", 500),
        fault("VcpuLimitExceeded"),
        fault("Unsupported"),
    ],
)
async def test_what_would_launch_now_or_later_is_no_fault(serve: Serve, reply: Reply) -> None:
    assert await faults_when(serve, reply) == ()


@pytest.mark.parametrize(
    ("code", "message", "key"),
    [
        (
            "InvalidParameterValue",
            "Value (web) for parameter iamInstanceProfile.name is invalid.",
            "instance_profile",
        ),
        ("InvalidBlockDeviceMapping", "the device is not for you", "disks"),
        ("InvalidParameterCombination", "Iops to volume size ratio of 200.0 is too high", "disks"),
        ("InvalidParameterValue", "The security group is not for you", "security_groups"),
        ("InvalidUserData.Malformed", "is not base64", "user_data"),
        ("VPCIdNotSpecified", "No default VPC for this user", "subnets"),
    ],
)
async def test_a_refusal_stands_at_the_key_it_is_about(
    serve: Serve, code: str, message: str, key: str
) -> None:
    (found,) = await faults_when(serve, fault(code, message=message))
    assert found.where.endswith(f"web.launch.{key}")
    assert message in found.what


async def test_a_refusal_of_no_known_key_stands_at_launch(serve: Serve) -> None:
    (found,) = await faults_when(serve, fault("InvalidParameterValue", message="no"))
    assert found.where.endswith("web.launch")


@pytest.mark.parametrize(
    ("message", "where", "permission"),
    [
        ("You are not authorized to perform this operation.", "web.launch", "ec2:RunInstances"),
        (
            "User: arn:aws:sts::1:assumed-role/c is not authorized to perform: iam:PassRole on resource: "
            "arn:aws:iam::1:role/web-role because no policy allows it",
            "web.launch.instance_profile",
            "iam:PassRole on arn:aws:iam::1:role/web-role",
        ),
    ],
)
async def test_a_missing_permission_is_named(serve: Serve, message: str, where: str, permission: str) -> None:
    (found,) = await faults_when(serve, fault("UnauthorizedOperation", 403, message))
    assert found.where.endswith(where)
    assert permission in found.what
    assert "IAM policy" in found.mend


async def test_a_lookup_that_is_not_permitted_hides_nothing_else(serve: Serve) -> None:
    found = await faults_when(
        serve,
        fault("InvalidParameterValue", message="iamInstanceProfile.name is invalid"),
        DescribeKeyPairs=fault(
            "UnauthorizedOperation", 403, "You are not authorized to perform this operation."
        ),
    )
    assert [one.where.rpartition("web.")[2] for one in found] == ["launch", "launch.instance_profile"]
    assert "ec2:DescribeKeyPairs" in found[0].what


async def test_an_ec2_that_can_not_be_asked_is_an_error_and_no_fault(serve: Serve) -> None:
    with pytest.raises(CloudError):
        await faults_when(serve, fault("InternalError", 500))
    with pytest.raises(ThrottledError):
        await faults_when(serve, fault("RequestLimitExceeded", 503))
    with pytest.raises(CloudError):
        await faults_when(serve, fault("AuthFailure", 401))
