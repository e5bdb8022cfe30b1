"""What a group would have done with its recorded demand: a JSON task on standard input, figures on standard output.

A process of its own, for a day takes most of a second and the controller's loop must not wait for it.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from controller_asg.model.group import Group, group_from_dict
from controller_asg.rehearse.figures import churn
from controller_asg.rehearse.load import TICK_SECONDS, Trace, demand
from controller_asg.rehearse.whole_group import whole_group
from controller_asg.rehearse.world import needs, rehearse


@dataclass(frozen=True, slots=True)
class Outcome:
    """Paid instance-hours (in service and booting), per cent of the time with too little capacity, changes of size."""

    instance_hours: float
    under_percent: float
    changes: int


def outcome(
    group: Group, minutes: Sequence[tuple[float, float]], delay_seconds: float, first: int
) -> Outcome:
    """`minutes` are (Unix seconds, demand in instances), rising; at least one. `first` are in service at its begin."""
    seconds, demands = zip(*minutes, strict=True)
    needed = demand(Trace(group.name, seconds, demands), None)
    follower = whole_group(group, delay_seconds, begin=datetime.fromtimestamp(seconds[0], UTC))
    schedule = rehearse(needed, follower, delay_seconds, math.inf, first)
    need = needs(needed)
    under = sum(each > size for each, size in zip(need, schedule.in_service, strict=True))
    changes, _ = churn(schedule.desired)
    return Outcome(sum(schedule.desired) * TICK_SECONDS / 3600, 100 * under / len(need), changes)


if __name__ == "__main__":
    with suppress(PermissionError):  # a unit's sandbox may forbid it
        os.nice(10)  # the controller comes first
    task = json.load(sys.stdin)
    found = outcome(group_from_dict(task["group"]), task["minutes"], task["delay_seconds"], task["first"])
    json.dump(asdict(found), sys.stdout)
