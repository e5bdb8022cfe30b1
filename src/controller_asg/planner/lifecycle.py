"""How an instance comes into the group, into service, and out: every rule is over (state, facts, time)."""

from dataclasses import replace

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.errors import CapacityError, RejectedError, UncertainError
from controller_asg.model.hold import Process
from controller_asg.model.instance import (
    ADOPTED,
    APART_STATES,
    LEAVING_STATES,
    PENDING_STATES,
    CloudInstance,
    Ec2State,
    Instance,
    Leaving,
    LifecycleState,
)
from controller_asg.model.lifecycle_hook import Transition
from controller_asg.planner import backoff, hooks, launches, leaving, membership, suspension
from controller_asg.planner.draft import Draft
from controller_asg.planner.health import HEALTHY, MASS_SILENCE_MINIMUM, MISSING_SECONDS, is_stopped, judge
from controller_asg.planner.plan import TerminationPlan
from controller_asg.planner.snapshot import Bootstrapped, Member, Outcome

# EC2 answers TerminateInstances within seconds; an instance that still runs after so long is asked for again.
TERMINATE_AGAIN_SECONDS = 120.0

DETAILS_LIMIT_CHARACTERS = 16_000

_AT_HOOKS = frozenset({LifecycleState.PENDING_WAIT, LifecycleState.PENDING_PROCEED})
_NOT_JUDGED = LEAVING_STATES | APART_STATES
_ADOPTABLE = frozenset({Ec2State.PENDING, Ec2State.RUNNING, Ec2State.STOPPING, Ec2State.STOPPED})


def take_facts(draft: Draft) -> None:
    """What the calls and role runs that ended since the last pass have brought."""
    for fact in draft.snapshot.facts:
        match fact:
            case Outcome():
                activity = draft.activities.get(fact.activity_id)
                if activity is None:
                    continue
                if activity.kind is ActivityKind.DETACH:
                    membership.detach_ended(draft, activity, fact)
                elif activity.kind is ActivityKind.ATTACH and fact.error is not None:
                    membership.attach_failed(draft, activity, fact)
                elif activity.kind in (ActivityKind.LAUNCH, ActivityKind.ATTACH):
                    _launch_ended(draft, activity, fact)
                else:
                    _termination_ended(draft, activity, fact)
            case Bootstrapped():
                member = draft.members.get(fact.instance_id)
                if member is None or member.instance.state not in PENDING_STATES:
                    continue
                if fact.output:
                    _keep(draft, member.instance, f"{fact.instance_id}:\n{fact.output}")
                if fact.error:
                    _give_up(draft, member.instance, f"bootstrap by the role failed: {fact.error}")
                else:
                    draft.put(replace(member.instance, bootstrapped_at=draft.now))


def _keep(draft: Draft, instance: Instance, said: str) -> None:
    """What the machine said, with its launch."""
    launch = draft.activities.get(instance.activity_id)
    if launch is not None:
        details = f"{launch.details}\n{said}"
        draft.update(replace(launch, details=details[-DETAILS_LIMIT_CHARACTERS:]))


def _launch_ended(draft: Draft, activity: Activity, outcome: Outcome) -> None:
    if outcome.error is not None:
        offering = activity.launch.offering if activity.launch else None
        where = f" of {offering}" if isinstance(outcome.error, CapacityError) and offering else ""
        draft.record = backoff.launch_failed(draft.record, offering, outcome.error, draft.now)
        good = launches.fall_back(draft.record)
        of_good = good and activity.launch and activity.launch.launch_version == good.version
        if of_good and isinstance(outcome.error, RejectedError):
            draft.record = launches.forget_good(draft.record)
        message = f"launch{where} failed: {outcome.error}"
        if isinstance(outcome.error, UncertainError):
            message += "; instances of it that exist will be adopted"
        draft.end(activity, ActivityStatus.FAILED, message)
        return
    for cloud in outcome.instances:
        if cloud.instance_id not in draft.members:
            new = _new_instance(draft, cloud, "")
            if activity.kind is ActivityKind.ATTACH:
                new = replace(new, reason=activity.cause, bootstrapped_at=draft.now)
            draft.put(new)
    ids = tuple(cloud.instance_id for cloud in outcome.instances)
    draft.update(replace(activity, acknowledged=True, instance_ids=ids))


