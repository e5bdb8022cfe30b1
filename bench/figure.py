"""What a figure is: its value with goal and baseline, the sizes it was measured with, and how it is printed.

A line is one JSON object: figure, value, unit, goal, baseline, met, then what the figure adds, its seed and sizes, and
the load average before and after, for a number measured on a busy machine is no verdict.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.lab_fleet import LabFleet
from bench.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure. `sizes` names the settings it depends on; `extra` is what else the line says."""

    figure: str
    value: float
    unit: str
    goal: float | None
    met: bool | None
    sizes: tuple[str, ...]
    baseline: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Takes one or several figures in one go. Those that are dear run last, and those of a lab share it."""

    figures: tuple[str, ...]
    measure: Callable[["Run"], Iterable[Measured]]


class Run:
    """One call of the command: its sizes, its progress on standard error, and the lab once it is needed."""

    def __init__(self, sizes: Sizes, use_running_lab: bool = False) -> None:
        self.sizes = sizes
        self._started = time.monotonic()
        self._fleet: LabFleet | None = None
        self._use_running_lab = use_running_lab

    def say(self, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self._started:7.1f} s  {text}\n")
        sys.stderr.flush()

    def fleet(self) -> LabFleet:
        """The deployed system, started by its first use."""
        if self._fleet is None:
            fleet = LabFleet(self.sizes, self.say)
            fleet.start(use_running=self._use_running_lab)
            self._fleet = fleet
        return self._fleet

    def close(self) -> None:
        if self._fleet is not None and not self._use_running_lab:
            self._fleet.lab.down()


def line(measured: Measured, sizes: Sizes, load_before: float) -> str:
    shown = {
        "figure": measured.figure,
        "value": rounded(measured.value),
        "unit": measured.unit,
        "goal": measured.goal,
        "baseline": rounded(measured.baseline) if measured.baseline is not None else None,
        "met": measured.met,
        **{key: rounded(value) for key, value in measured.extra.items()},
        "seed": sizes.seed,
        **{name: getattr(sizes, name) for name in measured.sizes},
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "cpus": os.cpu_count(),
    }
    return json.dumps(shown, ensure_ascii=False)


def rounded(value: Any) -> Any:
    """To four significant digits, where it is a fraction: more would pretend."""
    if isinstance(value, float) and value:
        value = round(value, max(0, 3 - math.floor(math.log10(abs(value)))))
        return int(value) if value == int(value) and abs(value) >= 1000 else value
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: a value that was measured, at 20 values and 99 % the largest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def numbered(count: int) -> Iterator[str]:
    for number in range(1, count + 1):
        yield f"{number} of {count}"
