"""How many invariants break in made-up worlds full of faults, what those reach, and whether planted bugs are found."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Measured, Measurement, Run
from controller_asg.simulate.faults import FaultKind
from controller_asg.simulate.invariants import transition_names
from controller_asg.simulate.run import run_many
from tests.simulation import planting

TELL_EVERY = 100
PLANTED_AT_LEAST = 10


def measure(run: Run) -> Iterator[Measured]:
    sizes = run.sizes
    broken: list[str] = []
    faults: set[str] = set()
    transitions: set[str] = set()
    seeds = range(sizes.seed, sizes.seed + sizes.simulated_worlds)
    for done, result in enumerate(run_many(seeds, os.cpu_count() or 1), 1):
        broken.extend(f"seed {result.seed}: {what}" for what in result.broken)
        faults |= result.faults.keys()
        transitions |= result.transitions
        if done % TELL_EVERY == 0:
            run.say(f"{done} worlds, {len(broken)} broken invariants")
    yield Measured(
        "simulate_broken",
        len(broken),
        "invariants",
        0,
        not broken,
        ("simulated_worlds",),
        extra={"broken": broken[:20]},
    )
    wanted = {kind.value for kind in FaultKind} | transition_names()
    missed = sorted(wanted - faults - transitions)
    share = 100.0 * (len(wanted) - len(missed)) / len(wanted)
    yield Measured(
        "simulate_coverage",
        share,
        "%",
        100.0,
        not missed,
        ("simulated_worlds",),
        extra={"not_reached": missed, "faults": len(faults), "transitions": len(transitions)},
    )


def measure_planted(run: Run) -> Iterator[Measured]:
    missed = []
    names = planting.names()
    for name in names:
        with tempfile.TemporaryDirectory(prefix="planted-") as folder:
            said = planting.hunt(name, Path(folder))
        run.say(f"{name}: {said['broken'][0] if said['broken'] else 'not found'}")
        if not said["broken"]:
            missed.append(name)
    found = len(names) - len(missed)
    yield Measured(
        "planted_found",
        found,
        "bugs",
        len(names),
        not missed and found >= PLANTED_AT_LEAST,
        (),
        extra={"not_found": missed, "seeds_at_most": planting.SEEDS},
    )


CHAOS = Measurement(("simulate_broken", "simulate_coverage"), measure)
PLANTED = Measurement(("planted_found",), measure_planted)
