"""Moments of a refresh with fewer healthy instances than it promised, in made-up worlds without other faults."""

import math
import random
from collections.abc import Iterator
from typing import Any

from bench.figure import Measured, Measurement, Run
from controller_asg.model.instance import LifecycleState
from controller_asg.simulate.ec2 import BAD_IMAGE, GOOD_IMAGE
from controller_asg.simulate.logs import captured_logs
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.world import World

LOOK_SECONDS = 0.2
BAD_SHARE = 0.2
LIMIT_SECONDS = 14_400.0
BOOT_LIMIT_SECONDS = 600.0
FAILED = ("Failed", "RollbackFailed")


def measure(run: Run) -> Iterator[Measured]:
    """Each world replaces one group by random preferences; some by a broken image, which is rolled back."""
    below, moments, ends = 0, 0, dict[str, int]()
    seeds = range(run.sizes.seed, run.sizes.seed + run.sizes.refresh_worlds)
    with captured_logs(lambda event, values: None):
        for seed in seeds:
            seen, missed, status = run_virtual(_refreshed(seed), VirtualLoop())
            moments, below = moments + seen, below + missed
            ends[status] = ends.get(status, 0) + 1
            if missed:
                run.say(f"seed {seed}: {missed} of {seen} moments")
    yield Measured(
        "refresh_below_healthy",
        below,
        "moments",
        0,
        not below and not any(ends.get(status) for status in FAILED),
        ("refresh_worlds",),
        extra={"moments": moments, "every_seconds": LOOK_SECONDS, "ends": ends},
    )


async def _refreshed(seed: int) -> tuple[int, int, str]:
    """(moments looked at, those below, how it ended)"""
    chance, world = random.Random(f"{seed}:bench"), World(seed)
    size = chance.randint(1, 10)
    low = chance.choice((0, 50, 75, 90, 100))
    await world.start()
    await world.apply(web=_document(size, GOOD_IMAGE))
    await world.until(lambda: len(world.in_service()) == size, BOOT_LIMIT_SECONDS)
    bad = chance.random() < BAD_SHARE
    await world.apply(web=_document(size, BAD_IMAGE if bad else GOOD_IMAGE, tags={"release": "2"}))
    preferences = {
        "min_healthy_percentage": low,
        "max_healthy_percentage": min(low + 100, chance.choice((100, 120, 150, 200))),
        "instance_warmup_seconds": chance.choice((0, 10)),
        "auto_rollback": True,
    }
    await world.engine.start_instance_refresh("web", preferences, "bench", False)
    floor, moments, below = math.ceil(size * low / 100), 0, 0
    ends = world.clock.monotonic() + LIMIT_SECONDS
    while (refresh := world.disk.groups["web"].refresh) and refresh.active and world.clock.monotonic() < ends:
        healthy = sum(
            one.state is LifecycleState.IN_SERVICE and world.agents.up(one.instance_id)
            for one in world.disk.instances.values()
        )
        moments, below = moments + 1, below + (healthy < floor)
        await world.clock.sleep(LOOK_SECONDS)
    await world.stop()
    assert refresh is not None
    return moments, below, refresh.status.value


def _document(size: int, image: str, **launch: Any) -> dict[str, Any]:
    return {
        "min_size": size,
        "max_size": size,
        "registration_timeout_seconds": 60,
        "launch": {"image": {"id": image}, **launch},
    }


MEASUREMENT = Measurement(("refresh_below_healthy",), measure)
