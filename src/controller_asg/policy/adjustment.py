"""How a step or simple policy's adjustment changes a capacity.

Source: EC2 Auto Scaling user guide, "Step and simple scaling policies", scaling adjustment types and their rounding.
"""

import math

from controller_asg.model.scaling_policy import AdjustmentType


def adjusted(kind: AdjustmentType, adjustment: int, minimum: int, capacity: int) -> int:
    """The capacity after the adjustment, never below 0. `minimum` is the least change, of percentages only.

    A change of less than one instance is one; a larger one is rounded towards zero.
    """
    match kind:
        case "ExactCapacity":
            return max(0, adjustment)
        case "ChangeInCapacity":
            change = adjustment
        case "PercentChangeInCapacity":
            exact = capacity * adjustment / 100
            size = max(math.floor(abs(exact) + 1e-9), 1 if exact else 0, minimum if adjustment else 0)
            change = size if adjustment > 0 else -size
    return max(0, capacity + change)
