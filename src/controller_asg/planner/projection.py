"""Calm: policies scale in no further than where one of them would scale out again at once."""

from controller_asg.model.decision import Step
from controller_asg.planner.draft import Draft
from controller_asg.policy.projection import smallest


def held(draft: Draft, capacity: int) -> int:
    """What remains of the wish, and its Step."""
    desired, fleet = draft.record.desired_capacity, draft.fleet
    if capacity >= desired or fleet is None or not draft.group.behavior.projection:
        return capacity
    acting = [policy for policy in draft.group.policies if policy.enabled and policy.mode == "act"]
    least, name = max(((smallest(policy, fleet), policy.name) for policy in acting), default=(0, ""))
    allowed = min(max(capacity, least), desired)
    if allowed != capacity:
        reason = f"{name} would scale out again at once below {least}"
        draft.steps.append(Step("projection", capacity, allowed, reason))
    return allowed
