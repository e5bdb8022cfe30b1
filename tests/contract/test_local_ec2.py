"""The local EC2 keeps EC2's word: seen through boto3, on real machines, beside any other lab.

The tests share one lab and, where they don't harm it, one instance: a boot costs 2 s of a quiet host's core.
"""

import json
import uuid
from collections.abc import Iterator

import pytest
from asg_lab.state import AMI_PARAMETER, Options
from asg_lab.testing import Lab, running_lab, wait_until
from botocore.exceptions import ClientError, HTTPClientError

pytestmark = pytest.mark.lab

USER_DATA = "#!/bin/sh\necho from-user-data > /run/user-data-ran\n"
TOKEN = (
    "curl() { python3 -c 'import sys,urllib.request as u;"
    'r=u.Request("http://169.254.169.254/latest/"+sys.argv[2],method=sys.argv[1],'
    'headers=dict(a.split("=") for a in sys.argv[3:]));'
    'print(u.urlopen(r,timeout=5).read().decode())\' "$@"; }; '
    "T=$(curl PUT api/token X-aws-ec2-metadata-token-ttl-seconds=60); "
    "get() { curl GET $1 X-aws-ec2-metadata-token=$T; }; "
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("contract", Options(probe_seconds=0.5)) as running:
        iam = running.client("iam")
        iam.create_role(RoleName="controller-asg", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="controller-asg")
        iam.add_role_to_instance_profile(InstanceProfileName="controller-asg", RoleName="controller-asg")
        yield running


@pytest.fixture(scope="module")
def booted(lab: Lab) -> str:
    """An instance with everything on, its user data done."""
    lab.key_pair()
    (instance_id,) = lab.run(
        KeyName="lab-tests",
        UserData=USER_DATA,
        IamInstanceProfile={"Name": "controller-asg"},
        MetadataOptions={"InstanceMetadataTags": "enabled"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "shared"}]}],
    )
    wait_until(lambda: "booted" in _moments(lab, instance_id), "the end of cloud-init")
    return instance_id


@pytest.fixture
def mended(lab: Lab) -> Iterator[Lab]:
    """A lab whose faults end with the test."""
    yield lab
    lab.clear_faults()


def _moments(lab: Lab, instance_id: str) -> list[str]:
    events = json.loads(lab.command("events", "--json"))
    return [each["event"] for each in events if each["instance_id"] == instance_id]


def _error_code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_an_instance_boots_with_its_key_and_user_data(lab: Lab, booted: str) -> None:
    described = lab.describe(booted)
    assert described["State"]["Name"] == "running"
    assert described["SubnetId"] == lab.info.subnet_ids["us-east-1a"]
    assert described["MetadataOptions"]["HttpTokens"] == "required"
    done = lab.ssh(booted, "cat /run/user-data-ran; sudo id -u; systemctl --failed --no-legend | wc -l")
    assert done.stdout.split() == ["from-user-data", "0", "0"], done.stderr


def test_status_checks_follow_the_machine(mended: Lab, booted: str) -> None:
    mended.wait_for_check(booted, "ok")
    mended.fault("freeze", booted)
    mended.wait_for_check(booted, "impaired")
    assert mended.describe(booted)["State"]["Name"] == "running"
    mended.fault("thaw", booted)
    mended.wait_for_check(booted, "ok")
    mended.fault("cut", booted)
    mended.wait_for_check(booted, "impaired")
    mended.fault("mend", booted)
    mended.wait_for_check(booted, "ok")
    mended.fault("status-check", booted)
    mended.wait_for_check(booted, "impaired")


def test_metadata_wants_a_token_and_knows_the_instance(lab: Lab, booted: str) -> None:
    shown = lab.execute(
        booted,
        TOKEN
        + "curl GET meta-data/instance-id 2>&1 | tail -1; get meta-data/instance-id; get meta-data/tags/instance/Name;"
        " get meta-data/placement/availability-zone; get meta-data/iam/security-credentials/;"
        " get meta-data/spot/instance-action 2>&1 | tail -1",
    ).splitlines()
    assert "401" in shown[0]
    assert shown[1:5] == [booted, "shared", "us-east-1a", "controller-asg"]
    assert "404" in shown[5]
    document = json.loads(lab.execute(booted, TOKEN + "get dynamic/instance-identity/document"))
    assert (document["instanceId"], document["region"]) == (booted, "us-east-1")
    keys = json.loads(lab.execute(booted, TOKEN + "get meta-data/iam/security-credentials/controller-asg"))
    assert keys["AccessKeyId"] == lab.environment["AWS_ACCESS_KEY_ID"]


