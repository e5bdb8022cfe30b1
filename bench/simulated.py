"""Figures of the simulated world: the real engine under virtual time, with a made-up EC2 and made-up agents."""

import random
import time
from collections.abc import Iterator
from typing import Any

from bench.figure import Measured, Measurement, Run
from controller_asg.simulate.ec2 import FURTHER_PAGE
from controller_asg.simulate.logs import captured_logs
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.world import World

SPEED_GOAL = 3_000.0  # virtual seconds a second
CALM_LOW, CALM_HIGH = 35.0, 65.0
# One of these happens every so often: an instance dies, one freezes, or one is hot for a while.
EVENT_EVERY_SECONDS = 300.0
HOT_SECONDS = 20.0
HOT_PERCENT = 95.0
# EC2 lets 1,000 instances through at once and 2 a second after them: 10,000 take 75 minutes.
BOOT_LIMIT_SECONDS = 10_800.0
TARGET_PERCENT = 50.0  # what the world's instances say unless told otherwise
SETTLE_SECONDS = 60.0  # after the last launch its activity has ended, and EC2 is asked at the pace of rest


def document(size: int) -> dict[str, Any]:
    return {
        "launch": {"image": {"id": "ami-0123456789abcdef0"}},
        "policies": [
            {"type": "thresholds"},
            {"type": "target_tracking", "metric": "cpu_percent", "target": TARGET_PERCENT},
        ],
        "min_size": size,
        "max_size": size + 5,
    }


def measure_speed(run: Run) -> Iterator[Measured]:
    """Virtual over real time of a group that lives: readings change each second, and something happens now and then."""
    sizes = run.sizes
    virtual_seconds = 60 * sizes.virtual_minutes
    happened = {"deaths": 0, "freezes": 0, "steps": 0}

    async def live() -> tuple[float, float, dict[str, int]]:
        world = await _grown(sizes.seed, {"web": sizes.virtual_instances})
        chance = random.Random(sizes.seed)
        hot: set[str] = set()
        world.load = lambda one: HOT_PERCENT if one in hot else chance.uniform(CALM_LOW, CALM_HIGH)
        began, cpu_began = time.perf_counter(), time.process_time()
        until = world.clock.monotonic() + virtual_seconds
        while world.clock.monotonic() < until:
            await world.clock.sleep(min(EVENT_EVERY_SECONDS, until - world.clock.monotonic()))
            one = chance.choice(sorted(world.in_service()))
            match chance.choice(sorted(happened)):
                case "deaths":
                    world.ec2.stop(one)
                    happened["deaths"] += 1
                case "freezes":
                    world.freeze(one)
                    happened["freezes"] += 1
                case _:
                    hot.add(one)
                    happened["steps"] += 1
            await world.clock.sleep(HOT_SECONDS)
            hot.clear()
        real, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        virtual = world.clock.monotonic() - (until - virtual_seconds)
        calls = dict(world.ec2.calls)
        await world.stop()
        return virtual / real, virtual / cpu, calls

    with captured_logs(lambda event, values: None):
        value, per_cpu_second, calls = run_virtual(live(), VirtualLoop())
    yield Measured(
        "simulate_speed",
        value,
        "virtual s/s",
        SPEED_GOAL,
        value >= SPEED_GOAL,
        ("virtual_minutes", "virtual_instances"),
        extra={"per_cpu_second": per_cpu_second, **happened, "ec2_calls": sum(calls.values())},
    )


def measure_calls(run: Run) -> Iterator[Measured]:
    """EC2 calls a minute at rest, of a large world against a small one. A Describe of many pages counts once."""
    sizes = run.sizes

    async def rest(groups: int, instances: int) -> dict[str, float]:
        world = await _grown(sizes.seed, {f"group{number}": instances for number in range(groups)})
        await world.clock.sleep(SETTLE_SECONDS)
        before = dict(world.ec2.calls)
        await world.clock.sleep(60 * sizes.rest_minutes)
        after = dict(world.ec2.calls)
        await world.stop()
        return {
            name: (after[name] - before.get(name, 0)) / sizes.rest_minutes
            for name in sorted(after)
            if name != FURTHER_PAGE
        }

    with captured_logs(lambda event, values: None):
        small = run_virtual(rest(1, 2), VirtualLoop())
        run.say(f"1 group of 2: {small}")
        large = run_virtual(rest(sizes.rest_groups, sizes.rest_instances), VirtualLoop())
        run.say(f"{sizes.rest_groups} groups of {sizes.rest_instances}: {large}")
    value, baseline = sum(large.values()), sum(small.values())
    yield Measured(
        "ec2_calls_at_rest",
        value,
        "calls/min",
        baseline,
        abs(value - baseline) <= 0.05 * baseline,
        ("rest_minutes", "rest_groups", "rest_instances"),
        baseline=baseline,
        extra={"large": large, "small": small},
    )


async def _grown(seed: int, groups: dict[str, int]) -> World:
    """A world whose groups are in service, and that counts every question to its cloud."""
    world = World(seed)
    await world.start()
    await world.apply(**{name: document(size) for name, size in groups.items()})
    await world.until(
        lambda: all(len(world.in_service(name)) >= size for name, size in groups.items()), BOOT_LIMIT_SECONDS
    )
    return world


SPEED = Measurement(("simulate_speed",), measure_speed)
CALLS_AT_REST = Measurement(("ec2_calls_at_rest",), measure_calls)
