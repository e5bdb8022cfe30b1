"""How the modules reach the controller's AdminService, and how its answers become results.

The modules run on the controller's machine with the interpreter of its own environment
(`ansible_python_interpreter: /opt/controller-asg/bin/python`), for grpc and the generated package `asg` are there.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

IMPORT_ERROR: str | None = None
try:
    import grpc
    import yaml

    from asg.admin.v1 import admin_pb2, admin_pb2_grpc
except ImportError:
    IMPORT_ERROR = traceback.format_exc()  # `controller_of` says so before anything here is used
    admin_pb2 = None

LONGEST_TIMEOUT_SECONDS = 86_400.0
DEFAULT_ADDRESS = "unix:///run/controller-asg/admin.sock"
FAULTS_KEY = "asg-faults-bin"
# 10,000 instances, each with all the metrics and leases that an agent may tell, are 240 MB; gRPC's own limit is 4 MiB.
ANSWER_LIMIT_BYTES = 512 * 1024**2
# The options that every module of the controller has; module_utils/doc_fragments/controller_asg.py describes them.
CONNECTION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "address": {"type": "str"},
    "timeout": {"type": "float", "default": 30.0},
}


class Controller:
    """The AdminService with one deadline for all calls. Raises grpc.RpcError.

    `done` is what a module returns beside an error: what it had changed by then.
    """

    def __init__(self, channel: Any, timeout: float) -> None:
        self._stub = admin_pb2_grpc.AdminServiceStub(channel)
        self._timeout = timeout
        self.done: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """A call by its name in admin.proto, for example `controller.ListGroups(request)`."""
        method = getattr(self._stub, name)
        return lambda request: method(request, timeout=self._timeout)


def open_channel(address: str) -> Any:
    """A channel to the controller. The one place that decides how it is secured: a Unix socket or loopback is not."""
    return grpc.insecure_channel(address, options=(("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),))


@contextmanager
def controller_of(module: AnsibleModule, place: Callable[[str], str] = str) -> Iterator[Controller]:
    """The controller that the module's options name. Within the block a failed call ends the module with its faults.

    `place` says where the operator wrote what a fault names.
    """
    if IMPORT_ERROR is not None:
        module.fail_json(
            msg=missing_required_lib("grpcio and controller-asg")
            + " Run the module on the controller's machine with /opt/controller-asg/bin/python.",
            exception=IMPORT_ERROR,
        )
    address = module.params["address"] or os.environ.get("CONTROLLER_ASG_ADDRESS") or DEFAULT_ADDRESS
    timeout = module.params["timeout"]
    if not 0 < timeout <= LONGEST_TIMEOUT_SECONDS:
        mend = f"write seconds above 0, {LONGEST_TIMEOUT_SECONDS:.0f} at the most"
        refuse(module, "timeout", f"{timeout:g} is no such time", mend)
    with open_channel(address) as channel:
        controller = Controller(channel, timeout)
        try:
            yield controller
        except grpc.RpcError as error:
            module.fail_json(**controller.done, **failure(error, address, timeout, place))


def refuse(module: AnsibleModule, where: str, what: str, mend: str) -> NoReturn:
    """End the module as the controller's own refusal would."""
    fault = {"where": where, "what": what, "mend": mend}
    module.fail_json(msg=fault_line(fault), errors=[fault])
    raise AssertionError("fail_json returned")


def time_option(module: AnsibleModule, name: str) -> datetime | None:
    """The option's time in UTC; None without one. Ends the module when it is none, or names no time zone."""
    text = module.params[name]
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    refuse(module, name, f"{text} is no time with a zone", "write it like 2028-03-01T20:00:00+01:00")


def failure(error: Any, address: str, timeout: float, place: Callable[[str], str] = str) -> dict[str, Any]:
    """What a module fails with: `msg` for people, `errors` with where, what and mend of each fault for programs."""
    errors = [{**fault, "where": place(fault["where"])} for fault in faults_in(error)]
    silent = {
        grpc.StatusCode.UNAVAILABLE: "the controller does not answer",
        grpc.StatusCode.DEADLINE_EXCEEDED: f"gave no answer within {timeout:g} s",
    }
    if not errors and error.code() in silent:
        mend = "look at `systemctl status controller-asg` on its machine"
        errors = [{"where": address, "what": silent[error.code()], "mend": mend}]
    if not errors:
        what = f"{error.code().name}: {error.details() or 'no details'}"
        errors = [{"where": address, "what": what, "mend": "look at `journalctl -u controller-asg`"}]
    return {"msg": "\n".join(map(fault_line, errors)), "errors": errors}


