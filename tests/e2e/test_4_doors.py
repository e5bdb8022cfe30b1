"""The doors on a real controller: HTTP with its token, gRPC from outside, reload, and who is turned away."""

import json
import subprocess

import grpc
import pytest
from asg_lab.deployment import Deployment, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from asg.register.v1 import register_pb2, register_pb2_grpc

pytestmark = pytest.mark.lab

_HTTP = """
import json, sys, urllib.request, urllib.error
method, route, token = sys.argv[1:4]
request = urllib.request.Request("http://127.0.0.1:7480" + route, method=method)
if token == "yes":
    request.add_header("Authorization", "Bearer " + open("/etc/controller-asg/http-token").read().strip())
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(json.dumps([answer.status, json.loads(answer.read())]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, json.loads(error.read())]))
"""


def http(lab: Deployment, method: str, route: str, token: bool = True) -> tuple[int, dict]:
    done = lab.execute(lab.controller_id, "python3", "-c", _HTTP, method, route, "yes" if token else "no")
    assert done.returncode == 0, done.stderr
    status, body = json.loads(done.stdout)
    return status, body


def address(lab: Deployment) -> str:
    (controller,) = [i for i in lab.instances() if i["InstanceId"] == lab.controller_id]
    return f"{controller['PrivateIpAddress']}:7402"


def test_create_and_kill_work_with_the_token_and_only_with_it(fleet: Deployment) -> None:
    assert http(fleet, "POST", "/create?group=worker", token=False)[0] == 401
    before = {m["instance_id"] for m in fleet.members("worker")}
    status, _ = http(fleet, "POST", "/create?group=worker")
    assert status in (200, 201, 202)
    (new,) = wait_until(
        "a second worker", lambda: {m["instance_id"] for m in fleet.members("worker")} - before, 90
    )
    fleet.set_metric(new, 50)
    assert http(fleet, "GET", f"/kill/{new}", token=False)[0] == 401
    assert http(fleet, "GET", f"/kill/{new}")[0] in (200, 202)
    wait_until("one worker again", lambda: fleet.settled("worker") and len(fleet.members("worker")) == 1, 60)


def test_kill_of_an_id_that_is_not_ours_touches_nothing(fleet: Deployment) -> None:
    ends = len(fleet.calls("TerminateInstances"))
    for instance_id in (fleet.controller_id, "i-0ffffffffffffffff", "..%2f"):
        assert http(fleet, "POST", f"/kill/{instance_id}")[0] == 404
    assert len(fleet.calls("TerminateInstances")) == ends


def test_health_and_reflection_answer_an_outside_client(fleet: Deployment) -> None:
    with grpc.insecure_channel(address(fleet)) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "asg.register.v1.RegisterService" in services


def test_an_agent_speaks_for_its_own_instance_only(fleet: Deployment) -> None:
    victim = fleet.members("web")[0]["instance_id"]
    with grpc.insecure_channel(address(fleet)) as channel:
        stub = register_pb2_grpc.RegisterServiceStub(channel)
        for instance_id, code in (
            (victim, grpc.StatusCode.PERMISSION_DENIED),
            ("i-0ffffffffffffffff", grpc.StatusCode.NOT_FOUND),
        ):
            identity = register_pb2.AgentIdentity(instance_id=instance_id, monitor_port=7401)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Register(register_pb2.RegisterRequest(identity=identity), timeout=10)
            assert caught.value.code() is code


def test_a_broken_settings_file_at_reload_keeps_the_old_and_says_so(fleet: Deployment) -> None:
    path = "/etc/controller-asg/controller.toml"
    fleet.execute(
        fleet.controller_id,
        "sh",
        "-c",
        f"cp -p {path} /root/kept; echo 'observe_interval_secnds = 5' >> {path}",
    )
    refused = fleet.execute(fleet.controller_id, "systemctl", "reload", "controller-asg")
    assert refused.returncode != 0
    fault = fleet.controller("status")["settings_fault"]
    assert "observe_interval_secnds" in fault
    assert "observe_interval_seconds" in fault
    fleet.execute(fleet.controller_id, "sh", "-c", f"cp -p /root/kept {path}")
    mended = fleet.execute(fleet.controller_id, "systemctl", "reload", "controller-asg")
    assert mended.returncode == 0, mended.stderr
    assert not fleet.controller("status").get("settings_fault")


@pytest.mark.parametrize("metric", ["text", -1, 101, True, None.__class__.__name__])
def test_set_metric_refuses_what_is_no_percentage(fleet: Deployment, metric: object) -> None:
    instance_id = fleet.members("web")[0]["instance_id"]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        fleet.agent(instance_id, "POST", "/set-metric", {"metric": metric})
    assert caught.value.stdout.startswith("400")


def test_systemctl_status_shows_groups_and_sizes(fleet: Deployment) -> None:
    shown = fleet.execute(
        fleet.controller_id, "systemctl", "show", "-p", "StatusText", "controller-asg"
    ).stdout
    assert "2 groups" in shown
    assert "in service" in shown


def test_why_tells_the_story(fleet: Deployment) -> None:
    told = fleet.controller("why", "worker", "--limit", "100")["decisions"]
    assert any(decision["actions"] for decision in told)
    assert all(decision["summary"] for decision in told)
