"""SIGKILL of the controller while it launches: is anything launched twice, or left unsettled?

A round: at rest at one instance; a step of load on it, and at a random moment within `kill_within_seconds` of the step
SIGKILL to the daemon, which systemd starts again. The step lasts until its launch has arrived at the endpoint. The
round is over when EC2, the controller and desired capacity say the same, at two instances; else it is unsettled.
"""

import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
from asg_lab.deployment import wait_until

from bench.figure import Measured, Measurement, Run, numbered
from bench.lab_fleet import CALM, HOT, LabFleet
from bench.process_cost import CONTROLLER_UNIT

STEP_IN_SECONDS = 1.5  # both processes, the step's and the kill's, must have started before
_KILL_AT = (
    "import os, sys, time; time.sleep(max(0, float(sys.argv[1]) - time.time())); os.kill(int(sys.argv[2]), 9)"
)


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    chance = random.Random(sizes.seed)
    duplicates, unsettled, before_call = 0, 0, 0
    recovery: list[float] = []
    for each in numbered(sizes.kills):
        # Cubed, so that half of the kills fall into the first eighth: the call goes out some 30 ms after the step.
        kill_after = sizes.kill_within_seconds * chance.random() ** 3
        (hot,) = fleet.rest(1)
        killed_at, call = _round(fleet, hot, kill_after)
        before_call += killed_at < call["at"]
        extra = _settle(fleet, killed_at, recovery)
        if extra is None:
            unsettled += 1
            extra = max(0, len(fleet.alive()) - 2)
        duplicates += extra
        run.say(f"round {each}: killed {kill_after:.2f} s after the step, {extra} beyond desired")
    yield Measured(
        "kill9_duplicates",
        duplicates,
        "instances",
        0,
        duplicates == 0 and unsettled == 0,
        ("kills", "kill_within_seconds", "settle_seconds"),
        extra={
            "unsettled": unsettled,
            "killed_before_the_call": before_call,
            "settled_seconds_max": max(recovery, default=None),
        },
    )
    yield Measured("kill9_unsettled", unsettled, "rounds", 0, unsettled == 0, ("kills", "settle_seconds"))


def _round(fleet: LabFleet, hot: str, kill_after: float) -> tuple[float, dict[str, Any]]:
    """(when the daemon was killed, the launch's call). The instance is calm again afterwards."""
    machine = fleet.lab.controller_id
    pid = fleet.unit_property(machine, CONTROLLER_UNIT, "MainPID")
    step_at = time.time() + STEP_IN_SECONDS
    kill_at = step_at + kill_after
    fleet.lab.execute(machine, "python3", "-c", _KILL_AT, f"{kill_at:.6f}", pid, detach=True)
    fleet.set_metric(hot, HOT, step_at)
    call = fleet.launch_call(step_at)
    fleet.set_metric(hot, CALM)
    wait_until(
        "another daemon",
        lambda: fleet.unit_property(machine, CONTROLLER_UNIT, "MainPID") not in ("0", pid),
        fleet.sizes.wait_seconds,
        on_wait=fleet.say,
    )
    return kill_at, call


def _settle(fleet: LabFleet, killed_at: float, recovery: list[float]) -> int | None:
    """Instances beyond desired capacity once all agree; None when they don't in time."""

    def agreed() -> tuple[int, int] | None:
        try:
            group, serving = fleet.group(), fleet.serving()
        except grpc.RpcError:
            return None
        alive = fleet.alive()
        if group["desired_capacity"] == len(serving) and serving == alive and len(alive) >= 2:
            return len(alive), group["desired_capacity"]
        return None

    try:
        alive, desired = wait_until(
            "EC2 and controller agree", agreed, fleet.sizes.settle_seconds, on_wait=fleet.say
        )
    except TimeoutError as error:
        fleet.say(str(error))
        return None
    recovery.append(time.time() - killed_at)
    # One step asks for one instance: a desired capacity above two is a launch too many as well.
    return int(max(alive - desired, alive - 2))


MEASUREMENT = Measurement(("kill9_duplicates", "kill9_unsettled"), measure)
