"""Model objects to rows and back. Pure.

A JSON document inside a row was perhaps written by the release before this one: when a field is added to what it
holds, read it with its default (`document.get`), for those rows lack it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.decision import Decision, Step, Vote
from controller_asg.model.group import group_from_dict, group_to_dict, launch_from_dict, launch_to_dict
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Instance, Leaving, LifecycleState
from controller_asg.model.lifecycle_hook import OpenHook
from controller_asg.model.offering import Market, Offering
from controller_asg.model.record import (
    DemandMinute,
    GroupRecord,
    LastChange,
    LaunchBackoff,
    LaunchMemory,
    LaunchTemplate,
    PolicyMemories,
    Scheduled,
    WishedRange,
)
from controller_asg.model.refresh import refresh_from_dict, refresh_to_dict
from controller_asg.store.schema import from_unix_ms, to_unix_ms

Row = Mapping[str, Any]


def group_to_row(record: GroupRecord) -> Row:
    return {
        "name": record.group.name,
        "version": record.version,
        "image_id": record.image_id,
        "launch_version": record.launch_version,
        "min_size": record.group.min_size,
        "max_size": record.group.max_size,
        "desired_capacity": record.desired_capacity,
        "applied_unix_ms": record.applied_at,
        "document": group_to_dict(record.group),
        "backoffs": [
            {
                # An earlier release reads the group's own as two empty texts.
                "zone": backoff.offering.zone if backoff.offering else "",
                "instance_type": backoff.offering.instance_type if backoff.offering else "",
                "market": backoff.offering.market if backoff.offering else "",
                "failures": backoff.failures,
                "until_unix_ms": to_unix_ms(backoff.until_at),
                "reason": backoff.reason,
            }
            for backoff in record.backoffs
        ],
        "last_changes": [
            {"policy": change.policy, "direction": change.direction, "at_unix_ms": to_unix_ms(change.at)}
            for change in record.last_changes
        ],
        "memory": {
            **_memory_to_document(record.launch_memory),
            "scheduled": [[done.action, to_unix_ms(done.at), done.in_force] for done in record.scheduled],
            "size_changes": [[to_unix_ms(at), change] for at, change in record.size_changes],
            "wished": [
                [
                    to_unix_ms(w.since_at),
                    None if w.until_at is None else to_unix_ms(w.until_at),
                    w.low,
                    w.high,
                ]
                for w in record.wished
            ],
            "templates": [_template_to_document(template) for template in record.templates],
            "refresh": record.refresh and refresh_to_dict(record.refresh),
            "spot_returned_unix_ms": _optional_ms(record.spot_returned_at),
            "suspended": [[process.value, *_hold_to_document(hold)] for process, hold in record.suspended],
            "protections": [[name, *_hold_to_document(hold)] for name, hold in record.protections],
            "forecast_max_size": record.forecast_max_size,
            "missing_since": [[policy, to_unix_ms(at)] for policy, at in record.missing_since],
            "messages": record.messages,
        },
    }


def _memory_to_document(memory: LaunchMemory) -> dict[str, Any]:
    return {
        "good": memory.good and _template_to_document(memory.good),
        "failures": memory.failures,
        "recent": [[to_unix_ms(at), count] for at, count in memory.recent],
    }


def _template_to_document(template: LaunchTemplate) -> dict[str, Any]:
    return {
        "version": template.version,
        "image_id": template.image_id,
        "launch": launch_to_dict(template.launch),
        "bootstrap": template.bootstrap,
    }


def _template_from_document(document: dict[str, Any]) -> LaunchTemplate:
    return LaunchTemplate(
        document["version"], document["image_id"], launch_from_dict(document["launch"]), document["bootstrap"]
    )


def _memory_from_document(document: dict[str, Any]) -> LaunchMemory:
    good = document.get("good")
    return LaunchMemory(
        good=good and _template_from_document(good),
        failures=tuple((version, count) for version, count in document.get("failures", ())),
        recent=tuple((from_unix_ms(at), count) for at, count in document.get("recent", ())),
    )


def _offering(backoff: Row) -> Offering | None:
    instance_type = backoff.get("instance_type", "")
    if not instance_type:
        return None
    return Offering(backoff["zone"], instance_type, Market(backoff.get("market", "on_demand")))


def _hold_to_document(hold: Hold) -> list[Any]:
    until = None if hold.until_at is None else to_unix_ms(hold.until_at)
    return [hold.owner, hold.reason, to_unix_ms(hold.since_at), until, hold.everywhere]


def _hold_from_document(owner: str, reason: str, since: int, until: int | None, everywhere: bool) -> Hold:
    return Hold(
        owner, reason, from_unix_ms(since), None if until is None else from_unix_ms(until), everywhere
    )


def group_from_row(row: Row) -> GroupRecord:
    return GroupRecord(
        group=group_from_dict(row["document"]),
        version=row["version"],
        image_id=row["image_id"],
        launch_version=row["launch_version"],
        desired_capacity=row["desired_capacity"],
        applied_at=row["applied_unix_ms"],
        backoffs=tuple(
            LaunchBackoff(
                _offering(backoff),
                backoff["failures"],
                from_unix_ms(backoff["until_unix_ms"]),
                backoff["reason"],
            )
            for backoff in row["backoffs"]
        ),
        last_changes=tuple(
            LastChange(change["policy"], change["direction"], from_unix_ms(change["at_unix_ms"]))
            for change in row["last_changes"]
        ),
        launch_memory=_memory_from_document(row["memory"]),
        scheduled=tuple(
            Scheduled(action, from_unix_ms(at), in_force)
            for action, at, in_force in row["memory"].get("scheduled", ())
        ),
        size_changes=tuple(
            (from_unix_ms(at), change) for at, change in row["memory"].get("size_changes", ())
        ),
        wished=tuple(
            WishedRange(from_unix_ms(since), None if until is None else from_unix_ms(until), low, high)
            for since, until, low, high in row["memory"].get("wished", ())
        ),
        templates=tuple(map(_template_from_document, row["memory"].get("templates", ()))),
        refresh=(refresh := row["memory"].get("refresh")) and refresh_from_dict(refresh),
        spot_returned_at=_optional_time(row["memory"].get("spot_returned_unix_ms")),
        suspended=tuple(
            (Process(process), _hold_from_document(*hold))
            for process, *hold in row["memory"].get("suspended", ())
        ),
        protections=tuple(
            (name, _hold_from_document(*hold)) for name, *hold in row["memory"].get("protections", ())
        ),
        forecast_max_size=row["memory"].get("forecast_max_size", 0),
        missing_since=tuple(
            (policy, from_unix_ms(at)) for policy, at in row["memory"].get("missing_since", ())
        ),
        messages=tuple((policy, each) for policy, each in row["memory"].get("messages", ())),
    )


def instance_to_row(instance: Instance) -> Row:
    return {
        "instance_id": instance.instance_id,
        "group_name": instance.group,
        "state": instance.state.value,
        "state_since_unix_ms": instance.state_since_at,
        "launched_unix_ms": instance.launched_at,
        "activity_id": instance.activity_id,
        "launch_version": instance.launch_version,
        "zone": instance.zone,
        "instance_type": instance.instance_type,
        "private_ip": instance.private_ip,
        "in_service_unix_ms": instance.in_service_at,
        "protected_from_scale_in": instance.protected_from_scale_in,
        "reason": instance.reason,
        "bootstrapped_unix_ms": instance.bootstrapped_at,
        "marked_unhealthy": instance.marked_unhealthy,
        "memory": {
            "leaving": instance.leaving,
            "drain_ordered": _optional_ms(instance.drain_ordered_at),
            "hooks": [_hook_to_document(hook) for hook in instance.hooks],
            "market": instance.market,
        },
    }


def instance_from_row(row: Row) -> Instance:
    memory = row["memory"]
    return Instance(
        instance_id=row["instance_id"],
        group=row["group_name"],
        state=LifecycleState(row["state"]),
        state_since_at=row["state_since_unix_ms"],
        launched_at=row["launched_unix_ms"],
        activity_id=row["activity_id"],
        launch_version=row["launch_version"],
        zone=row["zone"],
        instance_type=row["instance_type"],
        private_ip=row["private_ip"],
        in_service_at=row["in_service_unix_ms"],
        protected_from_scale_in=row["protected_from_scale_in"],
        reason=row["reason"],
        bootstrapped_at=row["bootstrapped_unix_ms"],
        marked_unhealthy=row["marked_unhealthy"],
        leaving=Leaving(memory["leaving"]) if memory.get("leaving") else None,
        drain_ordered_at=_optional_time(memory.get("drain_ordered")),
        hooks=tuple(map(_hook_from_document, memory.get("hooks", ()))),
        market=Market(memory.get("market", "on_demand")),
    )


def _hook_to_document(hook: OpenHook) -> dict[str, Any]:
    return {
        "name": hook.name,
        "token": hook.token,
        "transition": hook.transition,
        "opened": to_unix_ms(hook.opened_at),
        "heartbeat": to_unix_ms(hook.heartbeat_at),
        "timeout": hook.heartbeat_timeout_seconds,
        "default": hook.default_result,
        "command": hook.command,
        "metadata": hook.notification_metadata,
        "ordered": _optional_ms(hook.ordered_at),
        "result": hook.result,
        "ended": hook.ended,
        "output": hook.output,
    }


def _hook_from_document(document: dict[str, Any]) -> OpenHook:
    return OpenHook(
        name=document["name"],
        token=document["token"],
        transition=document["transition"],
        opened_at=from_unix_ms(document["opened"]),
        heartbeat_at=from_unix_ms(document["heartbeat"]),
        heartbeat_timeout_seconds=document["timeout"],
        default_result=document["default"],
        command=document["command"],
        notification_metadata=document["metadata"],
        ordered_at=_optional_time(document["ordered"]),
        result=document["result"],
        ended=document["ended"],
        output=document["output"],
    )


def _optional_ms(at: datetime | None) -> int | None:
    return None if at is None else to_unix_ms(at)


def _optional_time(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else from_unix_ms(unix_ms)


def memories_to_row(memories: PolicyMemories) -> Row:
    return {"group_name": memories.group, "document": memories.document}


def memories_from_row(row: Row) -> PolicyMemories:
    return PolicyMemories(row["group_name"], row["document"])


def demand_to_row(minute: DemandMinute) -> Row:
    return {
        "group_name": minute.group,
        "minute_unix_ms": minute.minute_at,
        "demand": minute.demand,
        "in_service": minute.in_service,
    }


def demand_from_row(row: Row) -> DemandMinute:
    return DemandMinute(row["group_name"], row["minute_unix_ms"], row["demand"], row["in_service"])


def activity_to_row(activity: Activity) -> Row:
    return {
        "activity_id": activity.activity_id,
        "group_name": activity.group,
        "kind": activity.kind.value,
        "status": activity.status.value,
        "cause": activity.cause,
        "instance_count": activity.instance_count,
        "started_unix_ms": activity.started_at,
        "instance_ids": activity.instance_ids,
        "ended_unix_ms": activity.ended_at,
        "status_message": activity.status_message,
        "decision_id": activity.decision_id,
        "launch": None if activity.launch is None else launch_to_document(activity.launch),
        "details": activity.details,
        "acknowledged": activity.acknowledged,
    }


def activity_from_row(row: Row) -> Activity:
    return Activity(
        activity_id=row["activity_id"],
        group=row["group_name"],
        kind=ActivityKind(row["kind"]),
        status=ActivityStatus(row["status"]),
        cause=row["cause"],
        instance_count=row["instance_count"],
        started_at=row["started_unix_ms"],
        instance_ids=tuple(row["instance_ids"]),
        ended_at=row["ended_unix_ms"],
        status_message=row["status_message"],
        decision_id=row["decision_id"],
        launch=None if row["launch"] is None else launch_from_document(row["launch"]),
        details=row["details"],
        acknowledged=row["acknowledged"],
    )


def launch_to_document(launch: LaunchRequest) -> dict[str, Any]:
    """Exactly what EC2 was, or will be, told: a replay that differs in a letter is refused."""
    return {
        "client_token": launch.client_token,
        "group": launch.group,
        "launch_version": launch.launch_version,
        "count": launch.count,
        "image_id": launch.image_id,
        "instance_type": launch.instance_type,
        "subnet_id": launch.subnet_id,
        "zone": launch.zone,
        "security_groups": launch.security_groups,
        "key_pair": launch.key_pair,
        "instance_profile": launch.instance_profile,
        "disks": launch.disks,
        "tags": launch.tags,
        "user_data": launch.user_data,
        "metadata_tokens": launch.metadata_tokens,
        "spot": launch.spot,
    }


def launch_from_document(document: dict[str, Any]) -> LaunchRequest:
    return LaunchRequest(
        client_token=document["client_token"],
        group=document["group"],
        launch_version=document["launch_version"],
        count=document["count"],
        image_id=document["image_id"],
        instance_type=document["instance_type"],
        subnet_id=document["subnet_id"],
        zone=document["zone"],
        security_groups=tuple(document["security_groups"]),
        key_pair=document["key_pair"],
        instance_profile=document["instance_profile"],
        disks=tuple(
            (device, size_gib, kind, iops, throughput_mib, encrypted, deleted)
            for device, size_gib, kind, iops, throughput_mib, encrypted, deleted in document["disks"]
        ),
        tags=tuple((key, value) for key, value in document["tags"]),
        user_data=document["user_data"],
        metadata_tokens=document["metadata_tokens"],
        spot=document["spot"],
    )


def decision_to_row(decision: Decision) -> Row:
    """All but `decision_id`, which the store gives."""
    return {
        "group_name": decision.group,
        "first_unix_ms": decision.first_at,
        "last_unix_ms": decision.last_at,
        "desired_before": decision.desired_before,
        "desired_after": decision.desired_after,
        "votes": [
            {
                "policy": vote.policy,
                "capacity": vote.capacity,
                "reason": vote.reason,
                "victims": vote.victims,
                "consents": vote.consents,
                "observed": vote.observed,
            }
            for vote in decision.votes
        ],
        "steps": [
            {"name": step.name, "before": step.before, "after": step.after, "reason": step.reason}
            for step in decision.steps
        ],
        "actions": decision.actions,
        "summary": decision.summary,
        "count": decision.count,
    }


def decision_from_row(row: Row) -> Decision:
    return Decision(
        group=row["group_name"],
        first_at=row["first_unix_ms"],
        last_at=row["last_unix_ms"],
        desired_before=row["desired_before"],
        desired_after=row["desired_after"],
        votes=tuple(
            Vote(
                vote["policy"],
                vote["capacity"],
                vote["reason"],
                tuple(vote["victims"]),
                vote.get("consents", False),
                vote.get("observed", False),
            )
            for vote in row["votes"]
        ),
        steps=tuple(
            Step(step["name"], step["before"], step["after"], step["reason"]) for step in row["steps"]
        ),
        actions=tuple(row["actions"]),
        summary=row["summary"],
        count=row["count"],
        decision_id=row["decision_id"],
    )
