"""What may break does: the controller, EC2, the store. Nothing is launched twice, nothing is lost."""

import json
import os
import random
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from asg_lab.deployment import Deployment, wait_until

from tests.contract.postgres import PostgresServer, running_postgres
from tests.e2e.conftest import CALM, GROUPS, at_rest

pytestmark = pytest.mark.lab

SEED = 20261123
KILL_ROUNDS = int(os.environ.get("ASG_KILL_ROUNDS", "10"))


def alive(lab: Deployment, group: str) -> set[str]:
    return {
        i["InstanceId"]
        for i in lab.instances({"tag:controller-asg:group": group})
        if i["State"]["Name"] in ("pending", "running")
    }


def whole(lab: Deployment, group: str, size: int) -> bool:
    """EC2, controller and desired capacity say the same."""
    seen = lab.groups()[group]
    members = {m["instance_id"] for m in lab.members(group)}
    return bool(seen["desired_capacity"] == size == len(members) and members == alive(lab, group))


@pytest.fixture(scope="module")
def fleet_in_motion(deployment: Deployment) -> Deployment:
    """At rest before the first round; each round goes on from where the one before ended."""
    deployment.fault("clear")
    at_rest(deployment)
    return deployment


@pytest.mark.parametrize("round_", range(KILL_ROUNDS))
def test_a_controller_killed_while_it_scales_loses_and_doubles_nothing(
    fleet_in_motion: Deployment, round_: int
) -> None:
    lab, chance = fleet_in_motion, random.Random(SEED + round_)
    desired = lab.groups()["worker"]["desired_capacity"]
    wanted = chance.choice([size for size in range(1, 5) if size != desired])
    lab.controller("set-desired", "worker", str(wanted))
    kill = f"sleep {chance.uniform(0, 1.2):.3f}; systemctl kill -s KILL controller-asg"
    lab.execute(lab.controller_id, "sh", "-c", kill)
    wait_until(
        f"{wanted} workers, everywhere", lambda: answers(lab) and whole(lab, "worker", wanted), 120, every=0.5
    )
    for worker in alive(lab, "worker"):
        lab.set_metric(worker, CALM["worker"])


def active_since(lab: Deployment) -> str:
    """As systemd says; empty while the machine boots."""
    show = ("systemctl", "show", "--property=ActiveEnterTimestamp", "--value", "controller-asg")
    return lab.execute(lab.controller_id, *show).stdout.strip()


def answers(lab: Deployment) -> bool:
    done = lab.execute(lab.controller_id, "systemctl", "is-active", "controller-asg")
    return done.stdout.strip() == "active"


def test_a_deleted_store_finds_the_same_fleet(fleet: Deployment) -> None:
    before = {group: alive(fleet, group) for group in ("web", "worker")}
    launches = len(fleet.calls("RunInstances"))
    ends = len(fleet.calls("TerminateInstances"))
    fleet.execute(
        fleet.controller_id,
        "sh",
        "-c",
        "systemctl stop controller-asg; rm -f /var/lib/controller-asg/store.db*; systemctl start controller-asg",
    )
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": GROUPS})
    wait_until("the groups at rest", lambda: all(map(fleet.settled, fleet.groups())), 60)
    assert {group: alive(fleet, group) for group in ("web", "worker")} == before
    launched = [c for c in fleet.calls("RunInstances")[launches:] if c["error_code"] != "DryRunOperation"]
    assert launched == []
    assert len(fleet.calls("TerminateInstances")) == ends


def test_a_reboot_of_the_controllers_machine_loses_nothing(fleet: Deployment) -> None:
    before, began = alive(fleet, "web"), active_since(fleet)
    fleet.ec2().reboot_instances(InstanceIds=[fleet.controller_id])
    # A while passes until the machine goes down; until then the old one answers.
    wait_until("the controller again", lambda: active_since(fleet) not in ("", began), 60, every=0.5)
    wait_until("the groups at rest", lambda: all(map(fleet.settled, fleet.groups())), 60, every=0.5)
    assert alive(fleet, "web") == before


