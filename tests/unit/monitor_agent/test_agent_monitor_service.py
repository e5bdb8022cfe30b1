"""MonitorService as a gRPC client sees it, with the standard health and reflection services."""

import time

import grpc.aio
import pytest
from agent_world import INSTANCE_ID, FakeController, RunAgent, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from asg.monitor.v1 import monitor_pb2, monitor_pb2_grpc
from monitor_agent import __version__
from monitor_agent.session import SessionState

TOKEN = "0123456789abcdef"


def connect(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


async def test_ping_answers_with_the_instances_id(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        await until(lambda: agent.session.state is SessionState.UP)
        answer = await monitor_pb2_grpc.MonitorServiceStub(channel).Ping(
            monitor_pb2.PingRequest(), timeout=10
        )
    assert (answer.instance_id, answer.agent_version) == (INSTANCE_ID, __version__)
    assert abs(answer.answered_unix_ms / 1000 - time.time()) < 3600


async def test_get_metrics_is_the_latest_sample(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        await until(lambda: agent.latest.ticks > 1)
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        sample = (await stub.GetMetrics(monitor_pb2.GetMetricsRequest(), timeout=10)).sample
    assert sample.memory_percent == pytest.approx(25)
    assert not sample.HasField("pressure_cpu_percent")


async def test_set_metric_overrides_the_load_and_refuses_what_is_no_load(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        await stub.SetMetric(monitor_pb2.SetMetricRequest(cpu_percent=77), timeout=10)
        assert agent.latest.override.cpu_percent == 77
        for wrong in (
            monitor_pb2.SetMetricRequest(cpu_percent=101),
            monitor_pb2.SetMetricRequest(cpu_percent=float("nan")),
            monitor_pb2.SetMetricRequest(cpu_percent=5, seconds=0),
            monitor_pb2.SetMetricRequest(seconds=5),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.SetMetric(wrong, timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert agent.latest.override.cpu_percent == 77
        await stub.SetMetric(monitor_pb2.SetMetricRequest(), timeout=10)
        assert agent.latest.override.cpu_percent is None


async def test_drain_says_whether_there_is_a_command(controller: FakeController, run_agent: RunAgent) -> None:
    request = monitor_pb2.DrainRequest(timeout_seconds=60, reason="rehearsal")
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        answer = await monitor_pb2_grpc.MonitorServiceStub(channel).Drain(request, timeout=10)
        assert not answer.draining
    command = ("/bin/true",)
    async with (
        run_agent(controller.port, drain_command=command) as agent,
        connect(agent.monitor_port) as channel,
    ):
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        assert (await stub.Drain(request, timeout=10)).draining
        await until(lambda: agent.drain.report is not None and agent.drain.report.finished)
        with pytest.raises(grpc.aio.AioRpcError, match="timeout_seconds 0"):
            await stub.Drain(monitor_pb2.DrainRequest(), timeout=10)


@pytest.mark.parametrize(
    ("token", "sent", "may"),
    [(None, "", True), (TOKEN, "", False), (TOKEN, "Bearer wrong", False), (TOKEN, f"Bearer {TOKEN}", True)],
)
async def test_a_program_of_this_machine_commands_with_the_token_where_there_is_one(
    run_agent: RunAgent, token: str | None, sent: str, may: bool
) -> None:
    # Its controller is looked up in vain, so that loopback is this machine and nobody else.
    nowhere = {"controller_address": None, "controller_srv_name": "_asg._tcp.invalid"}
    async with run_agent(0, token=token, **nowhere) as agent, connect(agent.monitor_port) as channel:
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        metadata = (("authorization", sent),)
        request = monitor_pb2.DrainRequest(timeout_seconds=60)
        calls = (
            stub.SetMetric(monitor_pb2.SetMetricRequest(cpu_percent=77), timeout=10, metadata=metadata),
            stub.Drain(request, timeout=10, metadata=metadata),
        )
        for call in calls:
            if may:
                await call
                continue
            with pytest.raises(grpc.aio.AioRpcError, match="is not the controller; send the token") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert agent.drain.ordered is may
        assert (agent.latest.override.cpu_percent == 77) is may
        await stub.Ping(monitor_pb2.PingRequest(), timeout=10)


async def test_a_message_above_the_limit_is_refused(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        request = monitor_pb2.DrainRequest(timeout_seconds=1, reason="x" * 70_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await monitor_pb2_grpc.MonitorServiceStub(channel).Drain(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_and_reflection_answer(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port) as agent, connect(agent.monitor_port) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "asg.monitor.v1.MonitorService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        answer = await call.read()
    assert {service.name for service in answer.list_services_response.service} == {
        "asg.monitor.v1.MonitorService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
