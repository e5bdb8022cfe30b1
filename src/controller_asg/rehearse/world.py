"""The world of a rehearsal: instances that share a demand evenly, and take a while to boot.

A tick's order: boots that are due come into service; the policy is called and has seen the ticks before this one;
launches and terminations; the tick is served. What can't be served is lost, not queued. Utilisation ends at 1, so
demand beyond the capacity is never seen.
"""

import csv
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from controller_asg.rehearse.load import TICK_SECONDS

START_UTILISATION = 0.6
ROUNDING = 1e-9  # taken off before rounding up: 6 * 1.1 / 0.6 is eleven instances


class Seen(NamedTuple):
    """What a policy sees at a tick: the tick before as it was served, and the group as it is now.

    Before the first tick `utilisation` is 0 and `served_by` 0, and nothing was measured.
    """

    tick: int
    utilisation: float
    served_by: int
    in_service: int
    booting: int
    desired: int


Follower = Callable[[Seen], int]
"""The desired capacity at a tick. It keeps its own memory, so each rehearsal needs a fresh one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Desired capacity and instances in service, after the launches and terminations of each tick."""

    desired: list[int]
    in_service: list[int]


def whole(instances: float) -> int:
    return math.ceil(instances - ROUNDING)


def needs(demand: Sequence[float]) -> list[int]:
    """Whole instances that each tick needs."""
    return [max(1, whole(each)) for each in demand]


def rehearse(
    demand: Sequence[float],
    follow: Follower,
    delay_seconds: float = 120.0,
    largest: float | None = None,
    first: int | None = None,
) -> Schedule:
    """The capacity that this policy would have given.

    Sizes: 1 to `largest`, twice the peak where it is None, so that the maximum never decides.
    `first` are in service at the begin; None: as many as the first tick's demand makes 60 % busy.
    """
    delay = math.ceil(delay_seconds / TICK_SECONDS)
    if largest is None:
        largest = max(1, math.ceil(2 * max(demand)))
    in_service, booting = first or max(1, math.ceil(demand[0] / START_UTILISATION)), 0
    boots: deque[tuple[int, int]] = deque()  # (tick at which they serve, how many), the oldest first
    utilisation, served_by = 0.0, 0
    schedule = Schedule([], [])
    for tick, need in enumerate(demand):
        while boots and boots[0][0] <= tick:
            booted = boots.popleft()[1]
            in_service += booted
            booting -= booted
        wish = follow(Seen(tick, utilisation, served_by, in_service, booting, in_service + booting))
        change = int(min(max(wish, 1), largest)) - in_service - booting
        if change > 0:
            boots.append((tick + delay, change))
            booting += change
        while change < 0 and boots:
            due, count = boots.pop()
            gone = min(count, -change)
            change += gone
            booting -= gone
            if gone < count:
                boots.append((due, count - gone))
        if change < 0:
            in_service += change
        if delay == 0:
            in_service, booting = in_service + booting, 0
            boots.clear()
        schedule.desired.append(in_service + booting)
        schedule.in_service.append(in_service)
        utilisation, served_by = min(1.0, need / in_service), in_service
    return schedule


def write_capacity(schedule: Schedule, path: Path) -> None:
    """CSV of `seconds,desired,in_service`: the first tick and each change, holding until the next row."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("seconds", "desired", "in_service"))
        before: tuple[int, int] | None = None
        for tick, row in enumerate(zip(schedule.desired, schedule.in_service, strict=True)):
            if row != before:
                rows.writerow((tick * TICK_SECONDS, *row))
            before = row
