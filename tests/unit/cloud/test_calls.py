"""Calls over real HTTP to a server that does what networks and EC2 do at their worst."""

import asyncio
import random
import threading
from collections.abc import Callable

import pytest
from scripted_ec2 import (
    Form,
    InstantClock,
    Reply,
    Server,
    fault,
    instances,
    item,
    launched,
    statuses,
    terminated,
)

from controller_asg.cloud.calls import LAUNCHING_THREADS, READING_THREADS, THROTTLED_ATTEMPTS, Ec2Calls
from controller_asg.cloud.ec2 import Ec2Cloud
from controller_asg.model.activity import LaunchRequest
from controller_asg.model.clock import SystemClock
from controller_asg.model.errors import (
    CapacityError,
    CloudError,
    RejectedError,
    ThrottledError,
    UncertainError,
)
from controller_asg.model.instance import Ec2State, StatusCheck

Serve = Callable[[Callable[[Form], Reply]], Server]


def cloud_at(server: Server, clock: SystemClock | None = None) -> Ec2Cloud:
    return Ec2Cloud("main", "us-east-1", server.url, clock or InstantClock(), random.Random(0))


REQUEST = LaunchRequest("act-1", "web", "v1", 2, "ami-0123456789abcdef0", "t2.micro")


@pytest.mark.parametrize(
    "reply",
    [
        (0, ""),
        (200, "<html>a proxy's page</html"),
        (500, "no XML at all"),
        fault("InternalError", 500),
        fault("ServiceUnavailable", 503),
    ],
)
async def test_a_launch_without_a_clear_answer_is_uncertain_and_asked_once(
    serve: Serve, reply: Reply
) -> None:
    server = serve(lambda form: reply)
    cloud = cloud_at(server)
    with pytest.raises(UncertainError, match="group web, activity act-1"):
        await cloud.run_instances(REQUEST)
    assert len(server.asked) == 1
    cloud.close()


async def test_a_launch_that_is_never_answered_is_uncertain(serve: Serve) -> None:
    release = threading.Event()

    def hang(form: Form) -> Reply:
        release.wait()
        return 0, ""

    server = serve(hang)
    calls = Ec2Calls("us-east-1", server.url, InstantClock(), random.Random(0), read_timeout_seconds=0.05)
    with pytest.raises(UncertainError):
        await calls.change(
            "TerminateInstances", "x", lambda ec2: ec2.terminate_instances(InstanceIds=["i-1"]), 1
        )
    with pytest.raises(CloudError) as caught:
        await calls.read("DescribeInstances", "x", lambda ec2: ec2.describe_instances())
    assert type(caught.value) is CloudError
    release.set()
    calls.close()


async def test_nothing_listening_is_unreachable_and_certain(serve: Serve) -> None:
    server = serve(lambda form: (0, ""))
    server.close()
    cloud = cloud_at(server)
    with pytest.raises(CloudError, match="unreachable") as caught:
        await cloud.run_instances(REQUEST)
    assert type(caught.value) is CloudError
    cloud.close()


async def test_a_bad_endpoint_names_the_setting(serve: Serve) -> None:
    cloud = Ec2Cloud("main", "us-east-1", "nonsense", InstantClock())
    with pytest.raises(CloudError) as caught:
        await cloud.run_instances(REQUEST)
    assert caught.value.where == "ec2_endpoint_url"
    cloud.close()


async def test_a_throttled_launch_is_made_again_with_the_same_token(serve: Serve) -> None:
    replies = [fault("RequestLimitExceeded", 503), launched(item("i-11111111"))]
    server = serve(lambda form: replies.pop(0))
    cloud = cloud_at(server)
    found = await cloud.run_instances(REQUEST)
    assert [instance.instance_id for instance in found] == ["i-11111111"]
    assert server.asked[0] == server.asked[1]
    cloud.close()


async def test_throttling_without_end_is_told_after_a_bounded_number_of_calls(serve: Serve) -> None:
    server = serve(lambda form: fault("RequestLimitExceeded", 503))
    cloud = cloud_at(server)
    with pytest.raises(ThrottledError):
        await cloud.describe_instances()
    assert len(server.asked) == THROTTLED_ATTEMPTS
    cloud.close()


async def test_no_capacity_is_not_retried_here(serve: Serve) -> None:
    server = serve(lambda form: fault("InsufficientInstanceCapacity", 500))
    cloud = cloud_at(server)
    with pytest.raises(CapacityError):
        await cloud.run_instances(REQUEST)
    assert len(server.asked) == 1
    cloud.close()


