"""What an instance reads about itself."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from asg_lab.imds import Tokens, content_at
from asg_lab.metadata import InstanceView, lookup, metadata_tree

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VIEW = InstanceView(
    instance_id="i-1",
    image_id="ami-1",
    instance_type="t2.micro",
    account_id="123456789012",
    region="us-east-1",
    zone="us-east-1a",
    zone_id="use1-az1",
    private_ip="172.31.0.4",
    public_ip=None,
    mac_address="02:00:00:00:00:01",
    hostname="ip-172-31-0-4.ec2.internal",
    subnet_id="subnet-1",
    subnet_cidr="172.31.0.0/20",
    vpc_id="vpc-1",
    vpc_cidr="172.31.0.0/16",
    reservation_id="r-1",
    launch_index=0,
    launched_at=NOW,
    security_groups=(("sg-1", "default"),),
    user_data=None,
    key_name="ops",
    public_key="ssh-ed25519 AAAA",
    lifecycle="on-demand",
    role=None,
    profile_arn=None,
    profile_id=None,
    tags=None,
)


def test_folders_list_their_names_and_files_their_content() -> None:
    tree = metadata_tree(VIEW, NOW)
    assert "placement/" in str(lookup(tree, "")).splitlines()
    assert lookup(tree, "placement/availability-zone") == "us-east-1a"
    assert lookup(tree, "no-such/thing") is None
    assert lookup(tree, "instance-id/deeper") is None


def test_a_key_is_listed_with_its_name() -> None:
    tree = metadata_tree(VIEW, NOW)
    assert lookup(tree, "public-keys/") == "0=ops"
    assert lookup(tree, "public-keys/0/openssh-key") == "ssh-ed25519 AAAA"


def test_what_is_off_is_not_there() -> None:
    tree = metadata_tree(VIEW, NOW)
    for path in ("iam/security-credentials/", "tags/instance/", "spot/instance-action", "public-ipv4"):
        assert lookup(tree, path) is None


def test_a_role_has_credentials_for_some_hours() -> None:
    view = replace(VIEW, role="controller", access_key_id="A", secret_access_key="S", tags={"Name": "x"})
    tree = metadata_tree(view, NOW)
    assert lookup(tree, "iam/security-credentials/") == "controller"
    given = json.loads(str(lookup(tree, "iam/security-credentials/controller")))
    assert (given["AccessKeyId"], given["Expiration"]) == ("A", "2026-01-02T09:04:05Z")
    assert lookup(tree, "tags/instance/Name") == "x"


def test_any_version_stands_for_the_latest() -> None:
    for version in ("latest", "2009-04-04", "2021-03-23"):
        assert content_at(VIEW, f"/{version}/meta-data/instance-id") == b"i-1"
    assert content_at(VIEW, "/latest/user-data") is None
    assert content_at(replace(VIEW, user_data=b"\x1f\x8b"), "/latest/user-data") == b"\x1f\x8b"
    document = json.loads(content_at(VIEW, "/latest/dynamic/instance-identity/document") or b"")
    assert document["privateIp"] == "172.31.0.4"


def test_a_token_holds_for_its_address_only() -> None:
    tokens = Tokens()
    token = tokens.issue("172.31.0.4", 60)
    assert tokens.holds(token, "172.31.0.4")
    assert not tokens.holds(token, "172.31.0.5")
    assert not tokens.holds(tokens.issue("172.31.0.4", 0), "172.31.0.4")
