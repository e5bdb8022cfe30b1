"""The admin service: what modules, CLI and HTTP ask of the controller, on a Unix socket and on loopback.

It asks for no credentials. What protects it is who can reach it: the socket's mode and group, and `admin_listen`, which
is refused for any address but loopback.
"""

import contextlib
import json
import math
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.api import orders
from controller_asg.api.messages import (
    action_meant,
    activity_message,
    applied_message,
    decision_message,
    demand_message,
    fault_message,
    forecast_message,
    group_message,
    instance_message,
    refresh_message,
    timestamp,
)
from controller_asg.api.status_codes import BUG, codes_of, faults_in
from controller_asg.api.yesterday import rehearse_yesterday
from controller_asg.engine.controller import Controller
from controller_asg.model.errors import AsgError, Fault, SpecError
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby, RefreshAction

log = structlog.get_logger()

FAULTS_KEY = "asg-faults-bin"
# A client drops answers whose metadata is over 8 KiB (gRPC's default soft limit). The faults count by their base64, a
# third more, and with them counts the message, in which each byte beyond ASCII becomes three.
FAULTS_LIMIT_BYTES = 4_500
FAULT_LIMITS_BYTES = (500, 1_000, 1_000)  # where, what, mend
DETAILS_LIMIT_BYTES = 400
LIST_LIMIT = 1_000  # entries an answer
SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"].full_name
SOCKET_MODE = 0o660

Context = grpc.aio.ServicerContext[Any, Any] | Any


