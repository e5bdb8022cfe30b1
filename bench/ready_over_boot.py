"""How much later an instance is InService than its own boot allows.

Both times start where the RunInstances call arrives at the endpoint, so the API's own time is in both. The boot ends
where the instance's agent could first have been heard: when its unit became active, which it does (Type=notify) once
the agent listens and holds its first complete reading. What comes after that is ours: finding the controller,
registering, the sample, the pass that takes the instance in, and its commit.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from asg_lab.deployment import wait_until

from bench.figure import Measured, Measurement, Run, numbered
from bench.lab_fleet import LOOK_SECONDS, LabFleet, unix_of_monotonic, unix_seconds

GOAL_RATIO = 1.1
UNIT = "monitor-agent"


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    ratios, ready, boots, over_start = [], [], [], []
    for each in numbered(sizes.launches):
        before = set(fleet.rest(1))
        arrived, member, instance_id = _launch(fleet, before)
        started_us = int(fleet.unit_property(instance_id, UNIT, "ExecMainStartTimestampMonotonic"))
        active_us = int(fleet.unit_property(instance_id, UNIT, "ActiveEnterTimestampMonotonic"))
        ready.append(unix_seconds(member["in_service_at"]) - arrived)
        boots.append(unix_of_monotonic(active_us) - arrived)
        ratios.append(ready[-1] / boots[-1])
        over_start.append(ready[-1] / (unix_of_monotonic(started_us) - arrived))
        run.say(f"launch {each}: InService after {ready[-1]:.2f} s, boot to the first beat {boots[-1]:.2f} s")
        fleet.terminate(instance_id)
    value = statistics.median(ratios)
    yield Measured(
        "ready_over_boot",
        value,
        "ratio",
        GOAL_RATIO,
        value <= GOAL_RATIO,
        ("launches",),
        baseline=statistics.median(boots),
        extra={
            "min": min(ratios),
            "max": max(ratios),
            "ready_seconds_median": statistics.median(ready),
            "boot_seconds_median": statistics.median(boots),
            "over_agents_process_start": statistics.median(over_start),
        },
    )


def _launch(fleet: LabFleet, before: set[str]) -> tuple[float, dict[str, Any], str]:
    """(when RunInstances arrived, the member in service, its id)."""
    fleet.set_desired(len(before) + 1)
    instance_id = fleet.new_member(before)

    def in_service() -> dict[str, Any] | None:
        found = [m for m in fleet.members() if m["instance_id"] == instance_id and m.get("in_service_at")]
        return found[0] if found else None

    member = wait_until("it in service", in_service, fleet.sizes.wait_seconds, LOOK_SECONDS * 4, fleet.say)
    call = next(c for c in fleet.calls("RunInstances", 0.0) if c["client_token"] == member["activity_id"])
    return call["at"], member, instance_id


MEASUREMENT = Measurement(("ready_over_boot",), measure)