@pytest.mark.parametrize(
    "fault",
    [
        ("lost-answer", "RunInstances", "--count", "1"),
        ("throttle", "RunInstances", "--count", "2"),
        ("error", "RunInstances", "InternalError", "--count", "1"),
        ("delay", "RunInstances", "3", "--count", "1"),
        ("lag", "5"),
    ],
    ids=lambda fault: fault[0],
)
def test_a_launch_that_goes_wrong_makes_one_instance_all_the_same(
    fleet: Deployment, fault: tuple[str, ...]
) -> None:
    ever = {i["InstanceId"] for i in fleet.instances({"tag:controller-asg:group": "worker"})}
    fleet.fault(*fault)
    fleet.controller("set-desired", "worker", "2")
    wait_until("two workers, everywhere", lambda: whole(fleet, "worker", 2), 90, every=0.5)
    made = {i["InstanceId"] for i in fleet.instances({"tag:controller-asg:group": "worker"})} - ever
    assert len(made) == 1
    if fault[0] == "throttle":  # waited out, and no failure
        told = fleet.controller("activities", "worker", "--limit", "2")["activities"]
        assert all(activity["status"] != "Failed" for activity in told)
    one_worker(fleet)


def one_worker(lab: Deployment) -> None:
    for worker in alive(lab, "worker"):
        lab.set_metric(worker, CALM["worker"])
    lab.controller("set-desired", "worker", "1")
    wait_until("one worker, everywhere", lambda: whole(lab, "worker", 1), 60, every=0.5)


def test_failing_status_checks_alone_replace_nobody(fleet: Deployment) -> None:
    before = alive(fleet, "web")
    fleet.fault("status-check", min(before))

    def suspect() -> bool:
        found = {m["instance_id"]: m["health"] for m in fleet.members("web")}
        return found[min(before)] == "Suspect"

    wait_until("EC2's checks are believed as far as they go", suspect, 60, every=0.5)
    time.sleep(10)
    assert alive(fleet, "web") == before


def test_a_zone_without_capacity_is_passed_over(fleet: Deployment) -> None:
    zones = {
        i["Placement"]["AvailabilityZone"] for i in fleet.instances({"tag:controller-asg:group": "worker"})
    }
    full = sorted({"us-east-1a", "us-east-1b", "us-east-1c"} - zones)[0]
    fleet.fault("capacity", "--zone", full, "--type", "t2.micro")
    fleet.controller("set-desired", "worker", "3")
    wait_until("three workers, everywhere", lambda: whole(fleet, "worker", 3), 90, every=0.5)
    placed = {
        i["Placement"]["AvailabilityZone"] for i in fleet.instances({"tag:controller-asg:group": "worker"})
    }
    assert full not in placed
    one_worker(fleet)


def test_a_broken_image_costs_two_instances_and_never_the_size(fleet: Deployment) -> None:
    six = {**GROUPS["worker"], "min_size": 6}
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": {**GROUPS, "worker": six}})
    wait_until("six workers", lambda: len(fleet.members("worker")) == 6, 120)
    before = alive(fleet, "worker")
    for one in before:
        fleet.set_metric(one, CALM["worker"])
    # An image without the agent: it boots, and never speaks.
    launch = {**six["launch"], "image": {"id": fleet.environment["LAB_AMI_ID"]}}
    broken = {**six, "registration_timeout_seconds": 30, "failed_launches_limit": 2, "launch": launch}
    documents = {**GROUPS, "worker": broken}
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": documents})
    assert alive(fleet, "worker") == before
    fleet.fault("kill", min(before))
    (new,) = wait_until(
        "the sixth worker again",
        lambda: {member["instance_id"] for member in fleet.members("worker")} - before,
        180,
    )
    fleet.set_metric(new, CALM["worker"])
    activities = fleet.controller("activities", "worker")["activities"]
    said = "its agent did not register"
    failed = [each for each in activities if said in each["status_message"] or said in each["cause"]]
    assert len([each for each in failed if each["kind"] == "launch"]) == 2
    assert all(each["details"] for each in failed if each["kind"] == "terminate"), "the console's end is kept"
    assert before - {min(before)} <= alive(fleet, "worker")
    (stopped,) = [
        condition["message"]
        for condition in fleet.groups()["worker"]["conditions"]
        if condition["kind"] == "LaunchVersionStopped"
    ]
    assert fleet.environment["LAB_AMI_ID"] in stopped
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": GROUPS})


