"""EC2's ExecutePolicy: a step or simple policy's adjustment on somebody's word, whatever its metric says."""

from dataclasses import replace
from datetime import datetime

from controller_asg.model.decision import Step
from controller_asg.model.errors import ConflictError, Fault, NotFoundError, SpecError
from controller_asg.model.record import GroupRecord
from controller_asg.model.scaling_policy import AlarmScaling, SimpleScaling, StepScaling, observes
from controller_asg.planner.draft import Draft
from controller_asg.planner.snapshot import ExecutePolicy
from controller_asg.policy.step import adjusted_by, step_of
from controller_asg.policy.voting import cooldown_end

# Of one policy so many ids of signed messages are remembered, the newest: as many as may come within the ten minutes in
# which a message is taken. By number, for a clock that steps must not make one count again.
MESSAGES_KEPT = 300


def check(record: GroupRecord, order: ExecutePolicy, now: datetime) -> None:
    """Raises NotFoundError, SpecError or ConflictError: why it is not executed.

    Source: EC2 Auto Scaling API, ExecutePolicy. Other than there, a step policy with a threshold has it for its breach
    threshold where none is given, and honor_cooldown holds for both types.
    """
    where = f"groups.{record.group.name}.policies.{order.policy}"
    policy = _named(record, order.policy)
    if policy is None:
        raise NotFoundError("is no step or simple policy of the group", where, _known(record))
    if not policy.enabled:
        raise ConflictError("is switched off", where, "set `enabled: true`")
    if isinstance(policy, SimpleScaling):
        for name in ("metric_value", "breach_threshold"):
            if getattr(order, name) is not None:
                raise SpecError((Fault(name, "is given, and the policy is of type simple", "leave it out"),))
    elif order.metric_value is None:
        raise SpecError((Fault("metric_value", "is missing, and the policy is of type step", "add it"),))
    elif order.breach_threshold is None and policy.threshold is None:
        raise SpecError((Fault("breach_threshold", "is missing, and the policy has no threshold", "add it"),))
    step = _step(policy, order)
    if step is None:
        what = f"{order.metric_value:g} lies in no step of the policy"
        raise SpecError((Fault("metric_value", what, "send a value that a step covers"),))
    capacity, _ = adjusted_by(policy, step, record.desired_capacity, 0)
    if order.honor_cooldown and capacity != record.desired_capacity:
        until_at = cooldown_end(policy, capacity > record.desired_capacity, record.last_changes)
        if until_at is not None and now < until_at:
            left = f"{(until_at - now).total_seconds():.0f} s"
            raise ConflictError(f"is in its cooldown for another {left}", where, "ask again after that")


def heard(record: GroupRecord, policy: str, message_id: str) -> bool:
    """A message of that id has executed the policy already."""
    return (policy, message_id) in record.messages


def wanted(draft: Draft, order: ExecutePolicy) -> tuple[int, str] | None:
    """(capacity, why); None: nothing is to be changed, and a Step says why if there is a reason."""
    if order.message_id:
        if heard(draft.record, order.policy, order.message_id):
            return None
        _remember(draft, order)
    policy = _named(draft.record, order.policy)
    step = None if policy is None or not policy.enabled else _step(policy, order)
    if policy is None or step is None:
        return None  # another document was applied meanwhile
    desired = draft.record.desired_capacity
    capacity, why = adjusted_by(policy, step, desired, draft.warming())
    reason = f"{policy.name} executed by {order.actor}{why}"
    if observes(policy):
        reason, held = f"{reason}, and it only observes", "observe"
    elif policy.disable_scale_in and capacity < desired:
        reason, held = f"{reason}, and its scale-in is disabled", "disable_scale_in"
    elif capacity != desired:
        return capacity, reason
    else:
        held = "execute_policy"
    draft.steps.append(Step(held, capacity, desired, reason))
    return None


def _remember(draft: Draft, order: ExecutePolicy) -> None:
    here = {policy.name for policy in draft.group.policies}
    others = [each for each in draft.record.messages if each[0] in here and each[0] != order.policy]
    its = [each for each in draft.record.messages if each[0] == order.policy][1 - MESSAGES_KEPT :]
    draft.record = replace(draft.record, messages=(*others, *its, (order.policy, order.message_id)))


def _named(record: GroupRecord, name: str) -> StepScaling | SimpleScaling | None:
    for policy in record.group.policies:
        if policy.name == name and isinstance(policy, StepScaling | SimpleScaling):
            return policy
    return None


def _known(record: GroupRecord) -> str:
    names = [policy.name for policy in record.group.policies if isinstance(policy, AlarmScaling)]
    return f"write one of {', '.join(names)}" if names else "the group has none"


def _step(policy: StepScaling | SimpleScaling, order: ExecutePolicy) -> int | None:
    threshold = order.breach_threshold if order.breach_threshold is not None else policy.threshold
    return step_of(policy, (order.metric_value or 0.0) - (threshold or 0.0))
