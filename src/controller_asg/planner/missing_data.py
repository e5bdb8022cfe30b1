"""Since when policies have had nothing to go by, and which of them fall back on their floor."""

from dataclasses import replace

from controller_asg.model.decision import Vote
from controller_asg.model.scaling_policy import Predictive, ScalingPolicy
from controller_asg.planner.draft import Draft


def overdue(draft: Draft) -> frozenset[str]:
    """Those whose floor counts by now; time in which nobody watched doesn't."""
    since = dict(draft.record.missing_since)
    if not since:
        return frozenset()
    return frozenset(
        policy.name
        for policy in draft.group.policies
        if isinstance(policy, ScalingPolicy)
        and policy.name in since
        and draft.watched_seconds(since[policy.name]) >= policy.missing_data_seconds
    )


def note(draft: Draft, votes: tuple[Vote, ...], anybody: bool) -> None:
    """`anybody`: there is an instance that could have reported; a group without one is no silent one."""
    floors = {
        policy.name
        for policy in draft.group.policies
        if not isinstance(policy, Predictive) and policy.on_missing_data == "floor"
    }
    if not floors and not draft.record.missing_since:
        return
    since = dict(draft.record.missing_since)
    missing = tuple(
        (vote.policy, min(since.get(vote.policy, draft.now), draft.now))
        for vote in votes
        if vote.policy in floors and anybody and (vote.capacity is None or vote.on_missing_data)
    )
    if missing != draft.record.missing_since:
        draft.record = replace(draft.record, missing_since=missing)
