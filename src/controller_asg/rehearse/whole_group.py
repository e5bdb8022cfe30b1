"""A whole group as a follower of a rehearsal: the planner's own pass, with all the group's policies and bounds.

Its instances share the load evenly, so each reports the same cpu_percent; they are healthy, and the world launches and
terminates them. A pass is some ten times dearer than one policy's `decide`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller_asg.model.group import Group
from controller_asg.model.instance import AgentView, Instance, LifecycleState, Sample
from controller_asg.model.record import GroupRecord
from controller_asg.model.scaling_policy import DemandTracking, Predictive, window_seconds
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Member, Snapshot
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.forecast import KEPT_DAYS, REFRESH_SECONDS, Forecast, foretell
from controller_asg.rehearse import METRIC
from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import Follower, Seen

BEGIN = datetime(2028, 2, 28, tzinfo=UTC)  # midnight, a Monday: scheduled actions fire as on one


def whole_group(
    group: Group,
    delay_seconds: float = 120.0,
    tell: Callable[[int, str], None] = lambda tick, line: None,
    begin: datetime = BEGIN,
) -> Follower:
    """A fresh one.

    The first tick is at `begin`, which scheduled actions go by. `tell` hears each change it asks for:
    the tick, and the decision's summary.
    """
    memories = {each.name: DemandMemory() for each in group.policies if isinstance(each, DemandTracking)}
    longest = max((window_seconds(policy) for policy in group.policies), default=0.0)
    samples: deque[Sample] = deque(maxlen=int(longest // TICK_SECONDS) + 1)
    foretells = any(isinstance(policy, Predictive) for policy in group.policies)
    minutes: deque[tuple[float, float]] = deque(maxlen=KEPT_DAYS * 1440)
    busy: list[float] = []  # the demand of the minute under way
    forecast: Forecast | None = None
    record = GroupRecord(group, 1, "", "", group.min_size, begin)
    instances: list[Instance] = []  # the oldest first; the world takes the youngest away

    def instance(number: int, now: datetime, serves: bool) -> Instance:
        state = LifecycleState.IN_SERVICE if serves else LifecycleState.PENDING
        launched_at = now - timedelta(seconds=delay_seconds) if serves else now
        return Instance(
            f"i-{number}", group.name, state, now, launched_at, "", "", in_service_at=now if serves else None
        )

    def follow(seen: Seen) -> int:
        nonlocal record, forecast
        now, second = begin + timedelta(seconds=seen.tick * TICK_SECONDS), float(seen.tick * TICK_SECONDS)
        if seen.tick:
            samples.append(Sample(second, {METRIC: 100 * seen.utilisation}))
        if seen.tick and foretells:
            busy.append(seen.utilisation * seen.served_by)
            if len(busy) * TICK_SECONDS == 60:
                minutes.append((now.timestamp() - 60, sum(busy) / len(busy)))
                busy.clear()
            if second % REFRESH_SECONDS == 0:
                forecast = foretell(minutes, now.timestamp())
        del instances[seen.in_service :]
        while len(instances) < seen.in_service:
            # Those of the start serve for long.
            instances.append(instance(len(instances), now if seen.tick else begin - timedelta(days=1), True))
        heard = tuple(samples)
        members = [
            Member(each, None, AgentView(each.instance_id, 0.0, samples=heard, as_of=second), 0.0)
            for each in instances
        ]
        members += [
            Member(instance(len(instances) + number, now, False), None, None, 0.0)
            for number in range(seen.booting)
        ]
        planned = plan(
            Snapshot(
                now,
                replace(record, desired_capacity=seen.desired),
                tuple(members),
                open_activities=(),
                observed=True,
                answers=(),
                silence_seconds=2 * TICK_SECONDS,
                ping_timeout_seconds=1.0,
                watching_since_at=begin,
                subnets=(("a subnet", "a zone"),),
                memories=memories,
                forecast=forecast,
            )
        )
        record = planned.record
        if record.desired_capacity != seen.desired:
            tell(seen.tick, planned.decision.summary)
        return record.desired_capacity

    return follow
