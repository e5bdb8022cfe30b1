"""Do jobs live through scaling in, and what does that cost? The same load and jobs with leases, and without."""

import random
from collections.abc import Iterator

from bench.figure import Measured, Measurement, Run
from bench.sizes import Sizes
from controller_asg.simulate.logs import captured_logs
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.work import Work
from controller_asg.simulate.world import World

INTERRUPTED_GOAL = 0
COST_GOAL = 1.05
LEAST_INSTANCES = 2
LEVEL_SECONDS = (60.0, 600.0)  # the load stays so long where it jumped to
TARGET_PERCENT = 60.0
SETTLED_SECONDS = 600.0


def measure(run: Run) -> Iterator[Measured]:
    sizes = run.sizes
    with captured_logs(lambda event, values: None):
        interrupted, hours, launches = run_virtual(_live(sizes, leases=True), VirtualLoop())
        run.say(f"with leases: {interrupted} interrupted, {hours:.1f} instance-hours, {launches} launches")
        there, baseline, launches_there = run_virtual(_live(sizes, leases=False), VirtualLoop())
        run.say(f"without: {there} interrupted, {baseline:.1f} instance-hours, {launches_there} launches")
    depends = ("jobs", "jobs_hours", "job_longest_seconds", "jobs_instances")
    yield Measured(
        "jobs_interrupted",
        interrupted,
        "jobs",
        INTERRUPTED_GOAL,
        interrupted == INTERRUPTED_GOAL,
        depends,
        extra={"interrupted_there": there, "launches": launches},
    )
    cost = hours / baseline
    yield Measured(
        "jobs_extra_cost",
        cost,
        "ratio",
        COST_GOAL,
        cost <= COST_GOAL,
        depends,
        baseline=baseline,
        extra={"instance_hours": hours},
    )


async def _live(sizes: Sizes, leases: bool) -> tuple[int, float, int]:
    """(jobs interrupted, paid instance-hours, launches) of one world; load and jobs are the same in both."""
    world = World(sizes.seed)
    work = Work(random.Random(f"{sizes.seed}:work"), world.loop.time)
    work.calm = True
    if leases:
        world.agents.work = work
    world.ec2.on_terminate = lambda machine: work.terminated(machine.instance_id)
    chance = random.Random(f"{sizes.seed}:load")
    demand = 0.0
    world.load = lambda one: min(100.0, demand / max(1, len(world.ec2.running)))
    await world.start()
    await world.apply(
        web={
            "launch": {"image": {"id": "ami-0123456789abcdef0"}},
            "policies": [{"type": "target_tracking", "metric": "cpu_percent", "target": TARGET_PERCENT}],
            "min_size": LEAST_INSTANCES,
            "max_size": sizes.jobs_instances,
            "rebalance_zones": True,
            "drain": leases,
            "drain_timeout_seconds": 2 * sizes.job_longest_seconds if leases else 0,
        }
    )
    await world.until(lambda: len(world.in_service()) >= LEAST_INSTANCES, SETTLED_SECONDS)
    began = world.loop.time()
    jobs = sorted(
        (began + chance.uniform(0, 3600 * sizes.jobs_hours), chance.uniform(1, sizes.job_longest_seconds))
        for _ in range(sizes.jobs)
    )
    jumps_at, paid_seconds = began, 0.0
    ends = began + 3600 * sizes.jobs_hours + 2 * sizes.job_longest_seconds
    while world.loop.time() < ends:
        now = world.loop.time()
        if now >= jumps_at:
            demand = chance.uniform(0, TARGET_PERCENT * sizes.jobs_instances)
            jumps_at = now + chance.uniform(*LEVEL_SECONDS)
        takes = sorted(i for i in world.in_service() if i in world.ec2.running and work.of(i).takes_jobs)
        while jobs and jobs[0][0] <= now and takes:
            _, seconds = jobs.pop(0)
            work.begin_job(takes[int(seconds * 1000) % len(takes)], seconds)
        paid_seconds += len(world.alive())
        await world.clock.sleep(1.0)
    assert not jobs, "each job has begun"
    launches = sum(len(ids) for _, ids in world.ec2.launches)
    await world.stop()
    return work.interrupted, paid_seconds / 3600, launches


MEASUREMENT = Measurement(("jobs_interrupted", "jobs_extra_cost"), measure)
