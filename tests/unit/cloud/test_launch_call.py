"""RunInstances' parameters: the same request gives the same call, and our tags win."""

from dataclasses import replace

from controller_asg.cloud.launch_call import LAUNCH_LIMIT, run_instances_parameters
from controller_asg.model.activity import LaunchRequest

REQUEST = LaunchRequest(
    client_token="act-1",
    group="web",
    launch_version="v1",
    count=3,
    image_id="ami-0123456789abcdef0",
    instance_type="t2.micro",
)


def test_a_bare_request_asks_for_up_to_its_count_with_imdsv2_and_our_tags() -> None:
    call = run_instances_parameters("main", REQUEST)
    assert (call["MinCount"], call["MaxCount"], call["ClientToken"]) == (1, 3, "act-1")
    assert call["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpEndpoint": "enabled",
        "HttpPutResponseHopLimit": 1,
        "InstanceMetadataTags": "enabled",
    }
    for specification in call["TagSpecifications"]:
        assert {tag["Key"]: tag["Value"] for tag in specification["Tags"]} == {
            "controller-asg:controller": "main",
            "controller-asg:group": "web",
            "controller-asg:activity": "act-1",
            "controller-asg:launch-version": "v1",
            "Name": "web",
        }
    assert [specification["ResourceType"] for specification in call["TagSpecifications"]] == [
        "instance",
        "volume",
    ]
    for absent in (
        "SubnetId",
        "Placement",
        "KeyName",
        "IamInstanceProfile",
        "UserData",
        "InstanceMarketOptions",
    ):
        assert absent not in call


def test_our_tags_win_over_the_operators() -> None:
    call = run_instances_parameters("main", replace(REQUEST, tags=(("Name", "theirs"), ("team", "blue"))))
    tags = {tag["Key"]: tag["Value"] for tag in call["TagSpecifications"][0]["Tags"]}
    assert (tags["Name"], tags["team"]) == ("web", "blue")


def test_everything_that_is_named_is_sent() -> None:
    request = replace(
        REQUEST,
        subnet_id="subnet-1",
        security_groups=("sg-1", "sg-2"),
        key_pair="ops",
        instance_profile="web-role",
        disks=(("/dev/sda1", 20, "gp3", 4000, 250, True, False), ("/dev/sdb", 5, "gp2", 0, 0, None, True)),
        user_data="#!/bin/sh\n",
        metadata_tokens="optional",
        spot=True,
    )
    call = run_instances_parameters("main", request)
    assert call["SubnetId"] == "subnet-1"
    assert call["SecurityGroupIds"] == ["sg-1", "sg-2"]
    assert call["KeyName"] == "ops"
    assert call["IamInstanceProfile"] == {"Name": "web-role"}
    assert call["UserData"] == "#!/bin/sh\n"
    assert call["MetadataOptions"]["HttpTokens"] == "optional"
    assert call["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    first, second = call["BlockDeviceMappings"]
    assert first["Ebs"] == {
        "VolumeSize": 20,
        "VolumeType": "gp3",
        "DeleteOnTermination": False,
        "Iops": 4000,
        "Throughput": 250,
        "Encrypted": True,
    }
    assert second["Ebs"] == {"VolumeSize": 5, "VolumeType": "gp2", "DeleteOnTermination": True}


def test_a_zone_without_a_subnet_is_a_placement_and_an_arn_is_an_arn() -> None:
    arn = "arn:aws:iam::1:instance-profile/web"
    call = run_instances_parameters("main", replace(REQUEST, zone="us-east-1b", instance_profile=arn))
    assert call["Placement"] == {"AvailabilityZone": "us-east-1b"}
    assert call["IamInstanceProfile"] == {"Arn": arn}


def test_a_replay_is_the_same_call() -> None:
    assert run_instances_parameters("main", REQUEST) == run_instances_parameters("main", replace(REQUEST))


def test_one_call_never_asks_for_more_than_ec2s_bucket_holds() -> None:
    assert run_instances_parameters("main", replace(REQUEST, count=5_000))["MaxCount"] == LAUNCH_LIMIT


def test_a_subnet_says_its_zone_already() -> None:
    call = run_instances_parameters("main", replace(REQUEST, subnet_id="subnet-1", zone="us-east-1a"))
    assert "Placement" not in call