class Daemon(Protocol):
    """What the daemon around the controller knows and can do."""

    version: str
    settings_fault: str  # why the last reload was refused; empty when it was not

    def public_settings(self) -> Mapping[str, str]:
        """What is in force, without secrets."""

    async def reload(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(settings in force now, settings that want a restart). Raises SpecError, and then nothing changed."""


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Each method: message in, one question or order to the controller, message out."""

    def __init__(self, controller: Controller, daemon: Daemon) -> None:
        self._controller = controller
        self._daemon = daemon

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        async with answering(context):
            status = self._controller.status()
            return pb.GetStatusResponse(
                version=self._daemon.version,
                started_at=timestamp(status.started_at),
                epoch=status.epoch,
                summary=status.summary,
                settings_fault=self._daemon.settings_fault,
                cloud_fault=status.cloud_fault,
                store_fault=status.store_fault,
                settings=self._daemon.public_settings(),
            )

    async def ApplyGroups(self, request: pb.ApplyGroupsRequest, context: Context) -> pb.ApplyGroupsResponse:
        async with answering(context):
            applied, warnings = await self._controller.apply_groups(
                _documents(request), request.validate_only, request.source
            )
            yesterday = await rehearse_yesterday(self._controller, applied) if request.validate_only else {}
            return pb.ApplyGroupsResponse(
                groups=[applied_message(each, yesterday.get(each.name)) for each in applied],
                warnings=map(fault_message, warnings),
            )

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, context: Context) -> pb.DeleteGroupResponse:
        async with answering(context):
            _need(request.name, "name")
            changed = await self._controller.delete_group(request.name, request.force, request.validate_only)
            return pb.DeleteGroupResponse(changed=changed)

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:
        async with answering(context):
            hourly_cost, ceiling = self._controller.hourly_cost()
            return pb.ListGroupsResponse(
                groups=map(group_message, self._controller.groups(request.name)),
                hourly_cost=hourly_cost,
                max_hourly_cost=ceiling,
            )

    async def ListInstances(
        self, request: pb.ListInstancesRequest, context: Context
    ) -> pb.ListInstancesResponse:
        async with answering(context):
            found = self._controller.instances(request.group)
            return pb.ListInstancesResponse(instances=map(instance_message, found))

    async def ListActivities(
        self, request: pb.ListActivitiesRequest, context: Context
    ) -> pb.ListActivitiesResponse:
        async with answering(context):
            limit = _limit(request.limit or 50)
            found = await self._controller.activities(request.group, limit, request.open_only)
            return pb.ListActivitiesResponse(activities=map(activity_message, found))

    async def ListDecisions(
        self, request: pb.ListDecisionsRequest, context: Context
    ) -> pb.ListDecisionsResponse:
        async with answering(context):
            _need(request.group, "group")
            found = await self._controller.decisions(request.group, _limit(request.limit or 20))
            return pb.ListDecisionsResponse(decisions=map(decision_message, found))

    async def GetDemand(self, request: pb.GetDemandRequest, context: Context) -> pb.GetDemandResponse:
        async with answering(context):
            _need(request.group, "group")
            until = _time(request, "until") or datetime.now(UTC)
            since = _time(request, "since") or until - timedelta(days=1)
            found = await self._controller.demand(request.group, since, until)
            return pb.GetDemandResponse(minutes=map(demand_message, found))

    async def GetForecast(self, request: pb.GetForecastRequest, context: Context) -> pb.GetForecastResponse:
        async with answering(context):
            _need(request.group, "group")
            (status,) = self._controller.groups(request.group)
            return forecast_message(await self._controller.forecast(request.group), status.record.group)

    async def ExecutePolicy(
        self, request: pb.ExecutePolicyRequest, context: Context
    ) -> pb.ExecutePolicyResponse:
        async with answering(context):
            _need(request.group, "group")
            _need(request.policy, "policy")
            before, after, _ = await self._controller.execute_policy(
                request.group,
                request.policy,
                orders.actor(request.actor),
                honor_cooldown=request.honor_cooldown,
                metric_value=_number(request, "metric_value"),
                breach_threshold=_number(request, "breach_threshold"),
            )
            return pb.ExecutePolicyResponse(before=before, after=after)

    async def SetDesiredCapacity(
        self, request: pb.SetDesiredCapacityRequest, context: Context
    ) -> pb.SetDesiredCapacityResponse:
        async with answering(context):
            _need(request.group, "group")
            before, after = await self._controller.set_desired_capacity(
                request.group, request.desired_capacity, orders.actor(request.actor)
            )
            return pb.SetDesiredCapacityResponse(before=before, after=after)

    async def LaunchInstances(
        self, request: pb.LaunchInstancesRequest, context: Context
    ) -> pb.LaunchInstancesResponse:
        async with answering(context):
            _need(request.group, "group")
            desired = await self._controller.launch_instances(
                request.group, request.count or 1, orders.actor(request.actor), request.validate_only
            )
            return pb.LaunchInstancesResponse(desired_capacity=desired)

    async def TerminateInstance(
        self, request: pb.TerminateInstanceRequest, context: Context
    ) -> pb.TerminateInstanceResponse:
        async with answering(context):
            _need(request.instance_id, "instance_id")
            group, desired, changed = await self._controller.terminate_instance(
                request.instance_id,
                request.should_decrement_desired_capacity,
                orders.actor(request.actor),
                request.validate_only,
            )
            return pb.TerminateInstanceResponse(group=group, desired_capacity=desired, changed=changed)

    async def SetInstanceProtection(
        self, request: pb.SetInstanceProtectionRequest, context: Context
    ) -> pb.SetInstanceProtectionResponse:
        async with answering(context):
            _need(request.instance_ids, "instance_ids")
            changed = await self._controller.protect_instances(
                tuple(dict.fromkeys(request.instance_ids)),
                request.protected_from_scale_in,
                orders.actor(request.actor),
                request.validate_only,
                orders.reason(request.reason),
                orders.until(_seconds(request), _time(request, "until"), datetime.now(UTC)),
            )
            return pb.SetInstanceProtectionResponse(changed_instance_ids=changed)

    async def EnterStandby(
        self, request: pb.EnterStandbyRequest, context: Context
    ) -> pb.EnterStandbyResponse:
        async with answering(context):
            ids, decrement = (
                orders.instance_ids(request.instance_ids),
                request.should_decrement_desired_capacity,
            )
            order = EnterStandby(ids, decrement, orders.actor(request.actor))
            group, changed, desired = await self._controller.move_instances(order, request.validate_only)
            return pb.EnterStandbyResponse(
                group=group, changed_instance_ids=changed, desired_capacity=desired
            )

    async def ExitStandby(self, request: pb.ExitStandbyRequest, context: Context) -> pb.ExitStandbyResponse:
        async with answering(context):
            order = ExitStandby(orders.instance_ids(request.instance_ids), orders.actor(request.actor))
            group, changed, desired = await self._controller.move_instances(order, request.validate_only)
            return pb.ExitStandbyResponse(group=group, changed_instance_ids=changed, desired_capacity=desired)

    async def DetachInstances(
        self, request: pb.DetachInstancesRequest, context: Context
    ) -> pb.DetachInstancesResponse:
        async with answering(context):
            ids, decrement = (
                orders.instance_ids(request.instance_ids),
                request.should_decrement_desired_capacity,
            )
            order = Detach(ids, decrement, orders.actor(request.actor))
            group, changed, desired = await self._controller.move_instances(order, request.validate_only)
            return pb.DetachInstancesResponse(
                group=group, changed_instance_ids=changed, desired_capacity=desired
            )

    async def AttachInstances(
        self, request: pb.AttachInstancesRequest, context: Context
    ) -> pb.AttachInstancesResponse:
        async with answering(context):
            _need(request.group, "group")
            order = Attach(orders.instance_ids(request.instance_ids), orders.actor(request.actor))
            group, changed, desired = await self._controller.move_instances(
                order, request.validate_only, request.group
            )
            return pb.AttachInstancesResponse(
                group=group, changed_instance_ids=changed, desired_capacity=desired
            )

    async def SuspendProcesses(
        self, request: pb.SuspendProcessesRequest, context: Context
    ) -> pb.SuspendProcessesResponse:
        async with answering(context):
            held = orders.hold(
                orders.actor(request.actor),
                request.reason,
                _seconds(request),
                _time(request, "until"),
                not request.group,
                datetime.now(UTC),
            )
            changed = await self._controller.suspend(
                request.group, orders.processes(request.processes), held, request.validate_only
            )
            return pb.SuspendProcessesResponse(changed_groups=changed)

    async def ResumeProcesses(
        self, request: pb.ResumeProcessesRequest, context: Context
    ) -> pb.ResumeProcessesResponse:
        async with answering(context):
            changed = await self._controller.resume(
                request.group, orders.processes(request.processes), request.validate_only
            )
            return pb.ResumeProcessesResponse(changed_groups=changed)

    async def SetInstanceHealth(
        self, request: pb.SetInstanceHealthRequest, context: Context
    ) -> pb.SetInstanceHealthResponse:
        async with answering(context):
            changed = await self._controller.set_instance_health(
                request.instance_id, request.healthy, orders.actor(request.actor), request.validate_only
            )
            return pb.SetInstanceHealthResponse(changed=changed)

    async def CompleteLifecycleAction(
        self, request: pb.CompleteLifecycleActionRequest, context: Context
    ) -> pb.CompleteLifecycleActionResponse:
        async with answering(context):
            instance_id, hook = await self._controller.complete_lifecycle_action(
                action_meant(request), request.lifecycle_action_result, orders.actor(request.actor)
            )
            return pb.CompleteLifecycleActionResponse(instance_id=instance_id, lifecycle_hook_name=hook)

    async def RecordLifecycleActionHeartbeat(
        self, request: pb.RecordLifecycleActionHeartbeatRequest, context: Context
    ) -> pb.RecordLifecycleActionHeartbeatResponse:
        async with answering(context):
            instance_id, hook = await self._controller.record_lifecycle_action_heartbeat(
                action_meant(request)
            )
            return pb.RecordLifecycleActionHeartbeatResponse(
                instance_id=instance_id, lifecycle_hook_name=hook
            )

    async def Diagnose(self, request: pb.DiagnoseRequest, context: Context) -> pb.DiagnoseResponse:
        async with answering(context):
            findings = list(self._controller.findings())
            if self._daemon.settings_fault:
                findings.append(
                    Fault("settings", self._daemon.settings_fault, "mend the file, then systemctl reload")
                )
            return pb.DiagnoseResponse(
                findings=[pb.Fault(where=f.where, what=f.what, mend=f.mend) for f in findings]
            )

    async def Reload(self, request: pb.ReloadRequest, context: Context) -> pb.ReloadResponse:
        async with answering(context):
            changed, needs_restart = await self._daemon.reload()
            return pb.ReloadResponse(changed=changed, needs_restart=needs_restart)

    async def StartInstanceRefresh(
        self, request: pb.StartInstanceRefreshRequest, context: Context
    ) -> pb.StartInstanceRefreshResponse:
        async with answering(context):
            _need(request.group, "group")
            refresh_id = await self._controller.start_instance_refresh(
                request.group,
                _preferences(request.preferences_json),
                orders.actor(request.actor),
                request.validate_only,
            )
            return pb.StartInstanceRefreshResponse(instance_refresh_id=refresh_id)

    async def DescribeInstanceRefresh(
        self, request: pb.DescribeInstanceRefreshRequest, context: Context
    ) -> pb.DescribeInstanceRefreshResponse:
        async with answering(context):
            _need(request.group, "group")
            found = refresh_message(self._controller.instance_refresh(request.group))
            return pb.DescribeInstanceRefreshResponse(instance_refresh=found)

    async def CancelInstanceRefresh(
        self, request: pb.CancelInstanceRefreshRequest, context: Context
    ) -> pb.CancelInstanceRefreshResponse:
        async with answering(context):
            return pb.CancelInstanceRefreshResponse(changed=await self._refresh("cancel", request))

    async def RollbackInstanceRefresh(
        self, request: pb.RollbackInstanceRefreshRequest, context: Context
    ) -> pb.RollbackInstanceRefreshResponse:
        async with answering(context):
            return pb.RollbackInstanceRefreshResponse(changed=await self._refresh("rollback", request))

    async def PauseInstanceRefresh(
        self, request: pb.PauseInstanceRefreshRequest, context: Context
    ) -> pb.PauseInstanceRefreshResponse:
        async with answering(context):
            return pb.PauseInstanceRefreshResponse(changed=await self._refresh("pause", request))

    async def ResumeInstanceRefresh(
        self, request: pb.ResumeInstanceRefreshRequest, context: Context
    ) -> pb.ResumeInstanceRefreshResponse:
        async with answering(context):
            return pb.ResumeInstanceRefreshResponse(changed=await self._refresh("resume", request))

    async def _refresh(self, action: RefreshAction, request: Any) -> bool:
        """`request` is any of those with a group, an actor and validate_only."""
        _need(request.group, "group")
        return await self._controller.change_instance_refresh(
            request.group, action, orders.actor(request.actor), request.validate_only
        )