def _termination_ended(draft: Draft, activity: Activity, outcome: Outcome) -> None:
    details = outcome.details or activity.details
    if outcome.error is not None:
        draft.end(replace(activity, details=details), ActivityStatus.FAILED, str(outcome.error))
    else:
        draft.update(replace(activity, acknowledged=True, details=details))


def _new_instance(draft: Draft, cloud: CloudInstance, reason: str) -> Instance:
    launch = draft.activities.get(cloud.activity_id)
    return Instance(
        instance_id=cloud.instance_id,
        group=draft.group.name,
        state=LifecycleState.PENDING,
        state_since_at=draft.now,
        launched_at=cloud.launched_at,
        activity_id=cloud.activity_id,
        launch_version=cloud.launch_version,
        zone=cloud.zone,
        instance_type=cloud.instance_type,
        private_ip=cloud.private_ip,
        market=launch.launch.offering.market if launch and launch.launch else cloud.market,
        reason=reason,
    )


def mend_times(draft: Draft) -> None:
    """A clock that was set back leaves times in the future. They count from now, else a minute would last for hours."""
    now = draft.now
    for member in draft.snapshot.members:
        instance = member.instance
        if instance.state_since_at <= now:
            continue  # it came into service before that
        served = instance.in_service_at
        in_service_at = served and min(served, now)
        draft.put(replace(instance, state_since_at=now, in_service_at=in_service_at))
    if any(change.at > now for change in draft.record.last_changes):
        mended = tuple(replace(change, at=min(change.at, now)) for change in draft.record.last_changes)
        draft.record = replace(draft.record, last_changes=mended)
    draft.record = backoff.mend_times(draft.record, now)


def adopt(draft: Draft) -> None:
    """Instances that carry the group's tag and are in no record become members: the store may have been lost."""
    for cloud in draft.snapshot.strangers:
        if cloud.instance_id not in draft.members and cloud.state in _ADOPTABLE:
            ours = draft.activities.get(cloud.activity_id)
            if ours is not None and ours.kind is ActivityKind.ATTACH and not ours.acknowledged:
                continue  # its call's end makes it a member
            draft.put(_new_instance(draft, cloud, "" if ours else ADOPTED), cloud)


def advance(draft: Draft) -> None:
    """Each member one step further, as far as the facts allow."""
    applied = draft.record.launch_version
    leaving.advance(draft, draft.waiting())
    _hold_unheard(draft)
    for member in list(draft.members.values()):
        instance, agent = member.instance, member.agent
        if instance.state in _NOT_JUDGED:
            if instance.state not in LEAVING_STATES:
                membership.stay_apart(draft, member)
            elif instance.state is not LifecycleState.TERMINATING_WAIT:
                _leave(draft, member)
            continue
        if instance.launch_version != applied:
            draft.outdated.append(instance.instance_id)
        if agent is not None and agent.unregister_requested:
            draft.wants_out.append(instance.instance_id)
        verdict = judge(member, draft.snapshot)
        if instance.state in _AT_HOOKS and not (verdict.confirmed or verdict.told):
            verdict = HEALTHY  # a hook may reboot the machine; its own limit ends it
        if verdict is not HEALTHY:
            if not verdict.confirmed or is_stopped(member):  # else it is not ill but gone
                verdict = suspension.judged(draft, instance.instance_id, verdict)
            draft.verdicts[instance.instance_id] = verdict
            if verdict.confirmed:
                _dead(draft, member, verdict.reason)
                continue
        if member.cloud is not None and member.cloud.private_ip != instance.private_ip:
            instance = replace(instance, private_ip=member.cloud.private_ip)
            draft.put(instance)
        if instance.state in PENDING_STATES:
            _come_up(draft, member, instance)