async def test_a_launch_waits_for_no_describe_that_hangs(serve: Serve) -> None:
    release, hanging = threading.Event(), threading.Semaphore(0)

    def reply(form: Form) -> Reply:
        if form["Action"] == "RunInstances":
            return launched(item("i-11111111"))
        hanging.release()
        release.wait()
        return instances()

    server = serve(reply)
    cloud = cloud_at(server)

    async with asyncio.TaskGroup() as group:
        loop_tasks = [group.create_task(cloud.describe_instances()) for _ in range(2 * READING_THREADS)]
        for _ in range(READING_THREADS):
            await asyncio.to_thread(hanging.acquire)
        assert len(await cloud.run_instances(REQUEST)) == 1
        assert not any(task.done() for task in loop_tasks)
        release.set()
    cloud.close()


async def test_a_termination_waits_for_no_launch_that_hangs(serve: Serve) -> None:
    release, hanging = threading.Event(), threading.Semaphore(0)

    def reply(form: Form) -> Reply:
        if form["Action"] == "TerminateInstances":
            return terminated()
        hanging.release()
        release.wait()
        return launched(item("i-11111111"))

    cloud = cloud_at(serve(reply))
    async with asyncio.TaskGroup() as group:
        for _ in range(LAUNCHING_THREADS):
            group.create_task(cloud.run_instances(REQUEST))
        for _ in range(LAUNCHING_THREADS):
            await asyncio.to_thread(hanging.acquire)
        await cloud.terminate_instances(("i-22222222",))
        release.set()
    cloud.close()


