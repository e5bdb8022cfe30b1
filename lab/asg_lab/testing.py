"""For tests: a lab of one's own beside any other, and what to do with it.

    from asg_lab.testing import running_lab

    with running_lab("mytest") as lab:
        ids = lab.run(count=2)
        lab.wait_for_state(ids, "running")

A pytest fixture named `lab` is here too; a conftest takes it over with `from asg_lab.testing import lab`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config

from asg_lab import lifecycle, paths, state
from asg_lab.state import LabInfo, Options

Value = TypeVar("Value")
WAIT_SECONDS = 60.0  # boots take 2 s on a quiet host, and many times that when the suite shares two cores


class Lab:
    """A running lab."""

    def __init__(self, info: LabInfo, folder: Path) -> None:
        self.info = info
        self.name = info.name
        self.endpoint_url = info.endpoint_url
        self.environment = state.environment(info)
        self._folder = folder
        self.ec2 = self.client("ec2")

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of the lab. It does not retry by itself unless `retries` is given."""
        keys = state.credentials(self.name)
        settings: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 5}
        settings |= {"read_timeout": 30} | config
        make: Any = boto3.client  # its stubs know a service by a literal name only
        return make(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.info.region,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            config=Config(**settings),
        )

    def command(self, *arguments: str, check: bool = True) -> str:
        """Standard output of a `lab` command on this lab."""
        done = subprocess.run(
            [sys.executable, "-m", "asg_lab.cli", *arguments],
            env=os.environ | {"LAB_NAME": self.name},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"lab {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def fault(self, kind: str, *arguments: str) -> dict[str, Any]:
        """Break something: lab.fault("kill", instance_id)."""
        answer: dict[str, Any] = json.loads(self.command("fault", kind, *arguments).splitlines()[-1])
        return answer

    def clear_faults(self) -> None:
        """Mend everything."""
        self.command("fault", "clear")

    def key_pair(self, name: str = "lab-tests") -> Path:
        """The private key's file of a key pair, made when it is asked for first."""
        path = self._folder / f"{name}.pem"
        if not path.exists():
            material = self.ec2.create_key_pair(KeyName=name, KeyType="ed25519")["KeyMaterial"]
            path.touch(mode=0o600)
            path.write_text(material)
        return path

    def run(self, count: int = 1, **more: Any) -> list[str]:
        """Ids of new t2.micro instances of the base AMI."""
        request: dict[str, Any] = {"ImageId": self.info.ami_id, "InstanceType": "t2.micro"}
        answer = self.ec2.run_instances(**(request | {"MinCount": count, "MaxCount": count} | more))
        return [each["InstanceId"] for each in answer["Instances"]]

    def describe(self, instance_id: str) -> dict[str, Any]:
        """EC2's description of one instance."""
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        found: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return found

    def wait_for_state(self, instance_ids: list[str], wanted: str) -> None:
        """Until all of them are in a state."""

        def reached() -> bool:
            answer = self.ec2.describe_instances(InstanceIds=instance_ids)
            return all(
                each["State"]["Name"] == wanted
                for reservation in answer["Reservations"]
                for each in reservation["Instances"]
            )

        wait_until(reached, f"{instance_ids} {wanted}")

    def wait_for_check(self, instance_id: str, wanted: str) -> None:
        """Until an instance's status checks say so (initializing, ok, impaired)."""

        def reached() -> bool:
            answer = self.ec2.describe_instance_status(InstanceIds=[instance_id], IncludeAllInstances=True)
            return bool(answer["InstanceStatuses"][0]["InstanceStatus"]["Status"] == wanted)

        wait_until(reached, f"{instance_id} {wanted}")

    def ssh(
        self, instance_id: str, command: str, key: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command run by ssh as the image's user."""
        address = self.describe(instance_id)["PrivateIpAddress"]
        options = (
            "UserKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=no",
            "LogLevel=ERROR",
            "ConnectTimeout=5",
        )
        return subprocess.run(
            [
                *("ssh", "-i", str(key or self.key_pair())),
                *(f"-o{option}" for option in options),
                f"debian@{address}",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def execute(self, instance_id: str, command: str) -> str:
        """Standard output of a shell command run as root in the machine, without a network."""
        return self.command("exec", instance_id, "--", "sh", "-c", command)


def wait_until(
    look: Callable[[], Value], what: str, seconds: float = WAIT_SECONDS, pause_seconds: float = 0.1
) -> Value:
    """The first true value of `look`. An AssertionError says what was waited for in vain."""
    deadline = time.monotonic() + seconds
    while True:
        if value := look():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause_seconds)


@contextlib.contextmanager
def running_lab(name: str = "test", options: Options | None = None) -> Iterator[Lab]:
    """A lab of its own, removed at the end. Its name gets the process id, so that two runs don't meet."""
    unique = f"{name}-{os.getpid()}"
    try:
        info = lifecycle.start(unique, options or Options())
        yield Lab(info, paths.state_directory(unique))
    finally:
        lifecycle.stop(unique)
        lifecycle.put_host_back()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One lab for the whole session."""
    with running_lab() as running:
        yield running