def _come_up(draft: Draft, member: Member, instance: Instance) -> None:
    """In service at the agent's first good sample, and after its hooks; given up when that takes too long."""
    if instance.state is LifecycleState.PENDING_WAIT:
        _at_hooks(draft, draft.members[instance.instance_id])
        return
    agent, group = member.agent, draft.group
    good = draft.record.launch_memory.good
    of_good = good is not None and good.version == instance.launch_version
    bootstrap = good.bootstrap if good is not None and of_good else group.bootstrap
    waits_for_role = bootstrap == "role" and instance.bootstrapped_at is None
    speaks = (
        agent is not None
        and bool(agent.samples)
        and agent.silent_seconds is not None
        and agent.silent_seconds < draft.snapshot.silence_seconds
    )
    # An adopted instance whose agent already speaks has its bootstrap behind it.
    adopted = instance.activity_id not in draft.activities
    if speaks and (not waits_for_role or adopted):
        if instance.state is LifecycleState.PENDING and instance.is_new:
            instance = hooks.opened(draft, instance, Transition.LAUNCH)
            if instance.hooks:
                draft.move(instance, LifecycleState.PENDING_WAIT)
                hooks.step(draft, draft.members[instance.instance_id])
                return
        if instance.in_service_at is None and group.new_instances_protected_from_scale_in:
            instance = replace(instance, protected_from_scale_in=True)
        draft.move(instance, LifecycleState.IN_SERVICE)
        draft.record = launches.succeeded(
            backoff.succeeded(draft.record, instance.offering), instance.launch_version
        )
        return
    waited = draft.watched_seconds(instance.state_since_at)
    if waited >= group.registration_timeout_seconds:
        if not (instance.adopted and draft.unheard_held):
            reason = f"its agent did not register within {group.registration_timeout_seconds:g} s"
            _give_up(draft, instance, reason)
    elif waits_for_role and member.cloud is not None and member.cloud.state is Ec2State.RUNNING:
        draft.bootstraps.append(instance.instance_id)


def _hold_unheard(draft: Draft) -> None:
    """A group that was adopted and of which none is heard is a fault of ours, as with those that fall silent."""
    adopted = sum(member.instance.adopted for member in draft.pending())
    if adopted < MASS_SILENCE_MINIMUM:
        return
    live = draft.live()
    if not any(member.agent is not None and member.agent.samples for member in live):
        draft.unheard_held = True
        reason = f"{adopted} were adopted and none of {len(live)} is heard: none is given up for that"
        draft.conditions.append(("MassSilence", reason))


def _at_hooks(draft: Draft, member: Member) -> None:
    """On when all are completed; the first that is abandoned ends the launch."""
    instance = hooks.step(draft, member)
    abandoned = hooks.abandoned(instance)
    if abandoned is None and hooks.open_of(instance):
        return
    if abandoned is not None:
        reason = f"lifecycle hook {abandoned.name} was abandoned: {abandoned.ended}"
        if draft.held(f"terminate {instance.instance_id}: {reason}", Process.TERMINATE):
            return  # its hooks stay as they ended
    _keep(draft, instance, hooks.told(instance))
    instance = replace(instance, hooks=())
    if abandoned is None:
        draft.move(instance, LifecycleState.PENDING_PROCEED)
    else:
        draft.put(instance)
        _give_up(draft, instance, reason)


def _give_up(draft: Draft, instance: Instance, reason: str) -> None:
    """A launch that came to nothing. It counts as a failure, so that a broken image doesn't burn money."""
    if instance.attached:
        membership.send_back(draft, instance, reason)
        return
    if draft.held(f"terminate {instance.instance_id}: {reason}", Process.TERMINATE):
        return
    _count_failure(draft, instance, reason)
    draft.terminate((instance.instance_id,), reason, keep_console=True, at_once=True)


