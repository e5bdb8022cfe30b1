"""Load traces: what a file holds, and the demand it makes.

A trace is CSV of `seconds,load`, gzipped where its name ends in .gz. Only its shape counts: the demand is scaled so
that its mean is ten instances, or as many as are asked for. The mean is that of the rows, so rows at uneven distances
weigh the same. A recorded demand is one already, and is taken as it is.
"""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from controller_asg.model.errors import Fault, SpecError

TICK_SECONDS = 10
MEAN_INSTANCES = 10
LONGEST_SECONDS = 366 * 86_400.0
LARGEST_LOAD = 1e15
HEADER = "seconds,load"
SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Trace:
    """`seconds` rise from row to row, `loads` are as many, at least 0 and not all 0."""

    name: str
    seconds: tuple[float, ...]
    loads: tuple[float, ...]


def read_traces(path: Path) -> tuple[Trace, ...]:
    """The trace of a file, or those of a folder by name. Raises SpecError that names file and line."""
    if not path.is_dir():
        return (read_trace(path),)
    files = sorted(each for each in path.iterdir() if each.name.endswith(SUFFIXES))
    if not files:
        raise _fault(
            str(path), "holds no trace", f"put files there whose names end in {' or '.join(SUFFIXES)}"
        )
    return tuple(map(read_trace, files))


def read_trace(path: Path) -> Trace:
    """Raises SpecError that names file and line."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            lines = file.read().splitlines()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _fault(str(path), f"can't be read: {reason}", "name a trace") from error
    if not lines or lines[0].strip() != HEADER:
        raise _fault(f"{path}:1", "is no header", f"begin the file with {HEADER}")
    seconds: list[float] = []
    loads: list[float] = []
    for number, line in enumerate(lines[1:], 2):
        try:
            second, load = map(float, line.split(","))
        except ValueError:
            raise _fault(f"{path}:{number}", f"{line!r} is not two numbers", f"write {HEADER}") from None
        if not (math.isfinite(second) and 0 <= load <= LARGEST_LOAD):
            mend = f"write finite seconds, and a load of 0 to {LARGEST_LOAD:g}"
            raise _fault(f"{path}:{number}", f"{line!r} is no load", mend)
        if seconds and second <= seconds[-1]:
            raise _fault(f"{path}:{number}", f"{second:g} s is not after {seconds[-1]:g} s", "sort the rows")
        if seconds and second - seconds[0] > LONGEST_SECONDS:
            what = f"{second:g} s is more than a year after the first row"
            raise _fault(f"{path}:{number}", what, "write seconds, and cut what is longer")
        seconds.append(second)
        loads.append(load)
    if not any(loads):
        raise _fault(f"{path}:{len(lines)}", "there was no load at all", "give a trace with some")
    return Trace(path.name.removesuffix(".gz").removesuffix(".csv"), tuple(seconds), tuple(loads))


def demand(trace: Trace, mean_instances: float | None = MEAN_INSTANCES) -> list[float]:
    """Instances at 100 % that each tick of 10 s needs, from the first row's second to the last's.

    Without a mean the loads are the demand.
    A tick with rows in it has their mean; one between rows has the straight line's value at its start.
    """
    one = 1.0 if mean_instances is None else sum(trace.loads) / len(trace.loads) / mean_instances
    begin = trace.seconds[0]
    ticks: list[float] = []
    row, rows = 0, len(trace.loads)
    for tick in range(int((trace.seconds[-1] - begin) // TICK_SECONDS) + 1):
        at = begin + tick * TICK_SECONDS
        first = row
        while row < rows and trace.seconds[row] < at + TICK_SECONDS:
            row += 1
        if row > first:
            load = sum(trace.loads[first:row]) / (row - first)
        else:
            before, after = trace.seconds[row - 1], trace.seconds[row]
            share = (at - before) / (after - before)
            load = trace.loads[row - 1] + share * (trace.loads[row] - trace.loads[row - 1])
        ticks.append(load / one)
    return ticks


def _fault(where: str, what: str, mend: str) -> SpecError:
    return SpecError((Fault(where, what, mend),))