@dataclass(slots=True)
class AdminServer:
    """The service, health and reflection, on every address it was told to listen at."""

    server: grpc.aio.Server
    health: health.HealthServicer
    socket: Path | None = None
    ports: list[int] = field(default_factory=list)  # the TCP ports bound, also where ":0" was asked for

    def listen(self, socket: Path | None, address: str) -> None:
        """Bind before `server.start()`. Raises SpecError where a place is taken; an empty address is left out."""
        if socket is not None:
            # gRPC makes the socket by the process's umask; it must never be open to others, not even for a moment.
            umask = os.umask(0o777 & ~SOCKET_MODE)
            try:
                self._bind(f"unix:{socket}", "admin_socket")
            finally:
                os.umask(umask)
            self.socket = socket
            _give_to_group_of_folder(socket)
        if address:
            self.ports.append(self._bind(address, "admin_listen"))

    def _bind(self, address: str, setting: str) -> int:
        try:
            return self.server.add_insecure_port(address)
        except RuntimeError as error:
            fault = Fault(
                setting, f"{address} can't be listened at", "see what holds it, and that it may be bound"
            )
            raise SpecError((fault,)) from error

    async def set_serving(self, serving: bool) -> None:
        """What health says of the whole server and of the service."""
        state = health_pb2.HealthCheckResponse.SERVING
        if not serving:
            state = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self.health.set(name, state)

    async def stop(self, grace_seconds: float) -> None:
        await self.server.stop(grace_seconds)
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)