def _count_failure(draft: Draft, instance: Instance, reason: str) -> None:
    """Against its template; against the group only where there is no better template to launch from.

    One that came back from standby says nothing of a template.
    """
    if instance.in_service_at is not None or instance.attached:
        return
    draft.record = launches.failed(draft.record, instance.launch_version)
    if launches.counts_for_group(draft.record, instance.launch_version):
        draft.record = backoff.failed(draft.record, None, f"{instance.instance_id}: {reason}", draft.now)


def _dead(draft: Draft, member: Member, reason: str) -> None:
    instance = member.instance
    stopped = is_stopped(member)
    if stopped and instance.attached:
        membership.send_back(draft, instance, reason)
        return
    if stopped and draft.held(
        f"terminate {instance.instance_id}: {reason}",
        Process.HEALTH_CHECK,
        Process.REPLACE_UNHEALTHY,
        Process.TERMINATE,
        Process.LAUNCH,
    ):
        return
    if instance.state in PENDING_STATES:
        _count_failure(draft, instance, reason)
    draft.lost.append((instance.instance_id, reason))
    if stopped:
        draft.terminate((instance.instance_id,), reason, leaving=Leaving.UNHEALTHY, at_once=True)
    else:
        draft.forget(instance.instance_id)


def _leave(draft: Draft, member: Member) -> None:
    """Forget it once EC2 says that it is gone; ask again when EC2 doesn't seem to have heard."""
    instance, cloud = member.instance, member.cloud
    missing = member.missing_seconds
    if (cloud is not None and cloud.state is Ec2State.TERMINATED) or (
        cloud is None and missing is not None and missing >= MISSING_SECONDS
    ):
        draft.forget(instance.instance_id)
        return
    covering = [
        a
        for a in draft.activities.values()
        if a.kind is ActivityKind.TERMINATE
        and a.status is ActivityStatus.IN_PROGRESS
        and instance.instance_id in a.instance_ids
    ]
    waited = draft.watched_seconds(instance.state_since_at)
    if waited < TERMINATE_AGAIN_SECONDS or (cloud is not None and cloud.state is Ec2State.SHUTTING_DOWN):
        return
    if draft.record.suspension(Process.TERMINATE) is not None:
        return
    for activity in covering:
        if not activity.acknowledged:
            return  # its call is still being made
        draft.end(activity, ActivityStatus.FAILED, f"still not terminating after {waited:.0f} s")
    draft.put(replace(instance, state_since_at=draft.now))
    draft.terminations.append(TerminationPlan((instance.instance_id,), instance.reason or "terminate again"))


def end_activities(draft: Draft) -> None:
    """A launch ends when none of its instances is on its way in; a termination or detachment when all are gone."""
    for activity in list(draft.activities.values()):
        if activity.status is not ActivityStatus.IN_PROGRESS or not activity.acknowledged:
            continue
        here = [draft.members[i].instance for i in activity.instance_ids if i in draft.members]
        if activity.kind in (ActivityKind.TERMINATE, ActivityKind.DETACH):
            if not here:
                draft.end(activity, ActivityStatus.SUCCESSFUL)
            continue
        if any(instance.state in PENDING_STATES for instance in here):
            continue
        arrived = sum(instance.in_service_at is not None for instance in here)
        if arrived:
            fewer = f"{arrived} of {activity.instance_count} came into service"
            draft.end(
                activity, ActivityStatus.SUCCESSFUL, "" if arrived == activity.instance_count else fewer
            )
        else:
            reasons = sorted({instance.reason for instance in here if instance.reason})
            draft.end(activity, ActivityStatus.FAILED, "; ".join(reasons) or "no instance came into service")
