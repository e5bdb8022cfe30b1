"""Model values as messages of `asg.admin.v1`."""

import json
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.engine.controller import Applied, GroupStatus, InstanceStatus
from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.engine.refreshing import RefreshProgress
from controller_asg.model.activity import Activity
from controller_asg.model.decision import Decision
from controller_asg.model.errors import Fault
from controller_asg.model.group import Group, group_to_dict
from controller_asg.model.hold import Hold
from controller_asg.model.lifecycle_hook import OpenHook
from controller_asg.model.record import DemandMinute
from controller_asg.model.refresh import preferences_to_dict
from controller_asg.model.scaling_policy import Predictive
from controller_asg.model.scheduled_action import ScheduledAction
from controller_asg.planner.hooks import longest_seconds
from controller_asg.policy.forecast import STEP_SECONDS, Forecast
from controller_asg.policy.predictive import needed

UINT32_MAX = 2**32 - 1


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def fault_message(fault: Fault) -> pb.Fault:
    return pb.Fault(where=fault.where, what=fault.what, mend=fault.mend)


def group_message(status: GroupStatus) -> pb.Group:
    record, last = status.record, status.last_decision
    actions = {action.name: action for action in record.group.scheduled_actions}
    return pb.Group(
        name=record.group.name,
        version=record.version,
        launch_version=record.launch_version,
        document_json=json.dumps(group_to_dict(record.group)),
        min_size=record.min_size,
        max_size=record.max_size,
        desired_capacity=record.desired_capacity,
        instance_counts=status.instance_counts,
        conditions=[
            pb.Condition(kind=each.kind, message=each.message, since=timestamp(each.since_at))
            for each in status.conditions
        ],
        outdated_instance_ids=status.outdated_instance_ids,
        last_decision=last.summary if last else "",
        last_decision_at=timestamp(last.last_at if last else None),
        scheduled_in_force=[
            scheduled_message(done.at, actions[done.action])
            for done in sorted(record.scheduled, key=lambda done: done.at)
            if done.in_force
        ],
        next_scheduled=[scheduled_message(at, action) for at, action in status.next_times],
        hourly_cost=status.hourly_cost,
        max_hourly_cost=record.group.max_hourly_cost,
        suspended_processes=[
            pb.SuspendedProcess(process=process, hold=hold_message(hold))
            for process, hold in record.suspended
        ],
    )


def hold_message(hold: Hold) -> pb.Hold:
    return pb.Hold(
        owner=hold.owner,
        reason=hold.reason,
        since=timestamp(hold.since_at),
        until=timestamp(hold.until_at),
        everywhere=hold.everywhere,
    )


def scheduled_message(at: datetime, action: ScheduledAction) -> pb.ScheduledTime:
    return pb.ScheduledTime(
        action=action.name,
        at=timestamp(at),
        until=timestamp(action.until(at)),
        min_size=action.min_size,
        max_size=action.max_size,
        desired_capacity=action.desired_capacity,
        time_zone=action.time_zone,
    )


def instance_message(status: InstanceStatus) -> pb.Instance:
    instance, agent, cloud = status.instance, status.agent, status.cloud
    return pb.Instance(
        instance_id=instance.instance_id,
        group=instance.group,
        lifecycle_state=instance.state,
        health=status.health,
        health_reason=status.health_reason,
        zone=instance.zone or (cloud.zone if cloud else ""),
        instance_type=instance.instance_type or (cloud.instance_type if cloud else ""),
        private_ip=instance.private_ip or (cloud.private_ip if cloud else ""),
        launch_version=instance.launch_version,
        outdated=status.outdated,
        protected_from_scale_in=instance.protected_from_scale_in,
        launched_at=timestamp(instance.launched_at),
        in_service_at=timestamp(instance.in_service_at),
        metrics=agent.metrics if agent else {},
        silent_seconds=agent.silent_seconds if agent else None,
        ec2_state=cloud.state if cloud else "",
        activity_id=instance.activity_id,
        busy=busy_messages(status),
        leaving=instance.leaving or "",
        lifecycle_actions=map(action_message, instance.hooks),
        market=instance.market,
        protection=hold_message(status.protection) if status.protection else None,
    )


def busy_messages(status: InstanceStatus) -> list[pb.BusyLease]:
    agent = status.agent
    if agent is None or not agent.leases:
        return []
    return [
        pb.BusyLease(
            owner=lease.owner,
            reason=lease.reason,
            until=None
            if lease.ends_at is None
            else timestamp(status.as_of + timedelta(seconds=lease.ends_at - agent.as_of)),
            protect_from_scale_in=lease.protect_from_scale_in,
        )
        for lease in agent.leases
    ]


