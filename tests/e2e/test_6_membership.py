"""Members set aside, protected and frozen on real machines, and what becomes of it when its time is over."""

import time

import pytest
from asg_lab.deployment import Deployment, wait_until

pytestmark = pytest.mark.lab


def ids(lab: Deployment, state: str = "InService") -> set[str]:
    return {member["instance_id"] for member in lab.members("web", state)}


def alive(lab: Deployment) -> set[str]:
    return {i["InstanceId"] for i in lab.instances() if i["State"]["Name"] in ("pending", "running")}


def calm(lab: Deployment) -> None:
    for member in ids(lab):
        lab.set_metric(member, 45)


def steps(lab: Deployment) -> str:
    decision = lab.controller("why", "web", "--limit", "1")["decisions"][0]
    return "\n".join(step["reason"] for step in decision["steps"])


def test_an_instance_stands_by_stopped_agent_or_not_and_comes_back(fleet: Deployment) -> None:
    before = ids(fleet)
    one = min(before)
    fleet.controller("enter-standby", one, "--replace")
    (new,) = wait_until("a replacement in service", lambda: ids(fleet) - before, 90)
    fleet.set_metric(new, 45)
    assert ids(fleet, "Standby") == {one}
    fleet.execute(one, "systemctl", "stop", "monitor-agent")
    time.sleep(10)  # a member in service would be judged dead by then
    assert (ids(fleet, "Standby"), one in alive(fleet)) == ({one}, True)
    fleet.execute(one, "systemctl", "start", "monitor-agent")
    fleet.controller("exit-standby", one)
    wait_until("all three in service", lambda: ids(fleet) == before | {new}, 60)
    calm(fleet)
    assert fleet.groups()["web"]["desired_capacity"] == 3


def test_a_detached_machine_runs_on_and_is_attached_again(fleet: Deployment) -> None:
    fleet.controller("create", "web")
    wait_until("a third instance", lambda: len(ids(fleet)) == 3, 90)
    calm(fleet)
    one = min(ids(fleet))
    fleet.controller("detach", one)
    tags = wait_until("its tags gone", lambda: _without_our_tags(fleet, one), 30)
    assert "Name" in tags
    wait_until("no member any more", lambda: not ids(fleet, "Detaching"), 120)
    assert one in alive(fleet)
    fleet.controller("attach", "web", one)
    wait_until("a member again", lambda: one in ids(fleet), 60)
    calm(fleet)
    assert fleet.groups()["web"]["desired_capacity"] == 3


def _without_our_tags(lab: Deployment, instance_id: str) -> set[str]:
    (seen,) = [i for i in lab.instances() if i["InstanceId"] == instance_id]
    tags = {tag["Key"] for tag in seen["Tags"]}
    return set() if any(tag.startswith("controller-asg:") for tag in tags) else tags


def test_protection_holds_scaling_in_back_until_it_ends_by_itself(fleet: Deployment) -> None:
    fleet.controller("create", "web")
    wait_until("a third instance", lambda: len(ids(fleet)) == 3, 90)
    calm(fleet)
    three = ids(fleet)
    fleet.controller("protect", *sorted(three), "--for", "20s", "--reason", "a long job")
    fleet.controller("set-desired", "web", "2")
    wait_until("held", lambda: "protected from scale-in" in steps(fleet), 10)
    member = fleet.members("web")[0]
    assert member["protection"]["reason"] == "a long job"
    assert ids(fleet) == three
    wait_until("one gone", lambda: len(ids(fleet)) == 2, 60)
    assert not any(member["protected_from_scale_in"] for member in fleet.members("web"))


def test_frozen_a_dead_machine_is_left_and_thawed_it_is_replaced(fleet: Deployment) -> None:
    before = ids(fleet)
    victim = min(before)
    fleet.controller("freeze", "--for", "10m", "--reason", "a test")
    try:
        began = time.time()
        fleet.fault("freeze", victim)
        wait_until("a step that says so", lambda: f"would take {victim} for unhealthy" in steps(fleet), 30)
        assert not fleet.calls("RunInstances", began)
        assert not fleet.calls("TerminateInstances", began)
        conditions = {each["kind"]: each["message"] for each in fleet.groups()["web"]["conditions"]}
        assert "a test" in conditions["Frozen"]
        shown = fleet.execute(fleet.controller_id, "systemctl", "status", "controller-asg", "--no-pager")
        assert "2 frozen" in shown.stdout
    finally:
        fleet.controller("thaw")
    wait_until("a replacement in service", lambda: len(ids(fleet) - before) == 1, 90)
    wait_until(f"{victim} terminated", lambda: victim not in alive(fleet), 60)
