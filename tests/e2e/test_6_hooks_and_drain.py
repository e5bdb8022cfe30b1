"""Instances that work, drain and run lifecycle hooks, on real machines with the agent's own files and commands."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asg_lab.deployment import Deployment, wait_until

from tests.e2e.conftest import CALM, GROUPS

pytestmark = pytest.mark.lab

HOOK_SECONDS = 8
HOOK = {
    "name": "save-logs",
    "transition": "terminate",
    "command": "save-logs",
    "heartbeat_timeout_seconds": HOOK_SECONDS,
    "default_result": "CONTINUE",
}


def apply(lab: Deployment, **worker: Any) -> None:
    groups = {**GROUPS, "worker": {**GROUPS["worker"], **worker}}
    lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": groups})


def ids(lab: Deployment, state: str = "InService") -> set[str]:
    return {member["instance_id"] for member in lab.members("worker", state)}


def gone(lab: Deployment, instance_id: str) -> bool:
    states = {i["InstanceId"]: i["State"]["Name"] for i in lab.instances()}
    return states.get(instance_id, "terminated") in ("shutting-down", "terminated")


def on_machine(lab: Deployment, instance_id: str, script: str) -> None:
    done = lab.execute(instance_id, "sh", "-ec", script)
    assert done.returncode == 0, done.stderr


def works(lab: Deployment, instance_id: str) -> None:
    on_machine(lab, instance_id, "echo 'a report' > /run/monitor-agent/busy.d/nightly")

    def told() -> bool:
        (member,) = [m for m in lab.members("worker") if m["instance_id"] == instance_id]
        return bool(member["busy"])

    wait_until(f"{instance_id} is busy", told, 30)


def rests(lab: Deployment, instance_id: str) -> None:
    on_machine(lab, instance_id, "rm -f /run/monitor-agent/busy.d/nightly")


def ending(lab: Deployment, instance_id: str) -> dict[str, Any]:
    """The activity that ended the instance."""
    (found,) = [
        activity
        for activity in lab.controller("activities", "worker")["activities"]
        if activity["kind"] == "terminate" and instance_id in activity["instance_ids"]
    ]
    return dict(found)


@pytest.fixture
def two(fleet: Deployment) -> Iterator[Deployment]:
    """Two calm workers; afterwards the group is as it was."""
    fleet.controller("set-desired", "worker", "2")
    wait_until("two workers", lambda: fleet.settled("worker") and len(ids(fleet)) == 2, 90)
    for worker in ids(fleet):
        fleet.set_metric(worker, CALM["worker"])
    wait_until("two warm workers", lambda: fleet.warm("worker"), 60)
    yield fleet
    apply(fleet)
    for worker in ids(fleet) | ids(fleet, "Terminating:Wait"):
        rests(fleet, worker)
    fleet.controller("set-desired", "worker", "1")
    wait_until("one worker", lambda: fleet.settled("worker") and len(ids(fleet)) == 1, 90)


def leaving(lab: Deployment) -> str:
    """The group shrinks by one; the instance that waits in Terminating:Wait."""
    lab.controller("set-desired", "worker", "1")
    (waiting,) = wait_until("one waits", lambda: ids(lab, "Terminating:Wait"), 30)
    return str(waiting)


def test_the_idle_machine_goes_and_the_one_that_works_stays(two: Deployment) -> None:
    busy, idle = sorted(ids(two))
    works(two, busy)
    two.controller("set-desired", "worker", "1")
    wait_until(f"{idle} is terminated", lambda: gone(two, idle), 60)
    assert ids(two) == {busy}


def test_a_machine_that_works_goes_when_its_work_is_over(two: Deployment) -> None:
    for worker in ids(two):
        works(two, worker)
    waiting = leaving(two)
    assert not gone(two, waiting)
    rests(two, waiting)
    wait_until(f"{waiting} is terminated", lambda: gone(two, waiting), 60)
    assert not gone(two, *ids(two))


def test_a_machine_that_drains_is_taken_back_when_load_returns(two: Deployment) -> None:
    before, launches = ids(two), len(two.calls("RunInstances"))
    for worker in before:
        works(two, worker)
    leaving(two)
    two.controller("set-desired", "worker", "2")
    wait_until("both serve", lambda: ids(two) == before, 30)
    assert len(two.calls("RunInstances")) == launches


def test_the_drain_command_runs_before_an_idle_machine_goes(two: Deployment) -> None:
    apply(two, drain=True)
    setting = f"drain_command = {json.dumps(['/bin/sh', '-c', 'sleep 8; echo all sent away'])}"
    for worker in ids(two):
        on_machine(two, worker, f"sed -i '/^drain_command/d' /etc/monitor-agent/agent.toml\n"
                                f"sed -i '1i {setting}' /etc/monitor-agent/agent.toml\n"
                                "systemctl reload monitor-agent")  # fmt: skip
    waiting = leaving(two)
    wait_until(f"{waiting} is terminated", lambda: gone(two, waiting), 60)
    assert "all sent away" in ending(two, waiting)["details"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 42 files", "CONTINUE (exit code 0)\n42 files"),
        ("exit 3", "ABANDON (exit code 3)"),
        ("sleep 600", "CONTINUE (killed at its limit)"),
    ],
    ids=["ends well", "fails", "hangs"],
)
def test_a_lifecycle_hook_of_a_termination_runs_on_the_machine(
    two: Deployment, script: str, said: str
) -> None:
    apply(two, lifecycle_hooks=[HOOK])
    path = "/etc/monitor-agent/hooks.d/save-logs"
    for worker in ids(two):
        on_machine(two, worker, f"printf '#!/bin/sh\\n{script}\\n' > {path}\nchmod 755 {path}")
    two.controller("set-desired", "worker", "1")
    waiting = wait_until(
        "one is terminated", lambda: next(filter(lambda i: gone(two, i), _ever(two)), ""), 60
    )
    details = ending(two, waiting)["details"]
    assert (
        said in details
        or said.replace("killed at its limit", f"no result within {HOOK_SECONDS} s") in details
    )


def _ever(lab: Deployment) -> list[str]:
    """Workers of the controller's newest termination."""
    found = lab.controller("activities", "worker", "--limit", "1")["activities"]
    return [i for activity in found if activity["kind"] == "terminate" for i in activity["instance_ids"]]


def test_a_launch_whose_hook_fails_is_given_up_and_one_that_somebody_completes_serves(
    fleet: Deployment,
) -> None:
    missing = {"name": "configure", "transition": "launch", "command": "not-there"}
    apply(fleet, lifecycle_hooks=[missing])
    try:
        fleet.controller("set-desired", "worker", "2")

        def given_up() -> list[Any]:
            found = fleet.controller("activities", "worker")["activities"]
            return [a for a in found if "configure was abandoned: exit code 127" in a["cause"]]

        wait_until("the launch is given up", given_up, 90)
        apply(fleet, lifecycle_hooks=[{"name": "configure", "transition": "launch"}])
        (waiting,) = wait_until("one waits", lambda: ids(fleet, "Pending:Wait"), 180)
        named = ("--instance-id", waiting, "--lifecycle-hook-name", "configure")
        fleet.controller("record-lifecycle-action-heartbeat", *named)
        fleet.controller("complete-lifecycle-action", "--lifecycle-action-result", "CONTINUE", *named)
        wait_until("it serves", lambda: waiting in ids(fleet), 30)
        fleet.set_metric(waiting, CALM["worker"])
    finally:
        apply(fleet)
        fleet.controller("set-desired", "worker", "1")
        wait_until("one worker", lambda: fleet.settled("worker") and len(ids(fleet)) == 1, 90)
