"""MonitorC's own question, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from asg.monitor.v1 import monitor_pb2, monitor_pb2_grpc
from controller_asg.api.channel import open_agent_channel
from controller_asg.monitor.ping import GrpcPinger

A = "i-0000000a"


class Monitor(monitor_pb2_grpc.MonitorServiceServicer):
    def __init__(self, instance_id: str, hangs: bool) -> None:
        self._instance_id, self._hangs = instance_id, hangs

    async def Ping(self, request, context):
        if self._hangs:
            await asyncio.Event().wait()
        return monitor_pb2.PingResponse(instance_id=self._instance_id)


@asynccontextmanager
async def agent(instance_id: str = A, hangs: bool = False) -> AsyncIterator[int]:
    server = grpc.aio.server()
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(Monitor(instance_id, hangs), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def ping(port: int, timeout_seconds: float = 5.0, address: str = "127.0.0.1") -> str | None:
    return await GrpcPinger(open_agent_channel).ping(A, address, port, timeout_seconds)


async def test_an_agent_that_answers_is_well_again_and_again() -> None:
    async with agent() as port:
        assert [await ping(port) for _ in range(3)] == [None, None, None]


async def test_a_closed_port_fails_at_once_and_answers_as_soon_as_it_is_open() -> None:
    async with agent() as port:
        pass
    assert "UNAVAILABLE" in (await ping(port, 60.0) or "")
    server = grpc.aio.server()
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(Monitor(A, False), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    await server.start()
    try:
        assert await ping(port) is None, "an earlier failure leaves no backoff behind"
    finally:
        await server.stop(None)


async def test_a_hanging_agent_fails_at_the_deadline() -> None:
    async with agent(hangs=True) as port:
        assert "DEADLINE_EXCEEDED" in (await ping(port, 0.05) or "")


async def test_another_instance_at_that_address_is_no_answer() -> None:
    async with agent("i-0000000b") as port:
        assert await ping(port) == "i-0000000b answers at 127.0.0.1"


async def test_no_address_no_answer() -> None:
    assert await ping(1, address="") == "its address is not known"
