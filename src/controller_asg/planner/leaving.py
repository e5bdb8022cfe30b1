"""How an instance leaves that has something to wait for: its work, its agent's drain command, its lifecycle hooks.

`Draft.terminate` asks `begin`, so every termination of ours comes through here. In Terminating:Wait an instance is
drained first, then its hooks are opened; whatever it waits for has a limit. One that left by scaling in is taken back
before anything is launched in its place, until its hooks are opened.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from controller_asg.model.agent_order import Drain, Resume
from controller_asg.model.hold import Process
from controller_asg.model.instance import Instance, Leaving, LifecycleState
from controller_asg.model.lifecycle_hook import Transition
from controller_asg.planner import hooks, leases
from controller_asg.planner.health import HEALTHY, IMPAIRED, Health, Verdict, is_stopped, judge
from controller_asg.planner.plan import TerminationPlan
from controller_asg.planner.snapshot import Member

if TYPE_CHECKING:
    from controller_asg.planner.draft import Draft

# An idle instance whose agent says nothing to the order to drain goes after so long in session: an agent tells at once
# that it drains, or that it has no command.
ANSWER_SECONDS = 10.0
# One that is silent for so long, and that EC2's status checks call dead too, is waited for no longer.
DEAD_SECONDS = 60.0
SHOWN = 5  # of those that wait, in the condition


def waits(draft: Draft, member: Member) -> bool:
    """Whether it has something to wait for before it may go: its work, its agent's answer, or a hook."""
    verdict = draft.verdict(member)
    if verdict.confirmed or (member.instance.is_new and not leases.busy(member)):
        return False
    silent = _silent(verdict)
    return _drains(draft, member) or any(
        hook.transition == "terminate" and not (silent and hook.command)
        for hook in draft.group.lifecycle_hooks
    )


def begin(draft: Draft, instance_id: str, cause: str, leaving: Leaving) -> bool:
    """Into Terminating:Wait where there is something to wait for. False: it goes at once."""
    member = draft.members[instance_id]
    if not waits(draft, member):
        return False
    instance = replace(member.instance, leaving=leaving, drain_ordered_at=None)
    if _drains(draft, member):
        draft.waits.append(f"drain {instance_id}: {cause}")
        instance = _ordered(draft, instance, cause, draft.group.drain_timeout_seconds)
    else:
        reachable = not _silent(draft.verdict(member))
        instance = hooks.opened(draft, instance, Transition.TERMINATE, reachable=reachable)
    draft.move(instance, LifecycleState.TERMINATING_WAIT, cause)
    hooks.step(draft, draft.members[instance_id])
    return True


def _silent(verdict: Verdict) -> bool:
    return verdict.health is Health.UNHEALTHY and not verdict.told


def _drains(draft: Draft, member: Member) -> bool:
    if draft.group.drain_timeout_seconds <= 0 or _silent(draft.verdict(member)):
        return False
    # One whose agent asked to leave is not asked again.
    asked = draft.group.drain and member.agent is not None and not member.agent.unregister_requested
    return asked or leases.busy(member)


def advance(draft: Draft, waiting: list[Member]) -> None:
    """Those in Terminating:Wait one step further; the ones that are through are terminated, by one call a cause."""
    through: defaultdict[str, list[str]] = defaultdict(list)
    for member in waiting:
        instance = member.instance
        verdict = judge(member, draft.snapshot)
        if verdict.confirmed:
            if not is_stopped(member):
                draft.forget(instance.instance_id)
                continue
        elif not _is_through(draft, member, verdict):
            continue
        through[instance.reason].append(instance.instance_id)
    for cause, instance_ids in through.items():
        if draft.held(f"terminate {', '.join(instance_ids)}: {cause}", Process.TERMINATE):
            continue
        members = [draft.members[instance_id] for instance_id in instance_ids]
        details = "\n".join(filter(None, map(_told, members)))
        for member in members:
            gone = replace(member.instance, drain_ordered_at=None, hooks=())
            draft.move(gone, LifecycleState.TERMINATING_PROCEED)
        draft.terminations.append(TerminationPlan(tuple(instance_ids), cause, details=details))


def _is_through(draft: Draft, member: Member, verdict: Verdict) -> bool:
    instance = member.instance
    dead = _is_dead(member, verdict)
    if instance.drain_ordered_at is not None:
        ended = f"it died: {verdict.reason}" if dead else _drain_end(draft, member)
        if ended is None:
            return False
        draft.waits.append(f"drained {instance.instance_id}: {ended}")
        instance = replace(instance, drain_ordered_at=None)
        draft.put(hooks.opened(draft, instance, Transition.TERMINATE, reachable=not dead))
    instance = hooks.step(draft, draft.members[instance.instance_id])
    if hooks.open_of(instance) and hooks.abandoned(instance) is None:
        return False
    # What began while hooks were open is waited for too.
    waited = draft.watched_seconds(instance.state_since_at)
    return dead or not leases.busy(member) or waited >= draft.group.drain_timeout_seconds


