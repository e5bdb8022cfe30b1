"""What a lab keeps on disk: lab.json (where it answers) and the credentials made for it.

lab.json is written last, when everything answers, so its presence with a living lock means "ready". The credentials are
random and long: Ansible masks a secret wherever it occurs in a result, so a short one would mask half of a private key.
"""

import json
import os
import secrets
import string
from dataclasses import asdict, dataclass
from pathlib import Path

from asg_lab import paths

REGION = "us-east-1"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
ACCOUNT_ID = "123456789012"
AMI_NAME = "debian-12-amd64-lab"
AMI_PARAMETER = "/lab/debian-12/ami-id"


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose at `lab start`."""

    cpus_after_boot: float = 0.25  # of a CPU; 8 such machines can each show 100 % on two cores
    probe_seconds: float = 3.0  # between two looks at an instance that is well
    keep_terminated_seconds: float = 3600.0  # EC2 shows a terminated instance for about an hour
    egress: bool = False  # True: machines reach the world, as in a public subnet
    api_port: int = 0  # 0: any free port


@dataclass(frozen=True, slots=True)
class LabInfo:
    """Where a lab answers and what is in it; the content of lab.json."""

    name: str
    pid: int
    endpoint_url: str
    machine_endpoint_url: str
    region: str
    zones: tuple[str, ...]
    account_id: str
    vpc_id: str
    vpc_cidr: str
    subnet_ids: dict[str, str]  # by zone
    default_security_group_id: str
    ami_id: str
    ami_name: str
    ami_parameter: str
    network: str
    bridge: str
    gateway: str
    api_port: int
    imds_port: int
    started_unix: float

    def save(self) -> None:
        """Write lab.json in one step."""
        path = _info_file(self.name)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n")
        draft.rename(path)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key of the lab's own; it opens nothing anywhere else."""

    access_key_id: str
    secret_access_key: str


def _info_file(name: str) -> Path:
    return paths.state_directory(name) / "lab.json"


def load(name: str) -> LabInfo | None:
    """A lab's lab.json, or None when it is not there (yet)."""
    try:
        content = json.loads(_info_file(name).read_text())
    except FileNotFoundError:
        return None
    content["zones"] = tuple(content["zones"])
    return LabInfo(**content)


def forget(name: str) -> None:
    """Remove lab.json, so that nobody takes a lab for ready."""
    _info_file(name).unlink(missing_ok=True)


def credentials(name: str) -> Credentials:
    """The lab's credentials, made when they are asked for first."""
    path = paths.state_directory(name) / "credentials.json"
    if path.exists():
        return Credentials(**json.loads(path.read_text()))
    letters = string.ascii_uppercase + string.digits
    made = Credentials(
        access_key_id="LKIA" + "".join(secrets.choice(letters) for _ in range(16)),
        secret_access_key=secrets.token_urlsafe(30),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(made), file)
    return made


def environment(info: LabInfo) -> dict[str, str]:
    """The variables with which AWS's tools, Ansible and boto3 use this lab."""
    keys = credentials(info.name)
    return {
        "AWS_ENDPOINT_URL": info.endpoint_url,
        "AWS_REGION": info.region,
        "AWS_DEFAULT_REGION": info.region,
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LAB_NAME": info.name,
        "LAB_MACHINE_ENDPOINT": info.machine_endpoint_url,
        "LAB_AMI_ID": info.ami_id,
        "LAB_VPC_ID": info.vpc_id,
        "LAB_VPC_CIDR": info.vpc_cidr,
        "LAB_SUBNET_IDS": ",".join(info.subnet_ids[zone] for zone in info.zones),
        "LAB_SECURITY_GROUP_ID": info.default_security_group_id,
    }