def test_a_machine_sees_its_own_memory_load_and_pressure(lab: Lab, booted: str) -> None:
    shown = lab.execute(
        booted, "grep MemTotal /proc/meminfo; grep -c /proc/pressure/ /proc/mounts; cat /proc/loadavg"
    )
    memory, mounts, load = shown.splitlines()
    assert 1000 < int(memory.split()[1]) / 1024 <= 1024
    assert int(mounts) == 3
    assert len(load.split()) == 5


def test_a_machine_reaches_the_api_and_nothing_of_the_world(lab: Lab, booted: str) -> None:
    port = lab.info.api_port
    connect = "import socket,sys; socket.create_connection((sys.argv[1],int(sys.argv[2])),3)"
    reach = f"python3 -c '{connect}' {{}} {{}} && echo yes"
    assert lab.execute(booted, reach.format(lab.info.gateway, port)).strip() == "yes"
    assert "yes" not in lab.command(
        "exec", booted, "--", "sh", "-c", reach.format("192.0.2.1", 80), check=False
    )


def test_a_client_token_launches_once(lab: Lab) -> None:
    token = str(uuid.uuid4())
    first = lab.run(2, ClientToken=token)
    assert lab.run(2, ClientToken=token) == first
    with pytest.raises(ClientError) as caught:
        lab.run(3, ClientToken=token)
    assert _error_code(caught) == "IdempotentParameterMismatch"
    pages = lab.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
    assert [each["InstanceId"] for r in pages["Reservations"] for each in r["Instances"]] == first
    lab.ec2.terminate_instances(InstanceIds=first)
    lab.wait_for_state(first, "terminated")
    assert "PrivateIpAddress" not in lab.describe(first[0])


def test_a_lost_answer_is_replayed_to_the_same_instances(mended: Lab) -> None:
    token = str(uuid.uuid4())
    mended.fault("lost-answer", "RunInstances", "--count", "1")
    with pytest.raises(HTTPClientError):
        mended.run(ClientToken=token)
    replayed = mended.run(ClientToken=token)
    found = mended.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
    assert [each["InstanceId"] for r in found["Reservations"] for each in r["Instances"]] == replayed
    calls = json.loads(mended.command("calls", "--json"))
    answered = [call["status"] for call in calls if call["client_token"] == token]
    assert answered == [None, 200]
    mended.ec2.terminate_instances(InstanceIds=replayed)


def test_throttling_and_injected_errors_end_after_their_count(mended: Lab) -> None:
    mended.fault("throttle", "DescribeInstances", "--count", "1")
    with pytest.raises(ClientError) as caught:
        mended.ec2.describe_instances()
    assert _error_code(caught) == "RequestLimitExceeded"
    mended.ec2.describe_instances()
    mended.fault("error", "DescribeInstances", "UnauthorizedOperation", "--count", "1")
    with pytest.raises(ClientError) as caught:
        mended.ec2.describe_instances()
    assert _error_code(caught) == "UnauthorizedOperation"


def test_a_zone_without_capacity_refuses_and_another_does_not(mended: Lab) -> None:
    mended.fault("capacity", "--zone", "us-east-1b", "--type", "t2.micro", "--limit", "1")
    with pytest.raises(ClientError) as caught:
        mended.run(2, SubnetId=mended.info.subnet_ids["us-east-1b"])
    assert _error_code(caught) == "InsufficientInstanceCapacity"
    some = mended.run(MinCount=1, MaxCount=3, SubnetId=mended.info.subnet_ids["us-east-1b"])
    other = mended.run(SubnetId=mended.info.subnet_ids["us-east-1c"])
    assert (len(some), len(other)) == (1, 1)
    mended.ec2.terminate_instances(InstanceIds=some + other)


def test_describe_can_lag_behind(mended: Lab) -> None:
    mended.fault("lag", "60")
    new = mended.run()
    with pytest.raises(ClientError) as caught:
        mended.describe(new[0])
    assert _error_code(caught) == "InvalidInstanceID.NotFound"
    mended.clear_faults()
    assert mended.describe(new[0])["InstanceId"] == new[0]
    mended.ec2.terminate_instances(InstanceIds=new)