def test_a_cut_network_of_the_controller_replaces_nobody(fleet: Deployment) -> None:
    before = {group: alive(fleet, group) for group in ("web", "worker")}
    fleet.fault("cut", fleet.controller_id)
    wait_until("the controller notices", lambda: fleet.controller("status").get("cloud_fault"), 60, every=1)
    fleet.fault("mend", fleet.controller_id)
    wait_until("EC2 answers again", lambda: not fleet.controller("status").get("cloud_fault"), 60, every=0.5)
    wait_until(
        "every agent is heard",
        lambda: all(m["health"] == "Healthy" for m in fleet.members("web")),
        60,
        every=0.5,
    )
    assert {group: alive(fleet, group) for group in ("web", "worker")} == before


def test_a_full_disk_of_the_controller_stops_it_from_acting_until_there_is_room(fleet: Deployment) -> None:
    before = alive(fleet, "web")
    launched = len(fleet.calls("RunInstances"))
    state = "/var/lib/controller-asg"
    on_controller(
        fleet,
        "systemctl stop controller-asg",
        f"cp -a {state} /run/kept && mount -t tmpfs -o size=6m tmpfs {state} && cp -a /run/kept/. {state}/",
        "systemctl start controller-asg",
        f"dd if=/dev/zero of={state}/filler bs=4k status=none || true",
    )
    victim = min(before)
    fleet.fault("kill", victim)
    wait_until("the controller says so", lambda: fleet.controller("status").get("store_fault"), 60, every=0.5)
    time.sleep(5)
    assert len(fleet.calls("RunInstances")) == launched, "what can't be journalled is not done"
    on_controller(fleet, f"rm {state}/filler")
    wait_until("two instances, everywhere", lambda: whole(fleet, "web", 2), 90, every=0.5)
    assert len(alive(fleet, "web") - before) == 1
    assert not fleet.controller("status").get("store_fault")
    on_controller(
        fleet,
        "systemctl stop controller-asg",
        f"cp -a {state}/. /run/kept/ && umount {state} && cp -a /run/kept/. {state}/ && rm -rf /run/kept",
        "systemctl start controller-asg",
    )
    wait_until("the controller again", lambda: answers(fleet) and whole(fleet, "web", 2), 60, every=0.5)


def on_controller(lab: Deployment, *steps: str) -> None:
    done = lab.execute(lab.controller_id, "sh", "-ec", "\n".join(steps))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def lab_postgres(deployment: Deployment) -> Iterator[PostgresServer]:
    """A server on this machine that the lab's machines reach."""
    address = urlsplit(json.loads(deployment.lab("status", "--json"))["lab"]["machine_endpoint_url"]).hostname
    assert address
    with running_postgres(address) as server:
        yield server


@pytest.mark.postgres
def test_postgresql_restarted_under_the_controller_loses_nothing(
    fleet: Deployment, lab_postgres: PostgresServer
) -> None:
    """From here on the controller keeps its store there."""
    before = {group: alive(fleet, group) for group in GROUPS}
    url = lab_postgres.network_url(lab_postgres.create_database())
    fleet.play("playbooks/deploy_controller.yml", extra_vars={"controller_store_url": url})
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": GROUPS})
    wait_until("the groups at rest", lambda: all(map(fleet.settled, fleet.groups())), 60, every=0.5)
    assert {group: alive(fleet, group) for group in GROUPS} == before
    fleet.controller("set-desired", "worker", "2")
    lab_postgres.stop()
    wait_until("the controller says so", lambda: fleet.controller("status").get("store_fault"), 60, every=0.5)
    lab_postgres.start()
    wait_until("two workers, everywhere", lambda: whole(fleet, "worker", 2), 90, every=0.5)
    one_worker(fleet)
