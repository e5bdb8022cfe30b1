"""Plans above a ceiling in money, in the made-up worlds whose groups have several types, two markets and ceilings."""

import os
from collections.abc import Iterator

from bench.figure import Measured, Measurement, Run
from controller_asg.simulate.run import OFFERED, run_many

RULE = "never above max_hourly_cost"
TELL_EVERY = 100


def measure(run: Run) -> Iterator[Measured]:
    """`--ceiling-worlds` of them; only every tenth seed gives such a world."""
    sizes = run.sizes
    first = sizes.seed + (OFFERED - sizes.seed) % 10
    broken: list[str] = []
    seeds = range(first, first + 10 * sizes.ceiling_worlds, 10)
    for done, result in enumerate(run_many(seeds, os.cpu_count() or 1), 1):
        broken.extend(f"seed {result.seed}: {what}" for what in result.broken if what.startswith(RULE))
        if done % TELL_EVERY == 0:
            run.say(f"{done} worlds, {len(broken)} broke a ceiling")
    yield Measured(
        "cost_ceiling_broken",
        len(broken),
        "worlds",
        0,
        not broken,
        ("ceiling_worlds",),
        extra={"broken": broken[:20]},
    )


MEASUREMENT = Measurement(("cost_ceiling_broken",), measure)
