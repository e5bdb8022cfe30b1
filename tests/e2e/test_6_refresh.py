"""An instance refresh on real machines: capacity is looked at all the time, and a broken image is rolled back."""

import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from asg_lab.deployment import Deployment, wait_until

from asg.admin.v1 import admin_pb2, admin_pb2_grpc
from tests.e2e.conftest import GROUPS, WARMUP_SECONDS

pytestmark = pytest.mark.lab

SIZE, HEALTHY_PERCENT = 4, 75
LOOK_SECONDS = 0.2
FRONT = {
    "min_size": SIZE,
    "max_size": SIZE,
    "policies": [],
    "default_instance_warmup_seconds": WARMUP_SECONDS,
    "registration_timeout_seconds": 60,
}


# So that a broken image is found out in a minute.
SOON = {"registration_timeout_seconds": 30, "failed_launches_limit": 2}


def applied(lab: Deployment, keys: dict[str, Any] | None = None, **launch: Any) -> None:
    front = {**FRONT, **(keys or {}), "launch": launch}
    lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": {**GROUPS, "front": front}})


@pytest.fixture(scope="module")
def front(deployment: Deployment) -> Iterator[Deployment]:
    """A group of four under load."""
    applied(deployment)
    wait_until("four in service", lambda: len(deployment.members("front")) == SIZE, 180, every=1)
    for member in deployment.members("front"):
        deployment.burn(member["instance_id"], 300)
    yield deployment
    deployment.controller("cancel-instance-refresh", "front")


def refresh(lab: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = lab.controller("instance-refresh", "front")
    return found


class Watch:
    """Samples how many of the group are in service through the controller's socket, until it is left."""

    def __init__(self, lab: Deployment) -> None:
        inspect = ["podman", "inspect", "-f", "{{.State.Pid}}", lab.container(lab.controller_id)]
        pid = int(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
        self._socket = f"unix:/proc/{pid}/root/run/controller-asg/admin.sock"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[int] = []

    def _look(self) -> None:
        with grpc.insecure_channel(self._socket) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            while not self._over.wait(LOOK_SECONDS):
                (group,) = stub.ListGroups(admin_pb2.ListGroupsRequest(name="front"), timeout=10).groups
                self.seen.append(group.instance_counts["InService"])

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def ended(lab: Deployment, status: str) -> Callable[[], bool]:
    return lambda: refresh(lab)["status"] == status


def test_a_refresh_under_load_never_goes_below_its_healthy_percentage(front: Deployment) -> None:
    before = {member["instance_id"] for member in front.members("front")}
    applied(front, tags={"release": "2"})
    with Watch(front) as watch:
        front.controller("start-instance-refresh", "front", "--min-healthy-percentage", str(HEALTHY_PERCENT))
        wait_until("a successful refresh", ended(front, "Successful"), 600, every=1)
    assert min(watch.seen) >= math.ceil(SIZE * HEALTHY_PERCENT / 100)
    assert not before & {member["instance_id"] for member in front.members("front")}
    assert front.groups()["front"]["outdated_instance_ids"] == []


def test_a_paused_refresh_replaces_nothing_until_it_is_resumed(front: Deployment) -> None:
    applied(front, tags={"release": "3"})
    front.controller("start-instance-refresh", "front", "--min-healthy-percentage", str(HEALTHY_PERCENT))
    front.controller("pause-instance-refresh", "front")
    wait_until("what was begun is ready", lambda: len(front.members("front")) == SIZE, 120, every=1)
    paused = {member["instance_id"] for member in front.members("front")}
    time.sleep(2 * WARMUP_SECONDS)  # nothing may happen meanwhile: there is no state to wait for
    assert {member["instance_id"] for member in front.members("front")} == paused
    front.controller("resume-instance-refresh", "front")
    wait_until("a successful refresh", ended(front, "Successful"), 600, every=1)


def test_a_broken_image_is_rolled_back(front: Deployment) -> None:
    (good,) = {each["ImageId"] for each in front.instances({"tag:controller-asg:group": "front"})}
    # A stock image: no agent ever registers.
    applied(front, SOON, image={"id": front.environment["LAB_AMI_ID"]})
    with Watch(front) as watch:
        front.controller(
            "start-instance-refresh",
            "front",
            "--min-healthy-percentage",
            str(HEALTHY_PERCENT),
            "--auto-rollback",
        )
        wait_until("a rollback", ended(front, "RollbackSuccessful"), 400, every=1)
    assert min(watch.seen) >= math.ceil(SIZE * HEALTHY_PERCENT / 100)
    assert refresh(front)["image_id"] == good
    assert "did not come into service" in refresh(front)["status_reason"]
