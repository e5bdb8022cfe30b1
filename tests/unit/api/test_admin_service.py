"""The admin service over real gRPC: what it answers, and how each error reaches a client."""

import base64
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.api.admin_service import (
    DETAILS_LIMIT_BYTES,
    SERVICE,
    AdminServer,
    bounded,
    build_admin_server,
    cut,
)
from controller_asg.api.message_json import to_json
from controller_asg.api.status_codes import CODES, codes_of
from controller_asg.model import errors
from controller_asg.model.decision import Step, Vote
from controller_asg.model.errors import AsgError, Fault, SpecError
from controller_asg.model.instance import Leaving, LifecycleState
from tests.fake_controller import HOOK, A, B, C, FakeController, FakeDaemon

LAUNCH = {"launch": {"image": {"id": "ami-0123456789abcdef0"}}}
SUBCLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AsgError)]


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def server(
    controller: FakeController, daemon: FakeDaemon, tmp_path: Path
) -> AsyncIterator[AdminServer]:
    server = build_admin_server(controller, daemon)
    server.listen(tmp_path / "admin.sock", "127.0.0.1:0")
    await server.server.start()
    await server.set_serving(True)
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server: AdminServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{server.socket}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "admin_pb2_grpc.AdminServiceAsyncStub":
    return admin_pb2_grpc.AdminServiceStub(channel)


def faults(error: grpc.aio.AioRpcError) -> list[Fault]:
    metadata = dict(error.trailing_metadata())
    found = pb.Faults.FromString(metadata["asg-faults-bin"]).faults
    return [Fault(each.where, each.what, each.mend) for each in found]


async def test_a_group_is_told_with_its_document_conditions_and_last_decision(stub):
    web, jobs = (await stub.ListGroups(pb.ListGroupsRequest())).groups
    assert (web.name, web.min_size, web.max_size, web.desired_capacity) == ("web", 2, 5, 2)
    assert json.loads(web.document_json)["policies"][0]["create_above"] == 80
    assert [each.kind for each in web.conditions] == ["MetricMissing"]
    assert web.last_decision.startswith("web 2 → 3")
    assert not jobs.HasField("last_decision_at")


async def test_an_instance_whose_agent_was_never_heard_has_no_silence_and_no_metrics(stub):
    heard, unheard, _ = (await stub.ListInstances(pb.ListInstancesRequest())).instances
    assert (heard.silent_seconds, dict(heard.metrics)) == (0.4, {"cpu_percent": 41.25})
    assert not unheard.HasField("silent_seconds")
    assert not unheard.metrics


async def test_instances_of_one_group_are_only_its_own(stub):
    found = await stub.ListInstances(pb.ListInstancesRequest(group="jobs"))
    assert [each.instance_id for each in found.instances] == [C]


async def test_a_vote_that_abstained_has_no_capacity(stub):
    (decision,) = (await stub.ListDecisions(pb.ListDecisionsRequest(group="web"))).decisions
    assert decision.votes[0].capacity == 6
    assert not decision.votes[1].HasField("capacity")
    assert [(step.name, step.before, step.after) for step in decision.steps] == [
        ("max_size", 6, 5),
        ("cooldown", 3, 3),
    ]


async def test_a_wish_that_the_wire_has_no_number_for_is_told_as_the_nearest(stub, controller):
    votes = (Vote("up", 2**32, ""), Vote("down", -1, ""))
    steps = (Step("policies", -1, 10**12, ""),)
    controller.decided = [replace(controller.decided[0], votes=votes, steps=steps)]
    (decision,) = (await stub.ListDecisions(pb.ListDecisionsRequest(group="web"))).decisions
    assert [vote.capacity for vote in decision.votes] == [2**32 - 1, 0]
    assert (decision.steps[0].before, decision.steps[0].after) == (0, 2**32 - 1)


async def test_open_activities_have_no_end(stub):
    answer = await stub.ListActivities(pb.ListActivitiesRequest(open_only=True))
    (activity,) = answer.activities
    assert (activity.kind, activity.status) == ("launch", "InProgress")
    assert not activity.HasField("ended_at")


async def test_status_tells_the_summary_and_every_fault(stub, daemon):
    daemon.settings_fault = "controller.toml: log_level: 'loud' is not known"
    status = await stub.GetStatus(pb.GetStatusRequest())
    assert (status.version, status.epoch, status.summary) == ("9.9.9", 7, "2 groups, 3 of 3 in service")
    assert status.settings_fault == daemon.settings_fault
    assert status.cloud_fault == "RequestLimitExceeded"
    assert status.store_fault == "database or disk is full"
    assert dict(status.settings) == {"region": "eu-central-1"}


