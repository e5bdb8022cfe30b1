"""How long one pass of the pure planner takes for a very large group.

From a finished snapshot to the finished plan, by the wall's clock on one core (`cpu_p99`: by the thread's CPU time),
with Python's garbage collector on as in the daemon. The scenes are what a pass may meet; the figure is the slowest
scene's p99. The baseline of the same run is a loop that reads state, EC2's view and the newest sample of each member,
and decides nothing.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bench.figure import Measured, Measurement, Run, percentile
from controller_asg.model.group import Group, Image, LaunchParameters, launch_version
from controller_asg.model.instance import (
    AgentView,
    CloudInstance,
    Ec2State,
    Instance,
    LifecycleState,
    Sample,
    StatusCheck,
)
from controller_asg.model.record import GroupRecord
from controller_asg.model.scaling_policy import TargetTracking, Thresholds
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Answer, Member, Snapshot

GOAL_MS = 20.0
NOW = datetime(2028, 2, 28, 12, 0, tzinfo=UTC)
IMAGE = "ami-0123456789abcdef0"
ZONES = (
    ("subnet-aaaaaaaa", "us-east-1a"),
    ("subnet-bbbbbbbb", "us-east-1b"),
    ("subnet-cccccccc", "us-east-1c"),
)
SILENCE_SECONDS, PING_TIMEOUT_SECONDS = 2.5, 0.75
ANSWERS = (Answer(1.6, 1.5), Answer(0.3, 0.2))
SNAPSHOTS = 8  # different readings of a scene, used in turn
# What a scene adds to a fleet at rest: shares of its instances.
SCENES = {
    "rest": {},
    "hot": {"hot": 0.2},
    "idle": {"idle": 0.2},
    "booting": {"booting": 0.1},
    "dead": {"dead": 0.01},
}


def make_snapshot(chance: random.Random, count: int, shares: dict[str, float]) -> Snapshot:
    launch = LaunchParameters(image=Image(id=IMAGE))
    group = Group(
        name="web",
        launch=launch,
        min_size=0,
        max_size=max(count, 1),
        policies=(Thresholds(), TargetTracking(metric="cpu_percent", target=50.0, window_seconds=1.0)),
    )
    version = launch_version(launch, IMAGE, group.bootstrap)
    record = GroupRecord(group, 1, IMAGE, version, count, NOW - timedelta(hours=1))
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * count))]
    kinds += ["calm"] * (count - len(kinds))
    chance.shuffle(kinds)
    members = tuple(_member(chance, number, kind, version) for number, kind in enumerate(kinds))
    return Snapshot(
        NOW,
        record,
        members,
        (),
        True,
        ANSWERS,
        SILENCE_SECONDS,
        PING_TIMEOUT_SECONDS,
        NOW - timedelta(days=1),
        subnets=ZONES,
    )


def _member(chance: random.Random, number: int, kind: str, version: str) -> Member:
    serving = kind != "booting"
    age = timedelta(seconds=chance.uniform(60, 86_400) if serving else chance.uniform(1, 20))
    instance = Instance(
        instance_id=f"i-{chance.getrandbits(68):017x}",
        group="web",
        state=LifecycleState.IN_SERVICE if serving else LifecycleState.PENDING,
        state_since_at=NOW - age,
        launched_at=NOW - age,
        activity_id=f"{number:032x}",
        launch_version=version,
        zone=ZONES[number % len(ZONES)][1],
        instance_type="t2.micro",
        private_ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        in_service_at=NOW - age if serving else None,
    )
    cloud = CloudInstance(
        instance.instance_id,
        instance.group,
        instance.activity_id,
        version,
        Ec2State.RUNNING if serving else Ec2State.PENDING,
        StatusCheck.OK if serving else StatusCheck.INITIALIZING,
        instance.zone,
        instance.instance_type,
        instance.private_ip,
        IMAGE,
        instance.launched_at,
    )
    if not serving:
        return Member(instance, cloud, None)
    cpu = {"hot": 95.0, "idle": 2.0}.get(kind, chance.uniform(46, 54))
    values = {"cpu_percent": cpu, "memory_percent": chance.uniform(10, 90)}
    heard = chance.uniform(0, 1)
    agent = AgentView(instance.instance_id, heard, samples=(Sample(-heard, values),), metrics=values)
    if kind == "dead":
        agent = replace(agent, silent_seconds=4.0, ping_failed_seconds=1.5, ping_attempts=2)
    return Member(instance, cloud, agent)


def read_all(snapshot: Snapshot) -> float:
    """The baseline: the bare reading of every member."""
    total = 0.0
    for member in snapshot.members:
        if member.instance.state is LifecycleState.IN_SERVICE and member.cloud is not None:
            agent = member.agent
            if agent is not None and agent.samples:
                total += agent.samples[-1].values["cpu_percent"]
    return total


def measure(run: Run) -> Iterator[Measured]:
    sizes = run.sizes
    chance = random.Random(sizes.seed)
    by_scene: dict[str, list[float]] = {}
    baseline: list[float] = []
    cpu: list[float] = []
    for scene, shares in SCENES.items():
        snapshots = [make_snapshot(chance, sizes.instances, dict(shares)) for _ in range(SNAPSHOTS)]
        taken = by_scene[scene] = []
        for number in range(sizes.plans):
            snapshot = snapshots[number % SNAPSHOTS]
            started = time.perf_counter()
            read_all(snapshot)
            middle, cpu_before = time.perf_counter(), time.thread_time()
            plan(snapshot)
            taken.append((time.perf_counter() - middle) * 1000)
            cpu.append((time.thread_time() - cpu_before) * 1000)
            baseline.append((middle - started) * 1000)
        run.say(f"{scene}: p99 {percentile(taken, 99):.1f} ms")
    slowest = {scene: percentile(taken, 99) for scene, taken in by_scene.items()}
    value = max(slowest.values())
    yield Measured(
        "plan_10000_ms",
        value,
        "ms",
        GOAL_MS,
        value <= GOAL_MS,
        ("instances", "plans"),
        baseline=percentile(baseline, 99),
        extra={
            "cpu_p99": percentile(cpu, 99),
            "baseline_median": percentile(baseline, 50),
            **{f"{scene}_p99": each for scene, each in slowest.items()},
            **{f"{scene}_median": percentile(taken, 50) for scene, taken in by_scene.items()},
        },
    )


MEASUREMENT = Measurement(("plan_10000_ms",), measure)
