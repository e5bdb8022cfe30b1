"""MonitorC's own question over gRPC. A channel lives for one ping: at rest there is none, and none goes stale."""

from collections.abc import Callable

import grpc

from asg.monitor.v1 import monitor_pb2, monitor_pb2_grpc


class GrpcPinger:
    """The `Pinger` of the daemon. `open_channel(host_and_port)` decides the channel's credentials."""

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel

    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        """None when that instance's agent answered in time.

        Another instance's answer is a failure: addresses are given out again, so an answer alone proves nothing.
        """
        if not address:
            return "its address is not known"
        host = f"[{address}]" if ":" in address else address
        channel = self._open_channel(f"{host}:{port}")
        try:
            stub = monitor_pb2_grpc.MonitorServiceStub(channel)
            answer = await stub.Ping(monitor_pb2.PingRequest(), timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        finally:
            await channel.close()
        if answer.instance_id != instance_id:
            return f"{answer.instance_id or 'a nameless agent'} answers at {address}"
        return None
