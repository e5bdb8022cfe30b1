"""How long a commit takes as the engine makes it: one activity, two instances and a decision, through the async port.

The baseline is an append of 32 KiB with fsync to the same directory, in the same run: what a disk alone costs.
On PostgreSQL (--url, of an empty database) that is the client's disk, so read the ratio only when both are one machine.

    python bench/store_commit.py --commits 5000 --groups 20 --seed 1
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.decision import Decision, Step, Vote
from controller_asg.model.group import Group, Image, LaunchParameters
from controller_asg.model.instance import Instance, LifecycleState
from controller_asg.model.record import Change, GroupRecord
from controller_asg.store.migrate import migrate
from controller_asg.store.sql import SqlStore

START = datetime(2025, 1, 1, tzinfo=UTC)
USER_DATA_BYTES = 2_000  # what the controller's own bootstrap comes to


def groups(count: int) -> tuple[GroupRecord, ...]:
    launch = LaunchParameters(image=Image(id="ami-12345678"))
    return tuple(
        GroupRecord(Group(name=f"group{number}", launch=launch), 1, "ami-12345678", "v1", 2, START)
        for number in range(count)
    )


def change(chance: random.Random, number: int, group: str) -> Change:
    """A launch of two instances as it is recorded, with ids in no order, as EC2's are."""
    at = START + timedelta(seconds=number)
    activity_id = f"{chance.getrandbits(128):032x}"
    ids = tuple(f"i-{chance.getrandbits(68):017x}" for _ in range(2))
    user_data = "".join(chance.choices("abcdefghij \n", k=USER_DATA_BYTES))
    launch = LaunchRequest(activity_id, group, "v1", 2, "ami-12345678", "t2.micro", user_data=user_data)
    activity = Activity(
        activity_id,
        group,
        ActivityKind.LAUNCH,
        ActivityStatus.IN_PROGRESS if number % 100 == 0 else ActivityStatus.SUCCESSFUL,
        "cpu_percent 93, target 60",
        2,
        at,
        instance_ids=ids,
        ended_at=None if number % 100 == 0 else at,
        launch=launch,
        acknowledged=True,
    )
    instances = tuple(
        Instance(instance_id, group, LifecycleState.PENDING, at, at, activity_id, "v1") for instance_id in ids
    )
    vote = Vote("cpu", 9, "cpu_percent 93, target 60")
    step = Step("max_size", 9, 5, "max_size is 5")
    decision = Decision(group, at, at, 3, 5, (vote,), (step,), ("launch 2",), "from 3 to 5: cpu")
    return Change(instances=instances, activities=(activity,), decision=decision)


async def measure_commits(url: str, changes: list[Change], fleet: tuple[GroupRecord, ...]) -> list[float]:
    store = SqlStore(url)
    await store.open()
    await store.commit(Change(groups=fleet))
    await store.commit(replace(changes.pop(), decision=None))  # compiles the statements
    seconds = []
    for each in changes:
        started = time.perf_counter()
        await store.commit(each)
        seconds.append(time.perf_counter() - started)
    await store.close()
    return seconds


def measure_fsync(directory: Path, appends: int, size: int) -> list[float]:
    descriptor = os.open(directory / "baseline", os.O_CREAT | os.O_WRONLY, 0o600)
    seconds = []
    for _ in range(appends):
        started = time.perf_counter()
        os.write(descriptor, b"x" * size)
        os.fsync(descriptor)
        seconds.append(time.perf_counter() - started)
    os.close(descriptor)
    return seconds


def p99_ms(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=2000)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--url", default="", help="an empty PostgreSQL database; a new SQLite file when absent"
    )
    parser.add_argument("--directory", default=None, help="where the SQLite file and the baseline's are made")
    options = parser.parse_args()

    chance = random.Random(options.seed)
    fleet = groups(options.groups)
    changes = [
        change(chance, number, chance.choice(fleet).group.name) for number in range(options.commits + 1)
    ]
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        url = options.url or f"sqlite:///{name}/store.db"
        migrate(url)
        seconds = asyncio.run(measure_commits(url, changes, fleet))
        baseline = p99_ms(measure_fsync(Path(name), options.commits, 8 * 4096))
    value = p99_ms(seconds)
    figure = {
        "figure": "store_commit_ms_p99",
        "value": round(value, 3),
        "unit": "ms",
        "median": round(statistics.median(seconds) * 1000, 3),
        "max": round(max(seconds) * 1000, 3),
        "baseline": "fsync of 32 KiB, p99",
        "baseline_value": round(baseline, 3),
        "ratio": round(value / baseline, 2),
        "engine": url.partition(":")[0],
        "commits": options.commits,
        "groups": options.groups,
        "seed": options.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