def build_admin_server(controller: Controller, daemon: Daemon) -> AdminServer:
    """Not yet bound, and NOT_SERVING by health until `set_serving`."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(controller, daemon), server)
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return AdminServer(server, servicer)


@contextlib.asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """Within the block an error of the model ends the call with its code and faults; any other is a bug of ours."""
    try:
        yield
    except AsgError as error:
        code, _ = codes_of(error)
        await _abort(context, code, faults_in(error))
    except Exception as error:
        log.exception("call_failed")
        await _abort(context, grpc.StatusCode.INTERNAL, (BUG,), error)


async def _abort(
    context: Context, code: grpc.StatusCode, faults: tuple[Fault, ...], cause: Exception | None = None
) -> None:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    details = cut(str(faults[0]), DETAILS_LIMIT_BYTES) + more
    metadata = ((FAULTS_KEY, bounded(faults).SerializeToString()),)
    await context.abort(code, details, metadata)
    raise AssertionError("abort returned") from cause


def bounded(faults: tuple[Fault, ...]) -> pb.Faults:
    """As many faults as a client accepts, and the number of the rest."""
    message = pb.Faults()
    for index, fault in enumerate(faults):
        where, what, mend = map(cut, (fault.where, fault.what, fault.mend), FAULT_LIMITS_BYTES)
        message.faults.append(pb.Fault(where=where, what=what, mend=mend))
        if message.ByteSize() > FAULTS_LIMIT_BYTES and index:
            del message.faults[-1]
            left = len(faults) - index
            message.faults.append(
                pb.Fault(where="…", what=f"{left} more faults", mend="mend those above, then try again")
            )
            break
    return message


def cut(text: str, limit_bytes: int) -> str:
    """The beginning that fits, in whole characters."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def _documents(request: pb.ApplyGroupsRequest) -> dict[str, Any]:
    """By the groups' names. One that is no mapping is refused with all other faults, by who parses them."""
    documents: dict[str, Any] = {}
    faults: list[Fault] = []
    for index, each in enumerate(request.documents):
        where = f"asg_groups.{each.name}" if each.name else f"documents[{index}]"
        if request.source:
            where = f"{request.source}: {where}"
        if not each.name:
            faults.append(Fault(where, "has no name", "name the group"))
        elif each.name in documents:
            faults.append(Fault(where, "stands twice", "write each group once"))
        try:
            document = json.loads(each.document_json)
        except (ValueError, RecursionError) as error:
            faults.append(Fault(where, f"is not JSON: {error}", "send one JSON object"))
            continue
        documents[each.name] = document
    if faults:
        raise SpecError(tuple(faults))
    return documents


