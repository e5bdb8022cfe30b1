"""Lifecycle hooks: how they are opened, carried out by the agent, completed by others, and given up on.

All hooks of a transition are open at the same time, in no order, as in EC2. Every rule is over an instance that waits,
so groups without hooks pay nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from controller_asg.model.agent_order import RunHook
from controller_asg.model.instance import AgentView, CommandEnd, Instance
from controller_asg.model.lifecycle_hook import ActionResult, OpenHook, Transition
from controller_asg.planner.snapshot import CompleteAction, Member, RecordHeartbeat

if TYPE_CHECKING:
    from controller_asg.planner.draft import Draft

# 48 hours or 100 times the heartbeat timeout, whichever is smaller (EC2 Auto Scaling User Guide, "Considerations and
# limitations for lifecycle hooks").
LONGEST_SECONDS = 48 * 3600.0
LONGEST_HEARTBEATS = 100
LAST_CHANCE_SECONDS = 60.0
# An order to an agent whose effect is not seen is given again so often.
REPEAT_SECONDS = 5.0
OUTPUT_LIMIT_CHARACTERS = 4_096
_TOKENS = uuid.UUID("6b0e3c5e-6f0c-4c0a-9f0e-1a6a0d6f3b57")  # ours; any constant does


def opened(draft: Draft, instance: Instance, transition: Transition, reachable: bool = True) -> Instance:
    """With the group's hooks of that transition; without those of a command where its agent is not `reachable`."""
    now, instance_id = draft.now, instance.instance_id
    hooks = tuple(
        OpenHook(
            name=hook.name,
            token=str(uuid.uuid5(_TOKENS, f"{instance_id} {transition} {hook.name} {now.isoformat()}")),
            transition=transition,
            opened_at=now,
            heartbeat_at=now,
            heartbeat_timeout_seconds=hook.heartbeat_timeout_seconds,
            default_result=hook.default_result,
            command=hook.command,
            notification_metadata=hook.notification_metadata,
        )
        for hook in draft.group.lifecycle_hooks
        if hook.transition == transition and (reachable or not hook.command)
    )
    if hooks:
        draft.waits.append(f"open {', '.join(hook.name for hook in hooks)} of {instance_id}")
    return replace(instance, hooks=hooks)


def step(draft: Draft, member: Member) -> Instance:
    """Its hooks one step further: what the agent told, what is overdue, what the agent is to be asked again."""
    instance = member.instance
    hooks = tuple(
        hook if hook.result else _step(draft, instance.instance_id, _mended(hook, draft.now), member.agent)
        for hook in instance.hooks
    )
    if hooks != instance.hooks:
        instance = replace(instance, hooks=hooks)
        draft.put(instance)
    return instance


def _step(draft: Draft, instance_id: str, hook: OpenHook, agent: AgentView | None) -> OpenHook:
    told = agent.hooks if agent is not None else {}
    end = told.get(hook.token)
    if end is not None:
        return _ended_by(draft, instance_id, hook, end)
    if draft.watched_seconds(hook.heartbeat_at) >= hook.heartbeat_timeout_seconds:
        ended = f"no result within {hook.heartbeat_timeout_seconds:g} s"
        return _end(draft, instance_id, hook, hook.default_result, ended)
    # By the clock: what was watched before a restart is not known any more. But not before somebody may have answered.
    longest, watched = longest_seconds(hook), draft.watched_seconds(hook.opened_at)
    if (draft.now - hook.opened_at).total_seconds() >= longest and watched >= LAST_CHANCE_SECONDS:
        return _end(draft, instance_id, hook, hook.default_result, f"still open after {longest:g} s")
    if hook.command and hook.token not in told and due(hook.ordered_at, draft.now):
        left = hook.heartbeat_timeout_seconds - draft.watched_seconds(hook.heartbeat_at)
        return _ordered(draft, instance_id, hook, left)
    return hook


def _ordered(draft: Draft, instance_id: str, hook: OpenHook, left_seconds: float) -> OpenHook:
    order = RunHook(
        hook.token, hook.command, left_seconds, hook.transition, hook.name, hook.notification_metadata
    )
    draft.agent_orders.append((instance_id, order))
    return replace(hook, ordered_at=draft.now)


def _ended_by(draft: Draft, instance_id: str, hook: OpenHook, end: CommandEnd) -> OpenHook:
    hook = replace(hook, output=end.output[-OUTPUT_LIMIT_CHARACTERS:])
    if end.exit_code is None:
        return _end(draft, instance_id, hook, hook.default_result, "killed at its limit")
    result = ActionResult.CONTINUE if end.exit_code == 0 else ActionResult.ABANDON
    return _end(draft, instance_id, hook, result, f"exit code {end.exit_code}")


def _end(draft: Draft, instance_id: str, hook: OpenHook, result: str, ended: str) -> OpenHook:
    draft.waits.append(f"{result} {hook.name} of {instance_id}: {ended}")
    return replace(hook, result=result, ended=ended)


def take(draft: Draft, order: CompleteAction | RecordHeartbeat) -> None:
    """What somebody says of an open hook. One that ended meanwhile is left alone."""
    member = draft.members.get(order.instance_id)
    if member is None:
        return
    instance = member.instance
    hooks = []
    for hook in instance.hooks:
        if hook.token == order.token and not hook.result:
            match order:
                case CompleteAction():
                    hook = _end(draft, instance.instance_id, hook, order.result, f"by {order.actor}")
                case RecordHeartbeat():
                    hook = replace(hook, heartbeat_at=draft.now)
                    if hook.command:  # the agent ends it by the same limit
                        hook = _ordered(draft, instance.instance_id, hook, hook.heartbeat_timeout_seconds)
        hooks.append(hook)
    draft.put(replace(instance, hooks=tuple(hooks)))


def open_of(instance: Instance) -> tuple[OpenHook, ...]:
    return tuple(hook for hook in instance.hooks if not hook.result)


def abandoned(instance: Instance) -> OpenHook | None:
    """The first that ended with ABANDON."""
    return next((hook for hook in instance.hooks if hook.result == ActionResult.ABANDON), None)


def told(instance: Instance) -> str:
    """How its hooks ended and what their commands printed; "" where it has none."""
    return "\n".join(
        f"{instance.instance_id}: lifecycle hook {hook.name}: {hook.result or 'left out'}"
        + (f" ({hook.ended})" if hook.ended else "")
        + (f"\n{hook.output}" if hook.output else "")
        for hook in instance.hooks
    )


def longest_seconds(hook: OpenHook) -> float:
    return min(LONGEST_SECONDS, LONGEST_HEARTBEATS * hook.heartbeat_timeout_seconds)


def due(ordered_at: datetime | None, now: datetime) -> bool:
    """An order is to be given, for the first time or again; a time in the future is a clock's that was set back."""
    return ordered_at is None or not 0 <= (now - ordered_at).total_seconds() < REPEAT_SECONDS


def _mended(hook: OpenHook, now: datetime) -> OpenHook:
    """A clock that was set back leaves times in the future; they count from now."""
    if hook.heartbeat_at <= now:
        return hook  # it was opened before that
    return replace(hook, opened_at=min(hook.opened_at, now), heartbeat_at=now)
