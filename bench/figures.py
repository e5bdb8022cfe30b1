"""Measures figures and prints one JSON object a line: `python -m bench.figures [--only GLOB,…] [--steps N …]`.

Lines on standard output, progress on standard error. Cheap figures come first; those of a deployed system share one
lab, which is taken down at the end whatever happens. docs/reference/figures.md says what each figure means.

Exit code 1 when a figure could not be measured. A goal that is missed is not an error: it stands in the line.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from fnmatch import fnmatchcase

from bench import (
    ceiling,
    chaos,
    cut_network,
    dead_to_verdict,
    demo_seconds,
    jobs,
    jobs_lab,
    kill9,
    plan_pass,
    process_cost,
    ready_over_boot,
    refresh,
    refresh_lab,
    rehearse,
    simulated,
    step_to_launch,
)
from bench.figure import Measured, Measurement, Run, line
from bench.sizes import add_options, sizes_of

# In the order they run.
REGISTRY = (
    plan_pass.MEASUREMENT,
    rehearse.VOTE,
    rehearse.WEEK,
    rehearse.STEP,
    rehearse.HARM_OF_FORECAST,
    rehearse.FORECAST,
    rehearse.FOLLOWING,
    simulated.SPEED,
    simulated.CALLS_AT_REST,
    jobs.MEASUREMENT,
    refresh.MEASUREMENT,
    chaos.CHAOS,
    chaos.PLANTED,
    ceiling.MEASUREMENT,
    process_cost.AGENT,
    step_to_launch.MEASUREMENT,
    ready_over_boot.MEASUREMENT,
    dead_to_verdict.MEASUREMENT,
    process_cost.CONTROLLER,
    kill9.MEASUREMENT,
    cut_network.MEASUREMENT,
    jobs_lab.MEASUREMENT,
    refresh_lab.MEASUREMENT,
    demo_seconds.MEASUREMENT,
)


def chosen(only: str) -> list[Measurement]:
    return [each for each in REGISTRY if any(is_meant(name, only) for name in each.figures)]


def is_meant(name: str, only: str) -> bool:
    return any(fnmatchcase(name, glob.strip()) for glob in only.split(","))


def measure(measurements: Iterable[Measurement], only: str, run: Run) -> int:
    """Print what `only` names; returns how many measurements failed."""
    failures = 0
    for measurement in measurements:
        run.say(", ".join(measurement.figures))
        load_before = os.getloadavg()[0]
        try:
            found: list[Measured] = list(measurement.measure(run))
        except Exception as error:
            # The next figure may do better; what could not be measured is told in its place.
            failures += 1
            run.say(traceback.format_exc())
            if isinstance(error, subprocess.CalledProcessError):
                run.say(f"{error.stdout or ''}{error.stderr or ''}")
            for name in measurement.figures:
                if is_meant(name, only):
                    failed = {"figure": name, "value": None, "met": False, "error": _first_line(error)}
                    print(json.dumps(failed, ensure_ascii=False), flush=True)
            continue
        for each in found:
            if is_meant(each.figure, only):
                print(line(each, run.sizes, load_before), flush=True)
    return failures


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument(
        "--only", default=os.environ.get("FIGURES_ONLY", "*"), help="globs of figures' ids, between commas"
    )
    parser.add_argument("--list", action="store_true", help="print the ids, in the order they run")
    parser.add_argument(
        "--use-running-lab",
        action="store_true",
        help="measure in the lab of that name if it runs, apply the bench's group to it, and leave it running",
    )
    add_options(parser)
    options = parser.parse_args()
    measurements = chosen(options.only)
    if options.list:
        print("\n".join(name for each in measurements for name in each.figures))
        return 0
    if not measurements:
        known = ", ".join(name for each in REGISTRY for name in each.figures)
        parser.error(f"--only {options.only}: no such figure; there are {known}")
    # A stop in the middle takes the lab down as well.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    run = Run(sizes_of(options), options.use_running_lab)
    try:
        return 1 if measure(measurements, options.only, run) else 0
    finally:
        run.close()


if __name__ == "__main__":
    sys.exit(main())
