"""A forecast some minutes ahead from what a day and a week ago looked like, trusted as far as it was right lately.

Several simple forecasts are blended, each weighed by its own recent error. Where nothing repeats, the ones that look
at yesterday lose their weight, so the blend is never much worse than the best of them.
"""

from array import array
from base64 import b64decode, b64encode
from collections import deque
from typing import Any

DAY, WEEK = 1440, 10_080  # minutes
KEPT_MINUTES = 2 * WEEK + DAY
SMOOTHING_MINUTES = (3.0, 10.0, 30.0)
AROUND_MINUTES = 5  # a moment of another day is the mean of so many minutes before and after
LEVEL_MINUTES = 60  # as far back on average as the slowest smoothing is behind
RATIO_LIMIT = 3.0  # yesterday's rise or fall beyond it is not expected again
TRUST_POWER = 8  # of an error's inverse: the best of them leads
ERROR_HALF_LIFE_MINUTES = 1440.0


class Season:
    """Fed with each minute's mean demand. `forecast` is that of the minute `ahead`, None before the first one."""

    __slots__ = ("_errors", "_forget", "_levels", "_minute", "_pending", "forecast", "minutes")

    def __init__(self) -> None:
        self.minutes = array("d")  # the newest last
        self.forecast: float | None = None
        self._minute = 0  # since the first one
        self._levels: list[float] = []
        self._pending: deque[tuple[int, list[float]]] = deque()
        self._errors: list[float] = []
        self._forget = 0.5 ** (1 / ERROR_HALF_LIFE_MINUTES)

    @property
    def knows_yesterday(self) -> bool:
        return len(self.minutes) > DAY + LEVEL_MINUTES

    def fold(self, mean: float, ahead: int, missed: int = 0) -> None:
        """A minute's mean demand. Of `missed` minutes before it nothing is known; they count as the one before them."""
        mean = round(mean, 4)
        if missed:
            self.minutes.extend([self.minutes[-1] if self.minutes else mean] * min(missed, KEPT_MINUTES))
        self.minutes.append(mean)
        if len(self.minutes) > KEPT_MINUTES:
            del self.minutes[: len(self.minutes) - KEPT_MINUTES + DAY // 2]
        self._minute += missed + 1
        while self._pending and self._pending[0][0] <= self._minute:
            due, points = self._pending.popleft()
            if due == self._minute:
                self._errors = [
                    error * self._forget + abs(point - mean)
                    for error, point in zip(self._errors or [0.0] * len(points), points, strict=True)
                ]
        if not self._levels or missed > LEVEL_MINUTES:
            self._levels = [mean] * len(SMOOTHING_MINUTES)
        self._levels = [
            level + (mean - level) / minutes
            for level, minutes in zip(self._levels, SMOOTHING_MINUTES, strict=True)
        ]
        points = self._points(mean, ahead)
        self._pending.append((self._minute + ahead, points))
        self.forecast = self._blend(points)

    def _points(self, mean: float, ahead: int) -> list[float]:
        level, calm = self._levels[1], self._levels[2]
        points = [mean, *self._levels]
        yesterday, *earlier = (self._then(lag, ahead) for lag in (DAY, 2 * DAY, 3 * DAY))
        weeks = (self._then(lag, ahead) for lag in (WEEK, 2 * WEEK))
        for some in ((yesterday,), (yesterday, *earlier), weeks):
            then = [each for each in some if each is not None]
            if then:
                now, later, before = (sum(each) / len(then) for each in zip(*then, strict=True))
                ratio = min(max(later / max(now, 1e-6), 1 / RATIO_LIMIT), RATIO_LIMIT)
                points += [level * ratio, max(0.0, calm + later - before)]
            else:
                points += [level, level]
        return points

    def _then(self, lag: int, ahead: int) -> tuple[float, float, float] | None:
        """So long ago: around this minute, around the one `ahead` of it, and over the hour before it."""
        at = len(self.minutes) - 1 - lag
        if at < LEVEL_MINUTES:
            return None
        later = self.minutes[at + ahead - AROUND_MINUTES : at + ahead + AROUND_MINUTES + 1]
        return (
            sum(self.minutes[at - AROUND_MINUTES : at + AROUND_MINUTES + 1]) / (2 * AROUND_MINUTES + 1),
            sum(later) / len(later),
            sum(self.minutes[at - LEVEL_MINUTES : at + 1]) / (LEVEL_MINUTES + 1),
        )

    def _blend(self, points: list[float]) -> float:
        if not self._errors:
            return points[0]
        least = min(self._errors) + 1e-9
        trust = [(least / (error + 1e-9)) ** TRUST_POWER for error in self._errors]
        return sum(map(float.__mul__, trust, points)) / sum(trust)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. The minutes are doubles in base64: as numbers they would take six times as long to write."""
        return {
            "minutes": b64encode(self.minutes.tobytes()).decode(),
            "minute": self._minute,
            "forecast": self.forecast,
            "levels": self._levels,
            "pending": [[due, points] for due, points in self._pending],
            "errors": self._errors,
        }

    @staticmethod
    def from_dict(document: dict[str, Any]) -> "Season":
        """The inverse of `to_dict`."""
        season = Season()
        season.minutes.frombytes(b64decode(document["minutes"]))
        season.forecast = document["forecast"]
        season._minute = document["minute"]
        season._levels = list(document["levels"])
        season._pending = deque((due, list(points)) for due, points in document["pending"])
        season._errors = list(document["errors"])
        return season
