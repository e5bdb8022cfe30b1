"""What a forecast may do to max_size."""

from dataclasses import replace

from controller_asg.model.scaling_policy import Predictive
from controller_asg.planner.draft import Draft
from controller_asg.policy import predictive


def raise_max_size(draft: Draft) -> None:
    """As far as predictive policies ask for it now; it is back when the forecast has passed."""
    if not draft.snapshot.observed:
        return  # bounds are not applied then, and desired capacity must stay within them
    raised = max(
        (
            predictive.max_size(policy, draft.snapshot.forecast, draft.now.timestamp())
            for policy in draft.group.policies
            if isinstance(policy, Predictive)
        ),
        default=0,
    )
    if raised != draft.record.forecast_max_size:
        draft.record = replace(draft.record, forecast_max_size=raised)