def test_a_dry_run_finds_what_a_launch_would_refuse(lab: Lab) -> None:
    refused = {
        "InvalidAMIID.NotFound": {"ImageId": "ami-0123456789abcdef0"},
        "InvalidSubnetID.NotFound": {"SubnetId": "subnet-0123456789abcdef0"},
        "InvalidGroup.NotFound": {"SecurityGroupIds": ["sg-0123456789abcdef0"]},
        "InvalidKeyPair.NotFound": {"KeyName": "no-such-key"},
        "InvalidInstanceType.NotFound": {"InstanceType": "t9.micro"},
        "InvalidParameterValue": {"IamInstanceProfile": {"Name": "no-such-profile"}},
        "DryRunOperation": {},
    }
    for code, parameters in refused.items():
        with pytest.raises(ClientError) as caught:
            lab.run(DryRun=True, **parameters)
        assert _error_code(caught) == code


def test_a_launch_template_reaches_the_instance(lab: Lab) -> None:
    data = {
        "ImageId": lab.info.ami_id,
        "InstanceType": "t3.micro",
        "IamInstanceProfile": {"Name": "controller-asg"},
        "MetadataOptions": {"HttpTokens": "optional"},
        "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": lab.info.subnet_ids["us-east-1c"]}],
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 20}}],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
    }
    lab.ec2.create_launch_template(LaunchTemplateName="contract", LaunchTemplateData=data)
    answer = lab.ec2.run_instances(LaunchTemplate={"LaunchTemplateName": "contract"}, MinCount=2, MaxCount=2)
    for launched in answer["Instances"]:
        described = lab.describe(launched["InstanceId"])
        assert described["InstanceType"] == "t3.micro"
        assert described["Placement"]["AvailabilityZone"] == "us-east-1c"
        assert described["IamInstanceProfile"]["Arn"].endswith("/controller-asg")
        assert described["MetadataOptions"]["HttpTokens"] == "optional"
        assert len(described["BlockDeviceMappings"]) == 1
        assert {"Key": "from", "Value": "template"} in described["Tags"]
    lab.ec2.terminate_instances(InstanceIds=[each["InstanceId"] for each in answer["Instances"]])


def test_pages_count_instances(lab: Lab) -> None:
    new = lab.run(
        6, TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "paged", "Value": "yes"}]}]
    )
    lab.ec2.terminate_instances(InstanceIds=new)  # none needs to boot for this
    paginator = lab.ec2.get_paginator("describe_instances")
    pages = list(
        paginator.paginate(Filters=[{"Name": "tag:paged", "Values": ["*"]}], PaginationConfig={"PageSize": 5})
    )
    sizes = [sum(len(r["Instances"]) for r in page["Reservations"]) for page in pages]
    assert sizes == [5, 1]


def test_the_base_image_is_found_by_parameter_and_by_name(lab: Lab) -> None:
    parameter = lab.client("ssm").get_parameter(Name=AMI_PARAMETER)
    assert parameter["Parameter"]["Value"] == lab.info.ami_id
    images = lab.ec2.describe_images(Filters=[{"Name": "name", "Values": [lab.info.ami_name]}])["Images"]
    assert [image["ImageId"] for image in images] == [lab.info.ami_id]


def test_an_image_made_from_a_machine_boots_with_what_was_on_it(lab: Lab, booted: str) -> None:
    lab.execute(booted, "echo baked > /srv/baked; sync")
    tags = [
        {"ResourceType": kind, "Tags": [{"Key": "made", "Value": "here"}]} for kind in ("image", "snapshot")
    ]
    image_id = lab.ec2.create_image(InstanceId=booted, Name="contract-image", TagSpecifications=tags)[
        "ImageId"
    ]

    def available() -> bool:
        return bool(lab.ec2.describe_images(ImageIds=[image_id])["Images"][0]["State"] == "available")

    wait_until(available, "the image")
    (launched,) = lab.run(ImageId=image_id)
    lab.wait_for_state([launched], "running")
    assert lab.execute(launched, "cat /srv/baked").strip() == "baked"
    output = wait_until(lambda: lab.ec2.get_console_output(InstanceId=launched).get("Output"), "a console")
    assert output
    lab.ec2.terminate_instances(InstanceIds=[launched])
    lab.ec2.deregister_image(ImageId=image_id)


def test_a_killed_machine_is_stopped_and_starts_again(lab: Lab, booted: str) -> None:
    lab.fault("kill", booted)
    lab.wait_for_state([booted], "stopped")
    assert lab.describe(booted)["StateReason"]["Code"] == "Server.InternalError"
    lab.ec2.start_instances(InstanceIds=[booted])
    lab.wait_for_state([booted], "running")
    lab.wait_for_check(booted, "ok")
    lab.ec2.stop_instances(InstanceIds=[booted])
    lab.wait_for_state([booted], "stopped")
    lab.ec2.terminate_instances(InstanceIds=[booted])
    lab.wait_for_state([booted], "terminated")