def _is_dead(member: Member, verdict: Verdict) -> bool:
    """While many are silent the fault may be ours, so EC2's own word is wanted as well, and some patience."""
    if not _silent(verdict) or member.cloud is None or member.cloud.status is not IMPAIRED:
        return False
    silent = member.agent.silent_seconds if member.agent is not None else None
    return silent is not None and silent >= DEAD_SECONDS


def _drain_end(draft: Draft, member: Member) -> str | None:
    """How its drain has ended; None while it is waited for. The order is given again while it is not answered."""
    instance, agent = member.instance, member.agent
    limit_seconds = draft.group.drain_timeout_seconds
    waited = draft.watched_seconds(instance.state_since_at)
    if waited >= limit_seconds:
        return f"not within {limit_seconds:g} s"
    drained = agent.drained if agent is not None else None
    answered = drained is not None or (agent is not None and agent.draining)
    if not answered and hooks.due(instance.drain_ordered_at, draft.now):
        draft.put(_ordered(draft, instance, instance.reason, limit_seconds - waited))
    if leases.busy(member):
        return None
    if drained is not None:
        return "killed at its limit" if drained.exit_code is None else f"exit code {drained.exit_code}"
    in_session = agent.in_session_seconds if agent is not None else None
    if answered or in_session is None or min(waited, in_session) < ANSWER_SECONDS:
        return None
    return f"no answer within {ANSWER_SECONDS:g} s"


def _ordered(draft: Draft, instance: Instance, cause: str, left_seconds: float) -> Instance:
    draft.agent_orders.append((instance.instance_id, Drain(left_seconds, cause)))
    return replace(instance, drain_ordered_at=draft.now)


def take_back(draft: Draft, need: int) -> list[Member]:
    """Up to `need` of those that leave by scaling in serve again, the last that left first."""
    able = sorted(
        (member for member in draft.waiting() if _may_come_back(draft, member)),
        key=lambda m: (m.instance.state_since_at, m.instance.instance_id),
        reverse=True,
    )
    back = []
    for member in able[:need]:
        instance = replace(
            member.instance,
            state=LifecycleState.IN_SERVICE,
            state_since_at=draft.now,
            reason="",
            leaving=None,
            drain_ordered_at=draft.now,
            hooks=(),
        )
        draft.put(instance)
        reason = f"capacity is wanted again: {draft.record.desired_capacity}"
        draft.agent_orders.append((instance.instance_id, Resume(reason)))
        draft.waits.append(f"take back {instance.instance_id}: {reason}")
        back.append(draft.members[instance.instance_id])
    return back


def _may_come_back(draft: Draft, member: Member) -> bool:
    instance, agent = member.instance, member.agent
    return (
        instance.leaving is Leaving.SCALE_IN
        and not instance.hooks  # whoever heard of one may have begun
        and agent is not None
        and agent.silent_seconds is not None
        and agent.silent_seconds < draft.snapshot.silence_seconds
        and judge(member, draft.snapshot) is HEALTHY
    )


def resume_again(draft: Draft) -> None:
    """Who was taken back and still says that it drains, or is drained, has not heard of it."""
    draft.agent_orders += [
        (member.instance.instance_id, Resume("it serves"))
        for member in draft.serving()
        if member.instance.drain_ordered_at is not None
        and member.agent is not None
        and (member.agent.draining or member.agent.drained is not None)
    ]


def note(draft: Draft) -> None:
    """The condition that says who waits for what."""
    waiting = draft.waiting()
    said = [_said(draft, member.instance) for member in waiting[:SHOWN]]
    if len(waiting) > SHOWN:
        said.append(f"{len(waiting) - SHOWN} more")
    if said:
        draft.conditions.append(("TerminatingWait", "; ".join(said)))


def _said(draft: Draft, instance: Instance) -> str:
    instance_id = instance.instance_id
    if instance.drain_ordered_at is not None:
        until_at = instance.state_since_at + timedelta(seconds=draft.group.drain_timeout_seconds)
        return f"{instance_id} drains until {until_at:%H:%M:%SZ} at the latest ({instance.reason})"
    names = ", ".join(hook.name for hook in hooks.open_of(instance))
    return f"{instance_id} waits for {names or 'its work, or Terminate to be resumed'} ({instance.reason})"


def _told(member: Member) -> str:
    drained = member.agent.drained if member.agent is not None else None
    output = f"{member.instance.instance_id}: drain:\n{drained.output}" if drained and drained.output else ""
    return "\n".join(filter(None, (output, hooks.told(member.instance))))