def _preferences(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise SpecError((Fault("preferences", f"are not JSON: {error}", "send one JSON object"),)) from error
    if not isinstance(document, dict):
        raise SpecError((Fault("preferences", "are not a mapping", "send one JSON object"),))
    return document


def _seconds(request: pb.SetInstanceProtectionRequest | pb.SuspendProcessesRequest) -> float | None:
    return request.seconds if request.HasField("seconds") else None


def _time(request: Any, name: Literal["since", "until"]) -> datetime | None:
    """None when it is absent."""
    if not request.HasField(name):
        return None
    try:
        found: datetime = getattr(request, name).ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise SpecError((Fault(name, "is no time", orders.YEARS_MEND),)) from error
    return orders.in_range(found, name)


def _number(
    request: pb.ExecutePolicyRequest, name: Literal["metric_value", "breach_threshold"]
) -> float | None:
    """None when it is absent."""
    if not request.HasField(name):
        return None
    value: float = getattr(request, name)
    if not math.isfinite(value):
        raise SpecError((Fault(name, "is not a finite number", "write one"),))
    return value


def _limit(wanted: int) -> int:
    if wanted > LIST_LIMIT:
        raise SpecError((Fault("limit", f"{wanted} is no such number", f"write 1 to {LIST_LIMIT}"),))
    return wanted


def _need(value: object, name: str) -> None:
    if not value:
        raise SpecError((Fault(name, "is missing", "name it"),))


def _give_to_group_of_folder(socket: Path) -> None:
    """The socket's group is that of the runtime directory, whose members are the operators."""
    os.chmod(socket, SOCKET_MODE)
    group = socket.parent.stat().st_gid
    if socket.stat().st_gid == group:
        return
    try:
        os.chown(socket, -1, group)
    except PermissionError:
        log.warning(
            "admin_socket_group_kept", path=str(socket), mend="let the service be a member of the group"
        )