async def test_the_region_comes_from_the_environment_when_none_is_set(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    calls = Ec2Calls("", serve(lambda form: terminated()).url, InstantClock(), random.Random(0))
    assert await calls.read("X", "x", lambda ec2: ec2.meta.region_name) == "eu-north-1"
    calls.close()


async def test_pages_are_joined_and_an_instance_on_two_of_them_counts_once(serve: Serve) -> None:
    def reply(form: Form) -> Reply:
        if form["Action"] == "DescribeInstanceStatus":
            return statuses()
        if "NextToken" not in form:
            return instances(item("i-11111111", "pending"), item("i-22222222"), next_token="more")
        return instances(item("i-22222222", "shutting-down"), item("i-33333333", "terminated"))

    server = serve(reply)
    cloud = cloud_at(server)
    found = {instance.instance_id: instance for instance in await cloud.describe_instances()}
    assert {key: value.state for key, value in found.items()} == {
        "i-11111111": Ec2State.PENDING,
        "i-22222222": Ec2State.SHUTTING_DOWN,
        "i-33333333": Ec2State.TERMINATED,
    }
    first = server.asked[0]
    assert (first["MaxResults"], first["Filter.1.Name"], first["Filter.1.Value.1"]) == (
        "1000",
        "tag:controller-asg:controller",
        "main",
    )
    cloud.close()


async def test_a_broken_second_page_is_an_error_and_never_half_a_fleet(serve: Serve) -> None:
    replies = [instances(item("i-11111111", "pending"), next_token="more"), fault("InternalError", 500)]
    cloud = cloud_at(serve(lambda form: replies.pop(0)))
    with pytest.raises(CloudError):
        await cloud.describe_instances()
    cloud.close()


async def test_the_worse_of_both_checks_counts_and_is_asked_for_less_often_than_states(serve: Serve) -> None:
    checks = {
        "i_11111111": ("ok", "ok"),
        "i_22222222": ("ok", "impaired"),
        "i_33333333": ("initializing", "ok"),
        "i_44444444": ("ok", "insufficient-data"),
    }

    def reply(form: Form) -> Reply:
        if form["Action"] == "DescribeInstanceStatus":
            return statuses(**checks)
        return instances(*(item(f"i-{n * 8}") for n in "12345"), item("i-66666666", "pending"))

    server, clock = serve(reply), InstantClock()
    cloud = cloud_at(server, clock)
    for _ in range(3):
        found = {instance.instance_id: instance.status for instance in await cloud.describe_instances()}
    assert found == {
        "i-11111111": StatusCheck.OK,
        "i-22222222": StatusCheck.IMPAIRED,
        "i-33333333": StatusCheck.INITIALIZING,
        "i-44444444": StatusCheck.UNKNOWN,
        "i-55555555": StatusCheck.UNKNOWN,
        "i-66666666": StatusCheck.INITIALIZING,
    }
    asked = [form["Action"] for form in server.asked]
    assert asked.count("DescribeInstanceStatus") == 1
    clock.ahead += 60
    await cloud.describe_instances()
    assert [form["Action"] for form in server.asked].count("DescribeInstanceStatus") == 2
    cloud.close()


async def test_status_checks_that_fail_leave_the_states_visible_and_go_stale(serve: Serve) -> None:
    broken = False

    def reply(form: Form) -> Reply:
        if form["Action"] == "DescribeInstances":
            return instances(item("i-11111111"))
        return fault("InternalError", 500) if broken else statuses(i_11111111=("ok", "ok"))

    clock = InstantClock()
    cloud = cloud_at(serve(reply), clock)

    async def status() -> StatusCheck:
        return (await cloud.describe_instances())[0].status

    assert await status() is StatusCheck.OK
    broken = True
    clock.ahead += 30
    assert await status() is StatusCheck.OK
    clock.ahead += 300
    assert await status() is StatusCheck.UNKNOWN
    broken = False
    assert await status() is StatusCheck.OK
    cloud.close()


async def test_ids_that_ec2_no_longer_knows_are_dropped_and_the_rest_is_terminated(serve: Serve) -> None:
    def reply(form: Form) -> Reply:
        ids = {value for key, value in form.items() if key.startswith("InstanceId.")}
        gone = sorted(ids & {"i-11111111", "i-22222222"})
        if gone:
            return fault(
                "InvalidInstanceID.NotFound", message=f"The instance IDs '{', '.join(gone)}' do not exist"
            )
        return terminated()

    server = serve(reply)
    cloud = cloud_at(server)
    await cloud.terminate_instances(("i-11111111", "i-33333333", "i-22222222", "i-33333333"))
    assert [value for key, value in server.asked[-1].items() if key.startswith("InstanceId.")] == [
        "i-33333333"
    ]
    await cloud.terminate_instances(("i-11111111",))
    await cloud.terminate_instances(())
    assert len(server.asked) == 3
    cloud.close()


async def test_a_protected_instance_is_told_after_the_others_were_terminated(serve: Serve) -> None:
    def reply(form: Form) -> Reply:
        if "i-11111111" in form.values():
            return fault("OperationNotPermitted", message="The instance 'i-11111111' may not be terminated.")
        return terminated()

    server = serve(reply)
    cloud = cloud_at(server)
    with pytest.raises(RejectedError, match="i-11111111"):
        await cloud.terminate_instances(("i-11111111", "i-22222222"))
    assert server.asked[-1]["InstanceId.1"] == "i-22222222"
    cloud.close()


async def test_more_than_a_thousand_are_terminated_in_several_calls(serve: Serve) -> None:
    server = serve(lambda form: terminated())
    cloud = cloud_at(server)
    await cloud.terminate_instances(tuple(f"i-{n:08x}" for n in range(2_001)))
    sizes = [sum(key.startswith("InstanceId.") for key in form) for form in server.asked]
    assert sizes == [1_000, 1_000, 1]
    cloud.close()


async def test_a_token_whose_instances_are_terminated_gives_what_is_left_of_them(serve: Serve) -> None:
    def reply(form: Form) -> Reply:
        if form["Action"] == "RunInstances":
            return fault("IdempotentInstanceTerminated")
        assert form["Filter.1.Name"] == "tag:controller-asg:activity"
        return instances(item("i-11111111", "terminated"))

    cloud = cloud_at(serve(reply))
    assert [found.state for found in await cloud.run_instances(REQUEST)] == [Ec2State.TERMINATED]
    cloud.close()


async def test_a_token_of_another_call_gives_its_instances_and_is_uncertain_while_they_are_invisible(
    serve: Serve,
) -> None:
    visible = False

    def reply(form: Form) -> Reply:
        if form["Action"] == "RunInstances":
            return fault("IdempotentParameterMismatch")
        return instances(*([item("i-11111111")] if visible else []))

    cloud = cloud_at(serve(reply))
    with pytest.raises(UncertainError):
        await cloud.run_instances(REQUEST)
    visible = True
    assert [found.instance_id for found in await cloud.run_instances(REQUEST)] == ["i-11111111"]
    cloud.close()


async def test_many_first_calls_at_once_build_one_client(serve: Serve) -> None:
    server = serve(lambda form: terminated())
    calls = Ec2Calls("us-east-1", server.url, InstantClock(), random.Random(0))
    seen: set[int] = set()

    async def one() -> None:
        await calls.change(
            "TerminateInstances",
            "x",
            lambda ec2: (seen.add(id(ec2)), ec2.terminate_instances(InstanceIds=["i-1"])),
            1,
        )

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(one())
    assert len(seen) == 1
    calls.close()