def faults_in(error: Any) -> list[dict[str, str]]:
    """The faults of the trailing metadata; empty when the error carries none."""
    for key, value in error.trailing_metadata() or ():
        if key == FAULTS_KEY:
            return [fault_dict(fault) for fault in admin_pb2.Faults.FromString(value).faults]
    return []


def fault_dict(fault: Any) -> dict[str, str]:
    """A fault (a message of the wire, or the model's) as a module returns it."""
    return {"where": fault.where, "what": fault.what, "mend": fault.mend}


def fault_line(fault: Mapping[str, str]) -> str:
    """A fault as a sentence: where, what is wrong, the mend."""
    return f"{fault['where']}: {fault['what']}" + (f"; {fault['mend']}" if fault["mend"] else "")


def time_of(timestamp: Any, present: bool) -> str | None:
    """A wire's timestamp in ISO 8601 (UTC); None when it is not set."""
    return timestamp.ToJsonString() if present else None


def group_result(group: Any) -> dict[str, Any]:
    """A group as asg_group_info returns it."""
    return {
        "name": group.name,
        "version": group.version,
        "launch_version": group.launch_version,
        "spec": json.loads(group.document_json or "{}"),
        "min_size": group.min_size,
        "max_size": group.max_size,
        "desired_capacity": group.desired_capacity,
        "instance_counts": dict(sorted(group.instance_counts.items())),
        "conditions": [
            {"kind": each.kind, "message": each.message, "since": time_of(each.since, each.HasField("since"))}
            for each in group.conditions
        ],
        "outdated_instance_ids": sorted(group.outdated_instance_ids),
        "last_decision": group.last_decision,
        "last_decision_at": time_of(group.last_decision_at, group.HasField("last_decision_at")),
        "scheduled_in_force": [scheduled_result(each) for each in group.scheduled_in_force],
        "next_scheduled": [scheduled_result(each) for each in group.next_scheduled],
        "suspended_processes": [
            {"process": each.process, **hold_result(each.hold)} for each in group.suspended_processes
        ],
        "hourly_cost": group.hourly_cost,
        "max_hourly_cost": group.max_hourly_cost if group.HasField("max_hourly_cost") else None,
    }


def hold_result(hold: Any) -> dict[str, Any]:
    """Who holds something back, why and until when."""
    return {
        "owner": hold.owner,
        "reason": hold.reason,
        "since": time_of(hold.since, hold.HasField("since")),
        "until": time_of(hold.until, hold.HasField("until")),
        "everywhere": hold.everywhere,
    }


def scheduled_result(scheduled: Any) -> dict[str, Any]:
    """One time of a scheduled action."""
    sizes = ("min_size", "max_size", "desired_capacity")
    return {
        "action": scheduled.action,
        "at": time_of(scheduled.at, True),
        "until": time_of(scheduled.until, scheduled.HasField("until")),
        **{size: getattr(scheduled, size) if scheduled.HasField(size) else None for size in sizes},
        "time_zone": scheduled.time_zone,
    }


def instance_result(instance: Any) -> dict[str, Any]:
    """An instance as asg_group_info and asg_instance return it."""
    silent = instance.silent_seconds if instance.HasField("silent_seconds") else None
    return {
        "instance_id": instance.instance_id,
        "group": instance.group,
        "lifecycle_state": instance.lifecycle_state,
        "health": instance.health,
        "health_reason": instance.health_reason,
        "zone": instance.zone,
        "instance_type": instance.instance_type,
        "private_ip": instance.private_ip,
        "launch_version": instance.launch_version,
        "outdated": instance.outdated,
        "protected_from_scale_in": instance.protected_from_scale_in,
        "launched_at": time_of(instance.launched_at, instance.HasField("launched_at")),
        "in_service_at": time_of(instance.in_service_at, instance.HasField("in_service_at")),
        "metrics": dict(sorted(instance.metrics.items())),
        "silent_seconds": silent,
        "ec2_state": instance.ec2_state,
        "activity_id": instance.activity_id,
        "busy": [
            {
                "owner": lease.owner,
                "reason": lease.reason,
                "until": time_of(lease.until, lease.HasField("until")),
                "protect_from_scale_in": lease.protect_from_scale_in,
            }
            for lease in instance.busy
        ],
        "leaving": instance.leaving,
        "lifecycle_actions": [action_result(each) for each in instance.lifecycle_actions],
        "market": instance.market,
        "protection": hold_result(instance.protection) if instance.HasField("protection") else None,
    }