async def test_every_order_reaches_the_controller_with_who_asked(stub, controller):
    await stub.SetDesiredCapacity(pb.SetDesiredCapacityRequest(group="web", desired_capacity=4, actor="ann"))
    await stub.LaunchInstances(pb.LaunchInstancesRequest(group="web"))
    await stub.TerminateInstance(pb.TerminateInstanceRequest(instance_id=A, actor="ann"))
    await stub.SetInstanceProtection(
        pb.SetInstanceProtectionRequest(instance_ids=[A, B, A], protected_from_scale_in=True)
    )
    await stub.ExecutePolicy(
        pb.ExecutePolicyRequest(group="web", policy="burst", metric_value=59, actor="ann")
    )
    executed = {"honor_cooldown": False, "metric_value": 59.0, "breach_threshold": None}
    assert controller.orders.pop() == ("execute", "web", "burst", "ann", "", executed)
    assert controller.orders == [
        ("set_desired", "web", 4, "ann"),
        ("launch", "web", 1, "the admin API"),
        ("terminate", A, False, "ann"),
        ("protect", (A, B), True, "the admin API"),
    ]


async def test_an_apply_answers_with_whole_documents_and_warnings(stub, controller):
    document = pb.GroupDocument(name="new", document_json=json.dumps(LAUNCH))
    request = pb.ApplyGroupsRequest(documents=[document], validate_only=True, source="groups.yml")
    answer = await stub.ApplyGroups(request)
    (applied,) = answer.groups
    assert applied.changed
    assert applied.before_json == ""
    assert json.loads(applied.after_json)["max_size"] == 5
    assert len(answer.warnings) == 1
    assert controller.orders == [("apply", ("new",), True, "groups.yml")]


