"""How long until a machine that died, or froze, is judged dead.

From right before the machine is killed or frozen to the RunInstances call for its replacement, as it arrives at the
endpoint: the verdict as it is seen from outside, with the journal's commit in it.
"""

import statistics
from collections.abc import Iterator

from bench.figure import Measured, Measurement, Run, numbered

GOAL_SECONDS = 5.0
FLEET_SIZE = 2


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    seconds: dict[str, list[float]] = {"kill": [], "freeze": []}
    for kind, taken in seconds.items():
        for each in numbered(sizes.deaths):
            victim = fleet.rest(FLEET_SIZE)[0]
            died_at = fleet.fault(kind, victim)
            taken.append(fleet.launch_call(died_at)["at"] - died_at)
            run.say(f"{kind} {each}: {taken[-1]:.2f} s")
    fleet.rest(1)
    killed, frozen = seconds["kill"], seconds["freeze"]
    value = max(*killed, *frozen)
    yield Measured(
        "dead_to_verdict_seconds",
        value,
        "s",
        GOAL_SECONDS,
        value <= GOAL_SECONDS,
        ("deaths",),
        extra={
            "killed_median": statistics.median(killed),
            "killed_max": max(killed),
            "frozen_median": statistics.median(frozen),
            "frozen_max": max(frozen),
        },
    )


MEASUREMENT = Measurement(("dead_to_verdict_seconds",), measure)
