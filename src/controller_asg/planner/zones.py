"""Where new instances go: zones kept level, those that just had no capacity left out."""

from collections import Counter
from datetime import datetime

from controller_asg.model.record import GroupRecord, LaunchTemplate
from controller_asg.planner import backoff
from controller_asg.planner.plan import LaunchPlan


def spread(
    template: LaunchTemplate,
    count: int,
    record: GroupRecord,
    subnets: tuple[tuple[str, str], ...],
    taken: list[str],
    cause: str,
    now: datetime,
) -> tuple[LaunchPlan, ...]:
    """`count` instances over the zones, each to the emptiest; one launch a subnet. `taken` are the zones in use.

    The zones that it chose are added to `taken`.

    Empty when every zone is avoided for now. Without subnets EC2 chooses the place, in one launch.
    """
    if not subnets:
        return (LaunchPlan(template, count, "", "", cause),)
    instance_type = template.launch.instance_type
    allowed = [place for place in subnets if not backoff.holding(record, (place[1], instance_type), now)]
    if not allowed:
        return ()
    in_zone = Counter(taken)
    in_subnet: Counter[tuple[str, str]] = Counter()
    for _ in range(count):
        # The operator's order breaks ties, so equal snapshots give equal plans.
        best = min(allowed, key=lambda place: (in_zone[place[1]], in_subnet[place]))
        in_zone[best[1]] += 1
        in_subnet[best] += 1
        taken.append(best[1])
    return tuple(LaunchPlan(template, n, subnet, zone, cause) for (subnet, zone), n in in_subnet.items())
