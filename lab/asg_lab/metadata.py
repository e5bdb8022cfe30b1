"""What an instance reads about itself under /latest/, as a tree: a name is a value or a folder of more names.

The keys are the ones cloud-init, boto3 and the agent ask for. Pure: `imds` finds out who asks and serves it.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

# A folder has a dict, a file a string. An empty string is a file without content.
Tree = dict[str, Any]
CREDENTIAL_HOURS = 6


@dataclass(frozen=True, slots=True)
class InstanceView:
    """A snapshot of an instance, taken under the world's lock."""

    instance_id: str
    image_id: str
    instance_type: str
    account_id: str
    region: str
    zone: str
    zone_id: str
    private_ip: str
    public_ip: str | None
    mac_address: str
    hostname: str
    subnet_id: str
    subnet_cidr: str
    vpc_id: str
    vpc_cidr: str
    reservation_id: str
    launch_index: int
    launched_at: datetime
    security_groups: tuple[tuple[str, str], ...]  # id, name
    user_data: bytes | None
    key_name: str | None
    public_key: str | None
    lifecycle: str
    role: str | None  # None: no instance profile
    profile_arn: str | None
    profile_id: str | None
    tags: dict[str, str] | None  # None: InstanceMetadataTags is off
    interrupted_at: datetime | None = None
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)


def lookup(tree: Tree, path: str) -> str | None:
    """The file at a path, a folder's listing (names of folders end in /), or None."""
    found: Any = tree
    for name in [part for part in path.split("/") if part]:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    if isinstance(found, dict):
        return "\n".join(_listed(name, value) for name, value in found.items())
    return str(found)


def _listed(name: str, value: Any) -> str:
    if isinstance(value, dict):
        title = value.get("")  # public-keys/ shows "0=NAME" where the folder is called 0
        return str(title) if title is not None else f"{name}/"
    return name


def stamp(moment: datetime) -> str:
    """A time as EC2 writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def identity_document(view: InstanceView) -> str:
    """The instance identity document."""
    document = {
        "accountId": view.account_id,
        "architecture": "x86_64",
        "availabilityZone": view.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": view.image_id,
        "instanceId": view.instance_id,
        "instanceType": view.instance_type,
        "kernelId": None,
        "pendingTime": stamp(view.launched_at),
        "privateIp": view.private_ip,
        "ramdiskId": None,
        "region": view.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def metadata_tree(view: InstanceView, now: datetime) -> Tree:
    """Everything below /latest/meta-data/."""
    groups = [name for _, name in view.security_groups]
    tree: Tree = {
        "ami-id": view.image_id,
        "ami-launch-index": str(view.launch_index),
        "ami-manifest-path": "(unknown)",
        "block-device-mapping": {"ami": "sda1", "root": "/dev/sda1"},
        "hostname": view.hostname,
        "instance-action": "none",
        "instance-id": view.instance_id,
        "instance-life-cycle": view.lifecycle,
        "instance-type": view.instance_type,
        "local-hostname": view.hostname,
        "local-ipv4": view.private_ip,
        "mac": view.mac_address,
        "network": {"interfaces": {"macs": {view.mac_address: _interface(view)}}},
        "placement": {
            "availability-zone": view.zone,
            "availability-zone-id": view.zone_id,
            "region": view.region,
        },
        "profile": "default-hvm",
        "reservation-id": view.reservation_id,
        "security-groups": "\n".join(groups),
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }
    if view.public_ip:
        tree["public-ipv4"] = view.public_ip
    if view.public_key:
        tree["public-keys"] = {"0": {"": f"0={view.key_name}", "openssh-key": view.public_key}}
    if view.role:
        tree["iam"] = _iam(view, now)
    if view.tags is not None:
        tree["tags"] = {"instance": dict(view.tags)}
    if view.interrupted_at:
        action = {"action": "terminate", "time": stamp(view.interrupted_at)}
        tree["spot"] = {"instance-action": json.dumps(action), "termination-time": action["time"]}
    return tree


def _interface(view: InstanceView) -> Tree:
    return {
        "device-number": "0",
        "local-hostname": view.hostname,
        "local-ipv4s": view.private_ip,
        "mac": view.mac_address,
        "owner-id": view.account_id,
        "security-group-ids": "\n".join(group_id for group_id, _ in view.security_groups),
        "security-groups": "\n".join(name for _, name in view.security_groups),
        "subnet-id": view.subnet_id,
        "subnet-ipv4-cidr-block": view.subnet_cidr,
        "vpc-id": view.vpc_id,
        "vpc-ipv4-cidr-block": view.vpc_cidr,
        "vpc-ipv4-cidr-blocks": view.vpc_cidr,
    }


def _iam(view: InstanceView, now: datetime) -> Tree:
    credentials = {
        "Code": "Success",
        "LastUpdated": stamp(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": view.access_key_id,
        "SecretAccessKey": view.secret_access_key,
        "Token": f"session-of-{view.instance_id}",
        "Expiration": stamp(now + timedelta(hours=CREDENTIAL_HOURS)),
    }
    info = {
        "Code": "Success",
        "LastUpdated": stamp(now),
        "InstanceProfileArn": view.profile_arn,
        "InstanceProfileId": view.profile_id,
    }
    return {
        "info": json.dumps(info, indent=2),
        "security-credentials": {view.role: json.dumps(credentials, indent=2)},
    }