async def test_a_document_with_faults_is_refused_with_all_of_them_in_the_trailing_metadata(stub):
    bad = {**LAUNCH, "min_size": "9o", "max_sise": 4}
    document = pb.GroupDocument(name="web", document_json=json.dumps(bad))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ApplyGroups(pb.ApplyGroupsRequest(documents=[document], source="groups.yml"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().endswith("(and 1 more)")
    assert faults(caught.value) == [
        Fault("groups.yml: asg_groups.web.min_size", "'9o' is not a whole number", "write 90"),
        Fault("groups.yml: asg_groups.web.max_sise", "is no known key", "write max_size"),
    ]


async def test_hundreds_of_faults_still_reach_the_client_with_the_number_of_the_rest(stub, controller):
    controller.failing = SpecError(
        tuple(Fault(f"asg_groups.g{n}.min_size", "ä" * 80, "write 2") for n in range(500))
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ApplyGroups(pb.ApplyGroupsRequest())
    *told, rest = faults(caught.value)
    assert len(told) > 10
    assert rest.what == f"{500 - len(told)} more faults"


@pytest.mark.parametrize("text", ["🚀" * 1_500, "\x07" * 2_000, "x" * 5_000])
def test_faults_of_any_text_are_smaller_than_what_a_client_takes(text):
    faults = (Fault(text, text, text),) * 3
    coded = len(base64.b64encode(bounded(faults).SerializeToString()))
    assert coded + len(quote(cut(str(faults[0]), DETAILS_LIMIT_BYTES), safe="")) < 8_192 - 500


async def test_faults_of_emoji_reach_the_client(stub, controller):
    for _ in range(20):
        controller.failing = SpecError((Fault("🚀" * 600, "🚀" * 1_000, "🚀" * 1_000),) * 3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ApplyGroups(pb.ApplyGroupsRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert faults(caught.value)[0].where == "🚀" * 125


async def test_a_document_without_anything_hides_no_fault_of_another(stub):
    texts = {"web": "null", "jobs": json.dumps({**LAUNCH, "min_size": "9o"}), "more": "[1]"}
    documents = [pb.GroupDocument(name=name, document_json=text) for name, text in texts.items()]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ApplyGroups(pb.ApplyGroupsRequest(documents=documents, source="groups.yml"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [str(fault) for fault in faults(caught.value)] == [
        "groups.yml: asg_groups.web: is not a mapping of settings; write keys below it",
        "groups.yml: asg_groups.jobs.min_size: '9o' is not a whole number; write 90",
        "groups.yml: asg_groups.more: is not a mapping of settings; write keys below it",
    ]


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000])
async def test_what_is_no_json_is_refused_before_the_controller_hears_of_it(stub, controller, text):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ApplyGroups(
            pb.ApplyGroupsRequest(documents=[pb.GroupDocument(name="web", document_json=text)])
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert faults(caught.value)[0].where == "asg_groups.web"
    assert controller.orders == []


async def test_a_group_that_stands_twice_is_refused(stub, controller):
    document = pb.GroupDocument(name="web", document_json=json.dumps(LAUNCH))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ApplyGroups(pb.ApplyGroupsRequest(documents=[document, document]))
    assert faults(caught.value) == [Fault("asg_groups.web", "stands twice", "write each group once")]


async def test_killing_an_instance_that_is_not_ours_is_not_found_and_touches_nothing(stub, controller):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.TerminateInstance(pb.TerminateInstanceRequest(instance_id="i-00000000"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert controller.orders == []


@pytest.mark.parametrize("key", ["reason", "actor"])
async def test_what_would_steer_a_terminal_is_refused(stub, controller, key):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.SuspendProcesses(pb.SuspendProcessesRequest(group="web", **{key: "a \x1b[2J"}))
    (fault,) = faults(caught.value)
    assert (fault.where, fault.what) == (key, "holds the control character U+001B")
    assert controller.orders == []
    await stub.SuspendProcesses(pb.SuspendProcessesRequest(group="web", **{key: " Zoë\n👩\u200d🚀 "}))
    assert "Zoë 👩\u200d🚀" in (controller.orders[0][3].owner, controller.orders[0][3].reason)


async def test_an_order_that_is_only_checked_tells_the_size_and_reaches_nobody(stub, controller):
    launch = pb.LaunchInstancesRequest(group="web", count=2, validate_only=True)
    assert (await stub.LaunchInstances(launch)).desired_capacity == 4
    terminate = pb.TerminateInstanceRequest(
        instance_id=C, should_decrement_desired_capacity=True, validate_only=True
    )
    answer = await stub.TerminateInstance(terminate)
    assert (answer.changed, answer.desired_capacity) == (True, 0)
    mark = pb.SetInstanceHealthRequest(instance_id=A, validate_only=True)
    assert (await stub.SetInstanceHealth(mark)).changed
    assert controller.orders == []


async def test_a_time_at_the_end_of_the_calendar_is_refused(stub):
    request = pb.GetDemandRequest(group="web")
    request.until.FromJsonString("0001-01-01T00:00:00Z")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetDemand(request)
    (fault,) = faults(caught.value)
    assert (fault.where, fault.mend) == ("until", "write one of the years 1970 to 8999")


async def test_a_list_longer_than_an_answer_may_be_is_refused(stub):
    for call in (
        stub.ListActivities(pb.ListActivitiesRequest(limit=1_001)),
        stub.ListDecisions(pb.ListDecisionsRequest(group="web", limit=1_001)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert faults(caught.value) == [Fault("limit", "1001 is no such number", "write 1 to 1000")]


async def test_a_request_without_a_name_is_refused(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.DeleteGroup(pb.DeleteGroupRequest())
    assert faults(caught.value) == [Fault("name", "is missing", "name it")]


async def test_a_reload_that_is_refused_tells_every_fault(stub, daemon):
    daemon.refusing = SpecError((Fault("c.toml: a", "is wrong"), Fault("c.toml: b", "is wrong too")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Reload(pb.ReloadRequest())
    assert len(faults(caught.value)) == 2


async def test_a_bug_of_ours_is_internal_and_tells_no_secret_of_it(stub, controller):
    controller.failing = ZeroDivisionError("hunter2")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetStatus(pb.GetStatusRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in caught.value.details()
    assert "journalctl" in faults(caught.value)[0].mend


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_every_error_of_the_model_has_a_code(kind):
    assert any(base in CODES for base in kind.__mro__) or kind is AsgError


def test_a_rejected_launch_is_bad_input_and_a_throttled_call_is_to_be_made_again():
    assert codes_of(errors.RejectedError("no such image", "image")) == (grpc.StatusCode.INVALID_ARGUMENT, 400)
    assert codes_of(errors.ThrottledError("too many", "EC2")) == (grpc.StatusCode.UNAVAILABLE, 503)
    assert codes_of(errors.FencedError("a newer one writes", "store")) == (grpc.StatusCode.UNAVAILABLE, 503)


async def test_the_socket_is_open_to_owner_and_group_only(server):
    found = os.stat(server.socket)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.stat(server.socket.parent).st_gid


async def test_a_socket_left_by_a_killed_controller_is_taken_over(controller, daemon, tmp_path):
    import socket

    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = build_admin_server(controller, daemon)
    server.listen(path, "")
    await server.server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert (await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(pb.GetStatusRequest())).epoch == 7
    await server.stop(0)
    assert not path.exists()


async def test_a_port_that_is_taken_is_a_fault_of_the_settings(server, controller, daemon):
    other = build_admin_server(controller, daemon)
    with pytest.raises(SpecError) as caught:
        other.listen(None, f"127.0.0.1:{server.ports[0]}")
    assert caught.value.faults[0].where == "admin_listen"
    await other.stop(0)


async def test_health_answers_on_both_doors_and_says_when_it_does_not_serve(server):
    for target in (f"unix:{server.socket}", f"127.0.0.1:{server.ports[0]}"):
        async with grpc.aio.insecure_channel(target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.set_serving(False)
    async with grpc.aio.insecure_channel(f"unix:{server.socket}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


def waiting(controller: FakeController) -> None:
    """A waits for a lifecycle hook."""
    hooks = (HOOK, replace(HOOK, name="old", token="token-0", result="CONTINUE", ended="by bob"))
    state = LifecycleState.TERMINATING_WAIT
    controller.members[A] = replace(controller.members[A], state=state, leaving=Leaving.SCALE_IN, hooks=hooks)


@pytest.mark.parametrize(
    "named",
    [
        {"lifecycle_action_token": "token-1"},
        {"instance_id": A, "lifecycle_hook_name": "save-logs"},
        {"instance_id": A, "lifecycle_action_token": "token-1"},
    ],
)
async def test_a_lifecycle_hook_is_completed_by_its_token_or_by_instance_and_name(stub, controller, named):
    waiting(controller)
    done = pb.CompleteLifecycleActionRequest(lifecycle_action_result="CONTINUE", actor="alice", **named)
    answer = await stub.CompleteLifecycleAction(done)
    assert (answer.instance_id, answer.lifecycle_hook_name) == (A, "save-logs")
    await stub.RecordLifecycleActionHeartbeat(pb.RecordLifecycleActionHeartbeatRequest(**named))
    assert controller.orders == [("complete", "token-1", "CONTINUE", "alice"), ("heartbeat", "token-1")]


@pytest.mark.parametrize(
    ("named", "code", "where"),
    [
        ({"instance_id": A}, grpc.StatusCode.INVALID_ARGUMENT, "lifecycle_action"),
        ({"lifecycle_action_token": "token-0"}, grpc.StatusCode.NOT_FOUND, "lifecycle_action"),
        ({"instance_id": A, "lifecycle_hook_name": "old"}, grpc.StatusCode.NOT_FOUND, A),
        ({"instance_id": B, "lifecycle_action_token": "token-1"}, grpc.StatusCode.NOT_FOUND, B),
        (
            {"lifecycle_action_token": "token-1", "lifecycle_action_result": "DONE"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "lifecycle_action_result",
        ),
    ],
)
async def test_a_lifecycle_hook_that_is_not_open_or_a_wrong_word_changes_nothing(
    stub, controller, named, code, where
):
    waiting(controller)
    wanted = {"lifecycle_action_result": "ABANDON", **named}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteLifecycleAction(pb.CompleteLifecycleActionRequest(**wanted))
    assert caught.value.code() is code
    assert faults(caught.value)[0].where == where
    assert controller.orders == []


async def test_instances_tell_what_they_wait_for_and_until_when(stub, controller):
    waiting(controller)
    one = next(
        i for i in (await stub.ListInstances(pb.ListInstancesRequest())).instances if i.instance_id == A
    )
    assert (one.lifecycle_state, one.leaving) == ("Terminating:Wait", "scale_in")
    first, ended = one.lifecycle_actions
    assert first.until.ToNanoseconds() - first.opened_at.ToNanoseconds() == 60 * 10**9
    assert (ended.lifecycle_action_result, ended.ended) == ("CONTINUE", "by bob")


async def test_reflection_names_the_service(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
    )
    answers = [answer async for answer in call]
    names = [each.name for each in answers[0].list_services_response.service]
    assert SERVICE in names


def test_messages_become_json_with_numbers_null_and_documents_as_values():
    vote = to_json(pb.Vote(policy="p"))
    assert vote == {"policy": "p", "capacity": None, "reason": "", "observed": False}
    group = to_json(pb.Group(name="web", version=2**60, document_json='{"a": 1}', instance_counts={"b": 1}))
    assert (group["version"], group["document"], group["instance_counts"]) == (2**60, {"a": 1}, {"b": 1})
    assert group["last_decision_at"] is None
    assert "document_json" not in group
