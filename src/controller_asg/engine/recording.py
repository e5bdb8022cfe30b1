"""A group's demand by the minute, so that yesterday is a trace: gathered by the passes until the store has it.

A minute in which nobody reported is absent, never zero. A restart loses what the store has not yet: a minute or two.
"""

from collections.abc import Sequence
from datetime import datetime

from controller_asg.model.instance import LifecycleState
from controller_asg.model.record import DemandMinute
from controller_asg.model.scaling_policy import DemandTracking
from controller_asg.planner.snapshot import Member
from controller_asg.policy.demand_tracking import measure
from controller_asg.policy.serving import Fleet

READ_SECONDS = 5.0  # between two readings of a minute: one of 10,000 instances takes some milliseconds
KEPT_MINUTES = 60  # while the store refuses; then the oldest go
CPU = DemandTracking()  # what is read: cpu_percent of each instance, 100 at most, by its newest sample


class Recording:
    """Times are aware UTC; `finished` are the minutes that are over, the oldest first.

    A minute that a clock set back goes through again takes the former one's place.
    """

    def __init__(self, group: str) -> None:
        self.finished: dict[datetime, DemandMinute] = {}
        self._group = group
        self._minute_at: datetime | None = None
        self._readings: list[tuple[float, int]] = []  # (demand, in service) of the minute under way
        self._read_at: float | None = None

    def pass_made(self, fleet: Fleet | None, members: Sequence[Member], now_at: datetime, now: float) -> None:
        """`fleet` is what the pass showed its policies; `now` is monotonic. Cheap but every READ_SECONDS."""
        minute_at = now_at.replace(second=0, microsecond=0)
        if minute_at != self._minute_at:
            self._finish()
            self._minute_at = minute_at
        if fleet is None or (self._read_at is not None and now < self._read_at + READ_SECONDS):
            return
        self._read_at = now
        load = measure(CPU, fleet)
        if load is not None:
            in_service = sum(m.instance.state is LifecycleState.IN_SERVICE for m in members)
            self._readings.append((load.demand, in_service))

    def saved(self, minutes: Sequence[DemandMinute]) -> None:
        """The store has them; one that was finished anew meanwhile stays."""
        for minute in minutes:
            if self.finished.get(minute.minute_at) is minute:
                del self.finished[minute.minute_at]

    def _finish(self) -> None:
        if self._minute_at is None or not self._readings:
            return
        demands, sizes = zip(*self._readings, strict=True)
        count = len(self._readings)
        self.finished[self._minute_at] = DemandMinute(
            self._group, self._minute_at, sum(demands) / count, sum(sizes) / count
        )
        self._readings = []
        if len(self.finished) > KEPT_MINUTES:
            del self.finished[next(iter(self.finished))]