def action_message(hook: OpenHook) -> pb.LifecycleAction:
    limit = timedelta(seconds=longest_seconds(hook))
    timeout = timedelta(seconds=hook.heartbeat_timeout_seconds)
    return pb.LifecycleAction(
        lifecycle_hook_name=hook.name,
        lifecycle_action_token=hook.token,
        transition=hook.transition,
        opened_at=timestamp(hook.opened_at),
        until=timestamp(min(hook.opened_at + limit, hook.heartbeat_at + timeout)),
        lifecycle_action_result=hook.result,
        ended=hook.ended,
        command=hook.command,
        notification_metadata=hook.notification_metadata,
    )


def action_meant(
    request: pb.CompleteLifecycleActionRequest | pb.RecordLifecycleActionHeartbeatRequest,
) -> LifecycleAction:
    return LifecycleAction(request.instance_id, request.lifecycle_hook_name, request.lifecycle_action_token)


def activity_message(activity: Activity) -> pb.Activity:
    return pb.Activity(
        activity_id=activity.activity_id,
        group=activity.group,
        kind=activity.kind,
        status=activity.status,
        cause=activity.cause,
        status_message=activity.status_message,
        instance_count=activity.instance_count,
        instance_ids=activity.instance_ids,
        started_at=timestamp(activity.started_at),
        ended_at=timestamp(activity.ended_at),
        decision_id=activity.decision_id or 0,
        details=activity.details,
    )


def decision_message(decision: Decision) -> pb.Decision:
    return pb.Decision(
        decision_id=decision.decision_id,
        group=decision.group,
        first_at=timestamp(decision.first_at),
        last_at=timestamp(decision.last_at),
        count=decision.count,
        desired_before=decision.desired_before,
        desired_after=decision.desired_after,
        votes=[
            pb.Vote(
                policy=v.policy,
                capacity=None if v.capacity is None else _wish(v.capacity),
                reason=v.reason,
                observed=v.observed,
            )
            for v in decision.votes
        ],
        steps=[
            pb.Step(name=s.name, before=_wish(s.before), after=_wish(s.after), reason=s.reason)
            for s in decision.steps
        ],
        actions=decision.actions,
        summary=decision.summary,
    )


def _wish(capacity: int) -> int:
    """A wish may be below zero, or beyond what the wire has numbers for, before a bound moves it."""
    return min(max(capacity, 0), UINT32_MAX)


def demand_message(minute: DemandMinute) -> pb.DemandMinute:
    return pb.DemandMinute(
        minute=timestamp(minute.minute_at), demand=minute.demand, in_service=minute.in_service
    )


def refresh_message(progress: RefreshProgress) -> pb.InstanceRefresh:
    refresh = progress.refresh
    return pb.InstanceRefresh(
        instance_refresh_id=refresh.refresh_id,
        group=progress.group,
        status=refresh.status,
        status_reason=refresh.status_reason,
        started_at=timestamp(refresh.started_at),
        ended_at=timestamp(refresh.ended_at),
        percentage_complete=refresh.percentage_complete,
        instances_to_update=refresh.to_update,
        paused=refresh.paused,
        checkpoint=refresh.checkpoint,
        launch_version=refresh.version,
        image_id=progress.image_id,
        preferences_json=json.dumps(preferences_to_dict(refresh.preferences)),
        instances=[
            pb.RefreshedInstance(
                instance_id=instance.instance_id,
                lifecycle_state=instance.state,
                launch_version=instance.launch_version,
                progress=how_far,
            )
            for instance, how_far in progress.instances
        ],
        actor=refresh.actor,
    )


def forecast_message(forecast: Forecast | None, group: Group) -> pb.GetForecastResponse:
    if forecast is None:
        return pb.GetForecastResponse()
    policies = [each for each in group.policies if isinstance(each, Predictive) and each.enabled]
    return pb.GetForecastResponse(
        steps=[
            pb.ForecastStep(
                at=timestamp(datetime.fromtimestamp(forecast.begins_at + index * STEP_SECONDS, UTC)),
                demand=demand,
                capacity=max((needed(policy, demand) for policy in policies), default=None),
            )
            for index, demand in enumerate(forecast.demands)
        ],
        basis=forecast.basis,
        error_ratio=forecast.error,
    )


def applied_message(applied: Applied, yesterday: pb.Yesterday | None) -> pb.AppliedGroup:
    return pb.AppliedGroup(
        name=applied.name,
        changed=applied.changed,
        before_json="" if applied.before is None else json.dumps(applied.before),
        after_json="" if applied.after is None else json.dumps(applied.after),
        version=applied.version,
        outdated_instance_ids=applied.outdated_instance_ids,
        yesterday=yesterday,
    )
