"""Scaling on real machines: each rule of the first design, seen from outside."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asg_lab.deployment import Deployment, wait_until

from controller_asg.model.activity import ActivityStatus
from tests.e2e.conftest import GROUPS

pytestmark = pytest.mark.lab


def ids(lab: Deployment, group: str) -> set[str]:
    return {member["instance_id"] for member in lab.members(group)}


def gone(lab: Deployment, instance_id: str) -> bool:
    states = {i["InstanceId"]: i["State"]["Name"] for i in lab.instances()}
    return states.get(instance_id, "terminated") in ("shutting-down", "terminated")


def test_load_launches_and_the_idle_instance_itself_goes(fleet: Deployment) -> None:
    before = ids(fleet, "web")
    hot = min(before)
    fleet.set_metric(hot, 95)
    (new,) = wait_until("a new instance in service", lambda: ids(fleet, "web") - before, 90)
    fleet.set_metric(new, 45)
    fleet.set_metric(hot, 45)
    (victim,) = before - {hot}
    fleet.set_metric(victim, 5)
    wait_until(f"{victim} terminated", lambda: gone(fleet, victim), 60)
    assert ids(fleet, "web") == {hot, new}


def test_a_busy_machine_launches_another_by_what_its_agent_measures(fleet: Deployment) -> None:
    before = ids(fleet, "web")
    hot = min(before)
    fleet.set_metric(hot, None)
    fleet.burn(hot, 60)
    (new,) = wait_until("a new instance in service", lambda: ids(fleet, "web") - before, 90)
    fleet.set_metric(new, 45)
    fleet.set_metric(hot, 45)
    fleet.execute(hot, "pkill", "-f", "while :")


@pytest.mark.parametrize("fault", ["kill", "freeze", "cut"])
def test_a_dead_machine_is_replaced(fleet: Deployment, fault: str) -> None:
    before = ids(fleet, "web")
    victim = min(before)
    fleet.fault(fault, victim)
    wait_until("a replacement in service", lambda: len(ids(fleet, "web") - before) == 1, 90)
    wait_until(f"{victim} terminated", lambda: gone(fleet, victim), 60)
    assert len(ids(fleet, "web")) == 2
    causes = [a["cause"] for a in fleet.controller("activities", "web")["activities"]]
    assert any(victim in cause for cause in causes)


def test_target_tracking_sizes_the_other_group(fleet: Deployment) -> None:
    (one,) = ids(fleet, "worker")
    fleet.set_metric(one, 100)
    wait_until("a second worker", lambda: len(ids(fleet, "worker")) == 2, 90)
    for worker in ids(fleet, "worker"):
        fleet.set_metric(worker, 58)

    def one_again() -> bool:
        # Readings of before still count in the policy's window, so it may ask for the second one once more.
        fleet.controller("set-desired", "worker", "1")
        return fleet.settled("worker") and len(ids(fleet, "worker")) == 1

    wait_until("one worker again", one_again, 60, every=2)


@contextmanager
def worker(lab: Deployment, **keys: Any) -> Iterator[None]:
    """The group with other keys for a while."""
    changed = {**GROUPS, "worker": {**GROUPS["worker"], **keys}}
    lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": changed})
    try:
        yield
    finally:
        lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": GROUPS})


def test_demand_tracking_follows_a_real_load_and_says_why(fleet: Deployment) -> None:
    (one,) = ids(fleet, "worker")
    with worker(fleet, policies=[{"type": "demand_tracking"}], max_size=3):
        fleet.set_metric(one, None)
        fleet.burn(one, 90)
        wait_until("a second worker", lambda: len(ids(fleet, "worker")) > 1, 90)
        for each in ids(fleet, "worker"):
            fleet.set_metric(each, 50)
        fleet.execute(one, "pkill", "-f", "while :")
    causes = [launch["cause"] for launch in fleet.controller("activities", "worker")["activities"]]
    (why,) = [cause for cause in causes if cause.startswith("demand_tracking: demand ")][-1:]
    assert "of 1 in service" in why
    assert "headroom" in why
    assert "wants" in why


def test_a_scheduled_action_sets_the_size_at_its_time(fleet: Deployment) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=25)
    morning = {"name": "morning", "start_time": due.isoformat(), "desired_capacity": 2}
    with worker(fleet, scheduled_actions=[morning]):
        (shown,) = fleet.groups()["worker"]["next_scheduled"]
        assert (shown["action"], datetime.fromisoformat(shown["at"])) == ("morning", due)
        wait_until("a second worker", lambda: len(ids(fleet, "worker")) == 2, 90)
        (launch, *_) = fleet.controller("activities", "worker")["activities"]
        assert datetime.fromisoformat(launch["started_at"]) >= due
        assert "morning" in launch["cause"]


def test_an_agent_that_unregisters_leaves_the_group(fleet: Deployment) -> None:
    fleet.controller("create", "web")
    wait_until("a third instance", lambda: len(ids(fleet, "web")) == 3, 90)
    for member in ids(fleet, "web"):
        fleet.set_metric(member, 45)
    leaving = min(ids(fleet, "web"))
    fleet.agent(leaving, "POST", "/unregister")
    wait_until(f"{leaving} terminated", lambda: gone(fleet, leaving), 60)
    assert len(ids(fleet, "web")) == 2


def test_a_restarted_agent_is_no_death(fleet: Deployment) -> None:
    before, started = ids(fleet, "web"), datetime.now(UTC)
    for member in before:
        # On a quarter of a CPU the agent takes four seconds to start, and after four of silence it is rightly dead.
        subprocess.run(
            ["podman", "update", "--cpus", "1", fleet.container(member)], check=True, capture_output=True
        )
    fleet.execute(min(before), "systemctl", "restart", "monitor-agent")
    fleet.execute(max(before), "systemctl", "kill", "-s", "KILL", "monitor-agent")
    time.sleep(8)  # nothing may happen to them in that time: there is no state to wait for
    # Its own start is load on a quarter of a CPU, and may scale the group; nobody is taken for dead.
    causes = [
        activity["cause"]
        for activity in fleet.controller("activities", "web")["activities"]
        if datetime.fromisoformat(activity["started_at"]) >= started
    ]
    assert not [
        cause for cause in causes if "silent" in cause or "unanswered" in cause or "EC2 says" in cause
    ]
    wait_until("all are healthy", lambda: all(m["health"] == "Healthy" for m in fleet.members("web")), 30)
    for member in ids(fleet, "web"):
        subprocess.run(
            ["podman", "update", "--cpus", "0.25", fleet.container(member)], check=True, capture_output=True
        )


def test_an_instance_of_a_stock_image_gets_its_agent_by_the_role(fleet: Deployment) -> None:
    stock = {
        "min_size": 1,
        "max_size": 1,
        "bootstrap": "role",
        "launch": {"image": {"id": fleet.environment["LAB_AMI_ID"]}},
    }
    fleet.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": {**GROUPS, "stock": stock}})
    assert len(ids(fleet, "stock")) == 1
    (launch,) = fleet.controller("activities", "stock")["activities"]
    assert launch["status"] == ActivityStatus.SUCCESSFUL.value
    assert "monitor_agent" in launch["details"]
    done = fleet.execute(fleet.controller_id, "/opt/controller-asg/bin/python", "-c", _DELETE_STOCK)
    assert done.returncode == 0, done.stderr
    wait_until("no stock group", lambda: "stock" not in fleet.groups(), 10)


_DELETE_STOCK = """
import grpc
from asg.admin.v1 import admin_pb2, admin_pb2_grpc
channel = grpc.insecure_channel("unix:///run/controller-asg/admin.sock")
admin_pb2_grpc.AdminServiceStub(channel).DeleteGroup(
    admin_pb2.DeleteGroupRequest(name="stock", force=True), timeout=10)
"""