def action_result(action: Any) -> dict[str, Any]:
    """A lifecycle hook that was opened on an instance."""
    return {
        "lifecycle_hook_name": action.lifecycle_hook_name,
        "lifecycle_action_token": action.lifecycle_action_token,
        "transition": action.transition,
        "opened_at": time_of(action.opened_at, action.HasField("opened_at")),
        "until": time_of(action.until, action.HasField("until")),
        "lifecycle_action_result": action.lifecycle_action_result,
        "ended": action.ended,
        "command": action.command,
        "notification_metadata": action.notification_metadata,
    }


def activity_result(activity: Any) -> dict[str, Any]:
    """A scaling activity as asg_activity_info returns it."""
    return {
        "activity_id": activity.activity_id,
        "group": activity.group,
        "kind": activity.kind,
        "status": activity.status,
        "cause": activity.cause,
        "status_message": activity.status_message,
        "instance_count": activity.instance_count,
        "instance_ids": list(activity.instance_ids),
        "started_at": time_of(activity.started_at, activity.HasField("started_at")),
        "ended_at": time_of(activity.ended_at, activity.HasField("ended_at")),
        "decision_id": activity.decision_id,
        "details": activity.details,
    }


def refresh_of(controller: Controller, group: str) -> dict[str, Any] | None:
    """The group's last instance refresh; None where there was none. Raises grpc.RpcError, also for an unknown group."""
    controller.ListGroups(admin_pb2.ListGroupsRequest(name=group))
    try:
        answer = controller.DescribeInstanceRefresh(admin_pb2.DescribeInstanceRefreshRequest(group=group))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return refresh_result(answer.instance_refresh)


def refresh_result(refresh: Any) -> dict[str, Any]:
    """An instance refresh as asg_instance_refresh and asg_instance_refresh_info return it."""
    return {
        "instance_refresh_id": refresh.instance_refresh_id,
        "group": refresh.group,
        "status": refresh.status,
        "status_reason": refresh.status_reason,
        "started_at": time_of(refresh.started_at, refresh.HasField("started_at")),
        "ended_at": time_of(refresh.ended_at, refresh.HasField("ended_at")),
        "percentage_complete": refresh.percentage_complete,
        "instances_to_update": refresh.instances_to_update,
        "paused": refresh.paused,
        "checkpoint": refresh.checkpoint,
        "launch_version": refresh.launch_version,
        "image_id": refresh.image_id,
        "preferences": json.loads(refresh.preferences_json or "{}"),
        "actor": refresh.actor,
        "instances": [
            {
                "instance_id": each.instance_id,
                "lifecycle_state": each.lifecycle_state,
                "launch_version": each.launch_version,
                "progress": each.progress,
            }
            for each in refresh.instances
        ],
    }


def decision_result(decision: Any) -> dict[str, Any]:
    """A decision as asg_activity_info returns it."""
    return {
        "decision_id": decision.decision_id,
        "group": decision.group,
        "first_at": time_of(decision.first_at, decision.HasField("first_at")),
        "last_at": time_of(decision.last_at, decision.HasField("last_at")),
        "count": decision.count,
        "desired_before": decision.desired_before,
        "desired_after": decision.desired_after,
        "votes": [
            {
                "policy": vote.policy,
                "capacity": vote.capacity if vote.HasField("capacity") else None,
                "reason": vote.reason,
                "observed": vote.observed,
            }
            for vote in decision.votes
        ],
        "steps": [
            {"name": step.name, "before": step.before, "after": step.after, "reason": step.reason}
            for step in decision.steps
        ],
        "actions": list(decision.actions),
        "summary": decision.summary,
    }


def as_group_vars(documents: Mapping[str, Any]) -> str:
    """Groups' documents as they stand in group_vars, for a diff that people read; empty without documents."""
    return yaml.safe_dump({"asg_groups": dict(documents)}, sort_keys=False) if documents else ""
