"""MonitorService: what the controller asks of the agent, with the standard health and reflection services beside it."""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc

from asg.monitor.v1 import monitor_pb2, monitor_pb2_grpc
from monitor_agent import __version__
from monitor_agent.drain import Drain, check_drain_timeout
from monitor_agent.faults import FaultsError
from monitor_agent.latest import Latest
from monitor_agent.override import check_override
from monitor_agent.reading import to_sample

SERVICE_NAME = "asg.monitor.v1.MonitorService"
REFLECTION_NAME = "grpc.reflection.v1alpha.ServerReflection"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """`may_command` says whether a peer with this `authorization` may change something; everyone may ask."""

    def __init__(
        self,
        latest: Latest,
        drain: Drain,
        instance_id: Callable[[], str],
        may_command: Callable[[str, str], bool],
    ) -> None:
        self._latest, self._drain = latest, drain
        self._instance_id, self._may_command = instance_id, may_command

    async def Ping(self, request: monitor_pb2.PingRequest, context: Context) -> monitor_pb2.PingResponse:
        return monitor_pb2.PingResponse(
            instance_id=self._instance_id(),
            answered_unix_ms=time.time_ns() // 1_000_000,
            agent_version=__version__,
        )

    async def GetMetrics(
        self, request: monitor_pb2.GetMetricsRequest, context: Context
    ) -> monitor_pb2.GetMetricsResponse:
        reading = self._latest.reading()
        if reading is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no sample yet: ask again in a second")
        return monitor_pb2.GetMetricsResponse(sample=to_sample(reading, self._latest.ticks))

    async def SetMetric(
        self, request: monitor_pb2.SetMetricRequest, context: Context
    ) -> monitor_pb2.SetMetricResponse:
        await self._check_peer(context)
        try:
            override = check_override(
                request.cpu_percent if request.HasField("cpu_percent") else None,
                request.seconds if request.HasField("seconds") else None,
                percent_key="cpu_percent",
            )
        except FaultsError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._latest.override.apply(override)
        return monitor_pb2.SetMetricResponse()

    async def Drain(self, request: monitor_pb2.DrainRequest, context: Context) -> monitor_pb2.DrainResponse:
        await self._check_peer(context)
        if fault := check_drain_timeout(request.timeout_seconds):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, fault)
        return monitor_pb2.DrainResponse(
            draining=self._drain.request(request.timeout_seconds, request.reason)
        )

    async def _check_peer(self, context: Context) -> None:
        peer, metadata = context.peer(), dict(context.invocation_metadata() or ())
        if not self._may_command(peer, str(metadata.get("authorization", ""))):
            what = (
                f"{peer} is not the controller; send the token of http_token_file as metadata, "
                "`authorization: Bearer TOKEN`, or add its network to command_peers"
            )
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, what)


class LazyReflection(grpc.GenericRpcHandler):
    """The reflection service, imported when it is first called: it adds 3 MiB and the controller never asks for it."""

    def __init__(self, service_names: tuple[str, ...]) -> None:
        self._service_names = (*service_names, REFLECTION_NAME)
        self._handler: grpc.RpcMethodHandler[Any, Any] | None = None

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        if handler_call_details.method != f"/{REFLECTION_NAME}/ServerReflectionInfo":
            return None
        if self._handler is None:
            from grpc_reflection.v1alpha import reflection, reflection_pb2

            self._handler = grpc.stream_stream_rpc_method_handler(
                reflection.aio.ReflectionServicer(self._service_names).ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        return self._handler


def add_services(server: grpc.aio.Server, service: MonitorService) -> health.aio.HealthServicer:
    """Add MonitorService, health and reflection to a server; the returned servicer sets what health says."""
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(service, server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((LazyReflection((SERVICE_NAME, health.SERVICE_NAME)),))
    return servicer
