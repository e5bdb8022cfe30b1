"""How long from a step of load on an agent to the RunInstances call that it causes."""

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

from bench.figure import Measured, Measurement, Run, numbered, percentile
from bench.lab_fleet import CALM, HOT, LabFleet

GOAL_SECONDS = 2.0
# A step begins at a random phase of the agent's sampling, or twenty steps would all meet the same one.
PHASE_SECONDS = 1.0
# Starting a process in a machine is load as well, so the one that burns is started early, while the override holds.
BURN_IN_SECONDS = 5.0
REAL_BEFORE_SECONDS = 2.0
BURN_LIMIT_SECONDS = 120
_BEGAN = "/run/figures-burn-began"
_BURN = f"sleep {BURN_IN_SECONDS}; date +%s.%N >{_BEGAN}; exec timeout {BURN_LIMIT_SECONDS} sh -c 'while :; do :; done'"


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    chance = random.Random(sizes.seed)
    by_metric: list[float] = []
    by_load: list[float] = []
    for each in numbered(sizes.steps):
        (hot,) = fleet.rest(1)
        started = fleet.set_metric(hot, HOT, time.time() + chance.uniform(0.3, 0.3 + PHASE_SECONDS))
        by_metric.append(fleet.launch_call(started)["at"] - started)
        _take_back(fleet, hot)
        run.say(f"step {each}: {by_metric[-1]:.3f} s")
    for each in numbered(sizes.load_steps):
        (hot,) = fleet.rest(1)
        seconds = _step_of_real_load(fleet, hot, chance.uniform(0, PHASE_SECONDS))
        run.say(f"step of real load {each}: {'busy before it' if seconds is None else f'{seconds:.3f} s'}")
        by_load += [] if seconds is None else [seconds]
    value = percentile(by_metric, 99)
    extra: dict[str, Any] = {
        "median": statistics.median(by_metric),
        "max": max(by_metric),
        "step_by": "/set-metric",
    }
    if sizes.load_steps:
        extra["real_load_false_starts"] = sizes.load_steps - len(by_load)
    if by_load:
        extra |= {"real_load_median": statistics.median(by_load), "real_load_max": max(by_load)}
    yield Measured(
        "step_to_launch_seconds_p99",
        value,
        "s",
        GOAL_SECONDS,
        value <= GOAL_SECONDS,
        ("steps", "load_steps", "cooldown_seconds"),
        extra=extra,
    )


def _step_of_real_load(fleet: LabFleet, hot: str, phase_seconds: float) -> float | None:
    """Seconds from the first turn of a busy loop to the call; None when the machine launched one without it."""
    fleet.run_in(hot, "rm", "-f", _BEGAN)
    fleet.lab.execute(hot, "sh", "-c", _BURN, detach=True)
    time.sleep(BURN_IN_SECONDS - REAL_BEFORE_SECONDS - phase_seconds)
    call = fleet.launch_call(fleet.set_metric(hot, None))
    _take_back(fleet, hot)
    began = fleet.run_in(hot, "sh", "-c", f"cat {_BEGAN} || true").strip()
    fleet.run_in(hot, "pkill", "-f", "while :")
    if not began or call["at"] < float(began):
        return None
    seconds: float = call["at"] - float(began)
    return seconds


def _take_back(fleet: LabFleet, hot: str) -> None:
    """Undo a step, and terminate what it launched."""
    fleet.set_metric(hot, CALM)
    fleet.terminate(fleet.new_member({hot}))


MEASUREMENT = Measurement(("step_to_launch_seconds_p99",), measure)
