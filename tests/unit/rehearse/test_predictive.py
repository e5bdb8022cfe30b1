"""A group with a predictive policy in a rehearsal: it is ready before what happened yesterday happens again."""

import math

from controller_asg.model.group import group_from_dict
from controller_asg.rehearse.whole_group import whole_group
from controller_asg.rehearse.world import Schedule, rehearse

HOUR = 360  # ticks
RISE = 25 * HOUR  # as an hour after midnight, a day before
DEMAND = [2.0] * HOUR + [12.0] * (2 * HOUR) + [2.0] * (22 * HOUR) + [12.0] * (HOUR // 2)


def followed(demand: list[float], mode: str) -> Schedule:
    policies = [
        {"type": "target_tracking", "metric": "cpu_percent", "target": 60},
        {"type": "predictive", "target": 60, "mode": mode},
    ]
    document = {
        "name": "web",
        "launch": {"image": {"id": "ami-00000000"}},
        "max_size": 50,
        "policies": policies,
    }
    return rehearse(demand, whole_group(group_from_dict(document)), 120.0, math.inf)


def short(schedule: Schedule) -> int:
    return sum(max(0, 12 - size) for size in schedule.in_service[RISE:])


def test_it_is_ready_for_what_repeats_and_knows_nothing_of_what_is_to_come() -> None:
    ready, turned = (
        followed(DEMAND, "forecast_and_scale"),
        followed(DEMAND[:RISE] + [0.5] * (HOUR // 2), "forecast_and_scale"),
    )
    # What full instances hid yesterday is not foretold, so the first minutes are short all the same.
    assert short(ready) < short(followed(DEMAND, "forecast_only")) / 2
    assert ready.desired[: RISE + 1] == turned.desired[: RISE + 1]
