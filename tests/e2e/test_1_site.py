"""site.yml, as an operator runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asg_lab.deployment import Deployment, PlayFailed, wait_until

from tests.e2e.conftest import GROUPS

pytestmark = pytest.mark.lab


def applied(lab: Deployment) -> dict[str, Any]:
    """What a document decides of each group."""
    return {name: (group["version"], group["document"]) for name, group in lab.groups().items()}


def test_a_second_site_yml_changes_nothing(deployment: Deployment) -> None:
    recap = deployment.play("site.yml", extra_vars={"asg_groups": GROUPS})
    assert {host: counts["changed"] for host, counts in recap.items() if counts["changed"]} == {}


def test_min_size_instances_are_in_service(deployment: Deployment) -> None:
    assert len(deployment.members("web")) == 2
    assert len(deployment.members("worker")) == 1


def test_a_wrong_document_is_refused_with_every_fault_and_changes_nothing(deployment: Deployment) -> None:
    before = applied(deployment)
    wrong = {
        "web": {**GROUPS["web"], "max_size": 1},
        "worker": {
            "mim_size": 1,
            "policies": [{"type": "thresholds", "create_above": 10, "delete_below": 20}],
        },
    }
    with pytest.raises(PlayFailed) as caught:
        deployment.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": wrong})
    message = str(caught.value)
    assert "asg_groups.web.max_size" in message
    assert "min_size" in message
    assert "delete_below" in message
    assert applied(deployment) == before


def test_what_ec2_would_refuse_is_found_before_anything_changes(deployment: Deployment) -> None:
    before = applied(deployment)
    wrong = {
        **GROUPS,
        "web": {
            **GROUPS["web"],
            "launch": {
                "image": {"id": "ami-00000000000000000"},
                "instance_type": "t9.mini",
                "key_pair": "no-such-key",
                "security_groups": ["sg-00000000000000000"],
            },
        },
    }
    with pytest.raises(PlayFailed) as caught:
        deployment.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": wrong})
    for key in ("launch.image", "launch.instance_type", "launch.key_pair", "launch.security_groups"):
        assert key in str(caught.value)
    assert applied(deployment) == before


def test_check_mode_says_what_would_change_and_changes_nothing(deployment: Deployment) -> None:
    before = applied(deployment)
    wider = {**GROUPS, "web": {**GROUPS["web"], "max_size": 6}}
    recap = deployment.play(
        "playbooks/apply_groups.yml", "--check", "--diff", extra_vars={"asg_groups": wider}
    )
    assert sum(host["changed"] for host in recap.values()) == 1
    assert applied(deployment) == before


_RECORD_A_DAY = """
import math, sqlite3, time
begin = int(time.time()) // 60 * 60_000 - 24 * 3_600_000
rows = [("web", begin + 60_000 * n, 2.5 + 1.5 * math.sin(n / 120), 4.0) for n in range(24 * 60)]
with sqlite3.connect("/var/lib/controller-asg/store.db", timeout=10) as store:
    store.executemany("INSERT OR REPLACE INTO demand_minutes VALUES (?, ?, ?, ?)", rows)
"""


_CHECK = """
import sys
import grpc
from google.protobuf.json_format import MessageToJson
from asg.admin.v1 import admin_pb2, admin_pb2_grpc
channel = grpc.insecure_channel("unix:///run/controller-asg/admin.sock")
document = admin_pb2.GroupDocument(name="web", document_json=sys.argv[1])
request = admin_pb2.ApplyGroupsRequest(documents=[document], validate_only=True)
print(MessageToJson(admin_pb2_grpc.AdminServiceStub(channel).ApplyGroups(request, timeout=10)))
"""


def test_a_check_says_what_a_change_would_have_done_yesterday(deployment: Deployment) -> None:
    def on_controller(script: str, *arguments: str) -> str:
        python = "/opt/controller-asg/bin/python"
        done = deployment.execute(deployment.controller_id, python, "-c", script, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    on_controller(_RECORD_A_DAY)
    document = deployment.groups()["web"]["document"]
    del document["name"]
    document["policies"] = [{"type": "target_tracking", "metric": "cpu_percent", "target": 50}]

    def yesterday() -> Any:
        (answer,) = json.loads(on_controller(_CHECK, json.dumps(document)))["groups"]
        return answer.get("yesterday")

    # It is told when it is ready within two seconds, and this machine may have other work.
    told = wait_until("yesterday is told", yesterday, 60, every=1)
    assert told["before"]["instanceHours"] != told["after"]["instanceHours"]
    assert told["recordedMinutes"] == pytest.approx(24 * 60, abs=5)


def test_a_changed_launch_parameter_shows_which_instances_are_outdated(deployment: Deployment) -> None:
    changed = {**GROUPS, "worker": {**GROUPS["worker"], "launch": {"tags": {"team": "red"}}}}
    members = {member["instance_id"] for member in deployment.members("worker")}
    deployment.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": changed})
    assert set(deployment.groups()["worker"]["outdated_instance_ids"]) == members
    assert {member["instance_id"] for member in deployment.members("worker")} == members
    deployment.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": GROUPS})
    assert not deployment.groups()["worker"].get("outdated_instance_ids")


def test_a_changed_agent_setting_reaches_running_instances_without_replacing_them(
    deployment: Deployment,
) -> None:
    members = {member["instance_id"] for member in deployment.members("web")}
    command = {"monitor_agent_application_command": ["/bin/echo", "queue 7"], "asg_groups": GROUPS}
    deployment.play("playbooks/update_agents.yml", extra_vars=command)
    for instance_id in members:
        wait_until(
            f"the new metric of {instance_id}",
            lambda instance_id=instance_id: "queue" in deployment.agent(instance_id, "GET", "/metrics"),
            60,
            every=1,
        )
    assert {member["instance_id"] for member in deployment.members("web")} == members
    deployment.play("playbooks/update_agents.yml", extra_vars={"asg_groups": GROUPS})


def test_the_dynamic_inventory_lists_the_fleet(deployment: Deployment) -> None:
    listed = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-inventory"), "-i", "inventories/lab", "--list"],
        cwd=deployment.project,
        env={**os.environ, **deployment.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    hosts = json.loads(listed.stdout)["_meta"]["hostvars"]
    wanted = {m["instance_id"] for group in ("web", "worker") for m in deployment.members(group)}
    assert wanted <= set(hosts)
