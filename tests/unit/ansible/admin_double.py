"""An AdminService for the modules' tests: a few groups in memory, on a Unix socket, that records every call."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc


class AdminDouble(admin_pb2_grpc.AdminServiceServicer):
    """`groups` are documents by name; `instances` are (group, lifecycle state, protected) by id."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.instances: dict[str, tuple[str, str, bool]] = {}
        self.silent = threading.Event()  # until it is set GetStatus waits
        self.silent.set()
        self.summary = "1 group, 2 of 2 in service"
        self.desired: dict[str, int] = {}
        self.open_activities: list[Any] = []  # one ends after each look
        self.looks_until_gone = 0  # at the groups; then they are deleted
        self.conditions: list[tuple[str, str]] = []
        self.calls: list[tuple[str, Any]] = []
        self.minutes: list[Any] = []
        self.suspended: set[str] = set()
        self.yesterday: Any = None
        self.actions: list[tuple[str, Any]] = []  # open lifecycle hooks, by instance
        self.detached_by_the_way: list[str] = []  # while another instance is terminated
        self.unhealthy: set[str] = set()
        self.holds: dict[str, Any] = {}  # of protections, by instance
        self.refreshes: list[str] = []  # the statuses of the group's refresh
        self.refresh_ends = "Successful"
        self.refresh_ids = ["r-1"]  # one a look, the last for good

    def ApplyGroups(self, request: Any, context: Any) -> Any:
        self.calls.append(("ApplyGroups", request))
        faults = []
        answer = pb.ApplyGroupsResponse()
        for each in request.documents:
            document = json.loads(each.document_json)
            if document["max_size"] < document["min_size"]:
                where = f"{request.source}: asg_groups.{each.name}.max_size"
                faults.append(pb.Fault(where=where, what="is below min_size", mend="raise it"))
            before = self.groups.get(each.name)
            answer.groups.add(
                name=each.name,
                changed=before != document,
                before_json=json.dumps(before) if before else "",
                after_json=json.dumps(document),
                version=1,
                yesterday=self.yesterday if request.validate_only else None,
            )
        if faults:
            refuse(context, faults)
        if not request.validate_only:
            for each in request.documents:
                self.groups[each.name] = json.loads(each.document_json)
                self.desired.setdefault(each.name, self.groups[each.name]["min_size"])
        answer.warnings.extend([pb.Fault(where="asg_groups.web", what="is odd", mend="look")])
        return answer

    def DeleteGroup(self, request: Any, context: Any) -> Any:
        self.calls.append(("DeleteGroup", request))
        if request.name in self.groups and self._members(request.name) and not request.force:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it has instances")
        changed = request.name in self.groups
        if not request.validate_only:
            self.groups.pop(request.name, None)
        return pb.DeleteGroupResponse(changed=changed)

    def ListGroups(self, request: Any, context: Any) -> Any:
        if request.name and request.name not in self.groups:
            refuse(context, [pb.Fault(where=request.name, what="is no group")], grpc.StatusCode.NOT_FOUND)
        answer = pb.ListGroupsResponse()
        if self.looks_until_gone:
            self.looks_until_gone -= 1
            if not self.looks_until_gone:
                self.groups = {}
        for name, document in self.groups.items():
            states = [state for _, state, _ in self._members(name)]
            answer.groups.add(
                name=name,
                version=1,
                document_json=json.dumps(document),
                min_size=document["min_size"],
                max_size=document["max_size"],
                desired_capacity=self.desired.get(name, 0),
                instance_counts={state: states.count(state) for state in states},
                conditions=[pb.Condition(kind=kind, message=text) for kind, text in self.conditions],
                max_hourly_cost=document.get("max_hourly_cost"),
                suspended_processes=[pb.SuspendedProcess(process=each) for each in sorted(self.suspended)],
            )
        return answer

    def ListInstances(self, request: Any, context: Any) -> Any:
        answer = pb.ListInstancesResponse()
        for instance_id, (group, state, protected) in self.instances.items():
            answer.instances.add(
                instance_id=instance_id,
                group=group,
                lifecycle_state=state,
                protected_from_scale_in=protected,
                health="Unhealthy" if instance_id in self.unhealthy else "Healthy",
                protection=self.holds.get(instance_id),
                metrics={"cpu_percent": 12.5},
                lifecycle_actions=[action for of, action in self.actions if of == instance_id],
            )
        return answer

    def CompleteLifecycleAction(self, request: Any, context: Any) -> Any:
        self.calls.append(("CompleteLifecycleAction", request))
        return pb.CompleteLifecycleActionResponse(instance_id=request.instance_id)

    def RecordLifecycleActionHeartbeat(self, request: Any, context: Any) -> Any:
        self.calls.append(("RecordLifecycleActionHeartbeat", request))
        return pb.RecordLifecycleActionHeartbeatResponse(instance_id=request.instance_id)

    def ListActivities(self, request: Any, context: Any) -> Any:
        self.calls.append(("ListActivities", request))
        answer = pb.ListActivitiesResponse()
        if request.open_only:
            opened, self.open_activities = self.open_activities, self.open_activities[1:]
            answer.activities.extend(opened)
            return answer
        answer.activities.add(
            activity_id="a1",
            group="web",
            kind="launch",
            status="Failed",
            cause="desired capacity is 2",
            status_message="InvalidAMIID.NotFound",
        )
        return answer

    def ListDecisions(self, request: Any, context: Any) -> Any:
        answer = pb.ListDecisionsResponse()
        decision = answer.decisions.add(decision_id=7, group=request.group, summary="web stays at 2")
        decision.votes.add(policy="cpu", reason="no sample")
        return answer

    def GetDemand(self, request: Any, context: Any) -> Any:
        self.calls.append(("GetDemand", request))
        return pb.GetDemandResponse(minutes=self.minutes)

    def GetStatus(self, request: Any, context: Any) -> Any:
        self.silent.wait(60)
        return pb.GetStatusResponse(summary=self.summary)

    def LaunchInstances(self, request: Any, context: Any) -> Any:
        self.calls.append(("LaunchInstances", request))
        wanted = self.desired[request.group] + request.count
        if wanted > self.groups[request.group]["max_size"]:
            refuse(context, [pb.Fault(where="groups.web", what=f"{wanted} would be above max_size")])
        if not request.validate_only:
            self.desired[request.group] = wanted
        return pb.LaunchInstancesResponse(desired_capacity=wanted)

    def TerminateInstance(self, request: Any, context: Any) -> Any:
        self.calls.append(("TerminateInstance", request))
        group, state, protected = self.instances[request.instance_id]
        if state == "Detaching":
            refuse(context, [pb.Fault(where=request.instance_id, what="is being detached", mend="wait")])
        changed = not state.startswith("Terminat")
        if changed and not request.validate_only:
            self.instances[request.instance_id] = (group, "Terminating", protected)
            for each in self.detached_by_the_way:
                self.instances[each] = (group, "Detaching", False)
        return pb.TerminateInstanceResponse(group=group, desired_capacity=2, changed=changed)

    def SetInstanceProtection(self, request: Any, context: Any) -> Any:
        self.calls.append(("SetInstanceProtection", request))
        wanted = request.protected_from_scale_in
        hold = pb.Hold(owner=request.actor, reason=request.reason)
        if request.HasField("until"):
            hold.until.CopyFrom(request.until)
        if request.HasField("seconds"):
            hold.until.FromSeconds(int(request.seconds))
        changed = [
            each
            for each in request.instance_ids
            if self.instances[each][2] != wanted or (hold.reason and self.holds.get(each) != hold)
        ]
        if not request.validate_only:
            for each in changed:
                group, state, _ = self.instances[each]
                self.instances[each] = (group, state, wanted)
                self.holds[each] = hold if wanted else None
        return pb.SetInstanceProtectionResponse(changed_instance_ids=changed)

    def SetInstanceHealth(self, request: Any, context: Any) -> Any:
        self.calls.append(("SetInstanceHealth", request))
        if self.instances[request.instance_id][1].startswith("Terminat"):
            refuse(context, [pb.Fault(where=request.instance_id, what="is on its way out", mend="let it")])
        changed = (request.instance_id in self.unhealthy) == request.healthy
        if not request.validate_only:
            self.unhealthy ^= {request.instance_id} if changed else set()
        return pb.SetInstanceHealthResponse(changed=changed)

    def StartInstanceRefresh(self, request: Any, context: Any) -> Any:
        self.calls.append(("StartInstanceRefresh", request))
        if not request.validate_only:
            self.refreshes.append("InProgress")
        return pb.StartInstanceRefreshResponse(instance_refresh_id="r-1")

    def RollbackInstanceRefresh(self, request: Any, context: Any) -> Any:
        self.calls.append(("RollbackInstanceRefresh", request))
        self.refreshes.append("RollbackInProgress")
        return pb.RollbackInstanceRefreshResponse(changed=True)

    def DescribeInstanceRefresh(self, request: Any, context: Any) -> Any:
        """Under way it is told once, then it has ended as `refresh_ends`."""
        if not self.refreshes:
            refuse(context, [pb.Fault(where="groups.web", what="had none")], grpc.StatusCode.NOT_FOUND)
        status = self.refreshes[-1]
        if status.endswith("InProgress"):
            self.refreshes.append(self.refresh_ends)
        refresh = pb.InstanceRefresh(
            instance_refresh_id=self.refresh_ids.pop(0) if self.refresh_ids[1:] else self.refresh_ids[0],
            group="web",
            status=status,
            status_reason="3 in a row",
            percentage_complete=40,
        )
        refresh.instances.add(instance_id="i-1", lifecycle_state="InService", progress="Outdated")
        return pb.DescribeInstanceRefreshResponse(instance_refresh=refresh)

    def EnterStandby(self, request: Any, context: Any) -> Any:
        changed = self._move(request, "EnterStandby", "InService", "Standby")
        return pb.EnterStandbyResponse(group="web", changed_instance_ids=changed, desired_capacity=1)

    def ExitStandby(self, request: Any, context: Any) -> Any:
        changed = self._move(request, "ExitStandby", "Standby", "Pending")
        return pb.ExitStandbyResponse(group="web", changed_instance_ids=changed, desired_capacity=2)

    def DetachInstances(self, request: Any, context: Any) -> Any:
        changed = self._move(request, "DetachInstances", "InService", "Detaching")
        return pb.DetachInstancesResponse(group="web", changed_instance_ids=changed, desired_capacity=1)

    def AttachInstances(self, request: Any, context: Any) -> Any:
        self.calls.append(("AttachInstances", request))
        changed = [each for each in request.instance_ids if each not in self.instances]
        if not request.validate_only:
            self.instances |= dict.fromkeys(changed, (request.group, "Pending", False))
        return pb.AttachInstancesResponse(
            group=request.group, changed_instance_ids=changed, desired_capacity=3
        )

    def SuspendProcesses(self, request: Any, context: Any) -> Any:
        self.calls.append(("SuspendProcesses", request))
        new = set(request.processes) - self.suspended
        if not request.validate_only:
            self.suspended |= new
        return pb.SuspendProcessesResponse(changed_groups=list(self.groups) if new else [])

    def ResumeProcesses(self, request: Any, context: Any) -> Any:
        self.calls.append(("ResumeProcesses", request))
        gone = self.suspended & (set(request.processes) or self.suspended)
        if not request.validate_only:
            self.suspended -= gone
        return pb.ResumeProcessesResponse(changed_groups=list(self.groups) if gone else [])

    def _move(self, request: Any, call: str, before: str, after: str) -> list[str]:
        self.calls.append((call, request))
        changed = [each for each in request.instance_ids if self.instances[each][1] == before]
        if not request.validate_only:
            for each in changed:
                group, _, protected = self.instances[each]
                self.instances[each] = (group, after, protected)
        return changed

    def _members(self, group: str) -> list[tuple[str, str, bool]]:
        return [each for each in self.instances.values() if each[0] == group]


def refuse(context: Any, faults: list[Any], code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
    """As the controller does: the faults in the trailing metadata."""
    context.set_trailing_metadata((("asg-faults-bin", pb.Faults(faults=faults).SerializeToString()),))
    context.abort(code, "refused")


@contextmanager
def serving(double: AdminDouble, folder: Path) -> Iterator[str]:
    """The address of a server that answers with `double`."""
    server = grpc.server(ThreadPoolExecutor(4))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(double, server)
    address = f"unix://{folder / 'admin.sock'}"
    server.add_insecure_port(address)
    server.start()
    try:
        yield address
    finally:
        server.stop(None)
