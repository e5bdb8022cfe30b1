"""What demand tracking remembers of a group: its demand, what it foretold, and how wrong that was.

Demand is in instances at 100 %. The memory is folded forward with every reading, at any interval; what it learns it
learns by minutes, so a pass each second and one each ten seconds end up alike. It is bounded, and JSON holds all of it.
"""

import math
from collections import deque
from typing import Any

from controller_asg.policy.histogram import Histogram
from controller_asg.policy.season import Season

VERSION = 1  # of what `DemandMemory.to_dict` gives
LEAST_DEMAND = 0.05  # instances; keeps ratios finite where nothing is asked for
LEAST_HEADROOM = 0.05
UNLEARNT_HEADROOM = 0.2
UNLEARNT_MINUTES = 30
SEASON_LEARNT_MINUTES = 1000  # of forecasts that knew yesterday, before one may raise a vote
# Errors of the last hours and of the last day: the worse of them sizes the headroom.
HALF_LIVES_MINUTES = (120.0, 1440.0)
SIZED_EVERY_MINUTES = 5
REACTION_SECONDS = 20.0  # from a change of the load until it is seen and the launch is called
GAP_SECONDS = 600.0  # after a longer silence the levels begin anew
RECENT_SECONDS, RECENT_EVERY_SECONDS = 60.0, 5.0
ERROR_RANGE = (-0.5, 5.5, 0.02)  # actual over foretold: 0.6 to 245
DEMAND_RANGE = (-3.0, 10.0, 0.04)  # instances: 0.05 to 22,000


class Forecaster:
    """Foretells the demand one lead ahead, and knows its own errors.

    `fast_seconds` and `slow_seconds` are how far two running means lag; their distance is the trend, if it is used.
    """

    __slots__ = (
        "cost",
        "errors",
        "fast",
        "fast_seconds",
        "foretold",
        "headroom",
        "name",
        "pending",
        "slow",
        "slow_seconds",
        "trend",
        "why",
    )

    def __init__(self, name: str, fast_seconds: float = 0.0, slow_seconds: float = 0.0) -> None:
        """Without `slow_seconds` there is no trend; without `fast_seconds` the forecast comes from elsewhere."""
        self.name, self.fast_seconds, self.slow_seconds = name, fast_seconds, slow_seconds
        self.fast = self.slow = self.trend = 0.0
        self.foretold = LEAST_DEMAND
        self.errors = [Histogram(*ERROR_RANGE, half_life) for half_life in HALF_LIVES_MINUTES]
        self.pending: deque[tuple[int, float]] = deque()  # (minute it is for, forecast), the oldest first
        self.headroom, self.why, self.cost = 1 + UNLEARNT_HEADROOM, "nothing learnt yet", math.inf

    def restart(self, demand: float) -> None:
        self.fast = self.slow = demand

    def fold(self, demand: float, seconds: float, lead_seconds: float) -> None:
        share = seconds / self.fast_seconds
        self.fast += (share if share < 1 else 1.0) * (demand - self.fast)
        foretold = self.fast
        if self.slow_seconds:
            self.slow += min(1.0, seconds / self.slow_seconds) * (demand - self.slow)
            self.trend = (self.fast - self.slow) / (self.slow_seconds - self.fast_seconds)
            # A fall is left to the patience of scaling in.
            if self.trend > 0:
                foretold += self.trend * (lead_seconds + max(0.0, self.fast_seconds - seconds))
        self.foretold = foretold if foretold > LEAST_DEMAND else LEAST_DEMAND

    def learn(self, minute: int, busiest: float) -> None:
        """Hold what was foretold for this minute against its busiest moment."""
        while self.pending and self.pending[0][0] <= minute:
            due, foretold = self.pending.popleft()
            if due == minute:
                error = math.log(max(busiest, LEAST_DEMAND) / foretold)
                for errors in self.errors:
                    errors.add(error)

    def size(self, price: float) -> None:
        """The headroom over a forecast at which more of it would cost more than the shortage it avoids."""
        lately, long_since = (errors.cheapest(price) for errors in self.errors)
        self.headroom = max(lately, long_since)
        self.why = "its errors of the last hours" if lately > long_since else "its errors of the last day"
        if self.headroom < 1 + LEAST_HEADROOM:
            self.headroom, self.why = 1 + LEAST_HEADROOM, "the least"
        if self.headroom < 1 + UNLEARNT_HEADROOM and self.errors[1].count < UNLEARNT_MINUTES:
            self.headroom, self.why = 1 + UNLEARNT_HEADROOM, "little learnt yet"
        self.cost = sum(errors.cost(self.headroom, price) for errors in self.errors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "fast": self.fast,
            "slow": self.slow,
            "trend": self.trend,
            "foretold": self.foretold,
            "errors": [errors.to_dict() for errors in self.errors],
            "pending": [list(each) for each in self.pending],
            "headroom": self.headroom,
            "why": self.why,
            "cost": self.cost if math.isfinite(self.cost) else None,
        }

    def load(self, document: dict[str, Any]) -> None:
        """The inverse of `to_dict`, into a forecaster of the same shape."""
        self.fast, self.slow, self.trend = document["fast"], document["slow"], document["trend"]
        self.foretold = document["foretold"]
        for errors, each in zip(self.errors, document["errors"], strict=True):
            errors.load(each)
        self.pending = deque((due, foretold) for due, foretold in document["pending"])
        self.headroom, self.why = document["headroom"], document["why"]
        self.cost = math.inf if document["cost"] is None else document["cost"]


class DemandMemory:
    """Of one group and one policy. Mutable: each pass moves it forward."""

    __slots__ = (
        "_busiest",
        "_count",
        "_doubtful",
        "_minute",
        "_sum",
        "at",
        "began_at",
        "chosen",
        "clipped",
        "demand",
        "demands",
        "desired",
        "forecasters",
        "hidden",
        "mean",
        "recent",
        "scaled_in_at",
        "scaled_out_at",
        "season",
        "seasonal",
        "usual_peak",
        "wishes",
    )

    def __init__(self) -> None:
        self.at = self.began_at = -math.inf  # Unix seconds of the newest reading, and of the first
        self.demand = 0.0
        self.clipped = False  # the newest reading was at its end, so the demand may be anything above
        self.hidden = False  # it was clipped, or a part of the group was silent
        self.desired = 0  # at the newest reading
        self.recent: deque[tuple[float, float]] = deque()  # (at, demand) of the last minute
        self.forecasters = (Forecaster("trend", 10.0, 60.0), Forecaster("level", 120.0))
        self.chosen = self.forecasters[0]
        self.season = Season()
        self.seasonal = Forecaster("season")
        self.demands = Histogram(*DEMAND_RANGE, HALF_LIVES_MINUTES[1])  # each minute's busiest moment
        self.mean = 0.0  # demand, over about a day
        self.usual_peak = math.inf
        self.scaled_out_at = self.scaled_in_at = -math.inf
        self.wishes: deque[tuple[float, int]] = deque()  # (at, capacity): falling, each the last of its size
        self._minute = 0
        self._busiest, self._sum, self._count = 0.0, 0.0, 0
        self._doubtful = False

    def fold(
        self,
        at: float,
        demand: float,
        clipped: bool,
        silent: bool,
        lead_seconds: float,
        price: float,
        season: bool,
    ) -> None:
        """A reading: the demand at a Unix time, at least so much if `clipped`; from a part of the group if `silent`.

        `lead_seconds` from the launch call to InService, `price` of a shortage (see `Histogram.cheapest`), `season`:
        learn what repeats. A clock that steps back stops what is learnt until it has caught up, and nothing else.
        """
        seconds = at - self.at
        if seconds < 0:
            self._step_back(at)
            seconds = 0.0
        elif seconds > GAP_SECONDS:
            if math.isinf(seconds):
                self.began_at = self.scaled_out_at = at
                self._minute = int(at // 60)
            for forecaster in self.forecasters:
                forecaster.restart(demand)
                forecaster.pending.clear()
            self.recent.clear()
        elif self.hidden and demand > self.demand:
            # It was there before, and is seen now that more instances share it or speak: that is no trend.
            for forecaster in self.forecasters:
                forecaster.restart(demand)
        self.at, self.demand, self.clipped, self.hidden = at, demand, clipped, clipped or silent
        if not self.recent or at - self.recent[-1][0] >= RECENT_EVERY_SECONDS:
            self.recent.append((at, demand))
        while self.recent[0][0] < at - RECENT_SECONDS:
            self.recent.popleft()
        for forecaster in self.forecasters:
            forecaster.fold(demand, seconds, lead_seconds + REACTION_SECONDS)
        if demand > self._busiest:
            self._busiest = demand
        self._sum += demand
        self._count += 1
        self._doubtful |= silent
        minute = int(at // 60)
        if minute > self._minute:
            self._close(minute, math.ceil((lead_seconds + REACTION_SECONDS) / 60), price, season)

    def note_size(self, desired: int) -> None:
        """The desired capacity before this pass; whoever changed it did so since the last one."""
        if desired > self.desired > 0:
            self.scaled_out_at = self.at
        elif desired < self.desired:
            self.scaled_in_at = self.at
        self.desired = desired

    def before(self) -> float:
        """The demand a minute ago, or the oldest since the last gap."""
        return self.recent[0][1]

    def raises(self) -> bool:
        """Whether what a day or a week ago looked like has lately been worth more than the level and its trend."""
        seasonal = self.seasonal
        return seasonal.cost < self.chosen.cost and seasonal.errors[1].count > SEASON_LEARNT_MINUTES

    def _close(self, minute: int, ahead: int, price: float, season: bool) -> None:
        mean, busiest = self._sum / self._count, self._busiest
        missed = minute - self._minute - 1
        learners = [*self.forecasters]
        if season:
            self.season.fold(mean, ahead, missed)
            assert self.season.forecast is not None
            self.seasonal.foretold = max(self.season.forecast, LEAST_DEMAND)
            if self.season.knows_yesterday:
                learners.append(self.seasonal)
        for forecaster in learners:
            if self._doubtful:
                forecaster.pending.clear()
                continue
            forecaster.learn(minute, busiest)
            forecaster.pending.append((minute + ahead, forecaster.foretold))
        if not self._doubtful:
            self.demands.add(math.log(max(busiest, LEAST_DEMAND)))
            weight = max(1 / self.demands.count, 1 - 1 / self.demands.growth)
            self.mean += weight * (busiest - self.mean)
        if minute // SIZED_EVERY_MINUTES != self._minute // SIZED_EVERY_MINUTES:
            for forecaster in learners:
                forecaster.size(price)
            # The same two in their order decide ties; a change must be worth 2 %.
            best = min(self.forecasters, key=lambda each: each.cost)
            if best.cost < 0.98 * self.chosen.cost:
                self.chosen = best
            self.usual_peak = self.demands.cheapest(price, 1 / max(self.mean, LEAST_DEMAND))
        self._minute = minute
        self._busiest, self._sum, self._count = 0.0, 0.0, 0
        self._doubtful = False

    def _step_back(self, at: float) -> None:
        self.recent.clear()
        self.began_at = min(self.began_at, at)
        self.scaled_out_at, self.scaled_in_at = min(self.scaled_out_at, at), min(self.scaled_in_at, at)
        self.wishes = deque((min(wished_at, at), wish) for wished_at, wish in self.wishes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` gives a memory that goes on exactly as this one."""
        return {
            "version": VERSION,
            **{name: _finite(getattr(self, name)) for name in _NUMBERS},
            "clipped": self.clipped,
            "hidden": self.hidden,
            "doubtful": self._doubtful,
            "chosen": self.forecasters.index(self.chosen),
            "recent": [list(each) for each in self.recent],
            "wishes": [list(each) for each in self.wishes],
            "forecasters": [each.to_dict() for each in (*self.forecasters, self.seasonal)],
            "season": self.season.to_dict(),
            "demands": self.demands.to_dict(),
        }

    @staticmethod
    def from_dict(document: dict[str, Any]) -> "DemandMemory":
        """The inverse of `to_dict`. Raises ValueError for what it didn't write."""
        try:
            return DemandMemory._from_dict(document)
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"no memory of demand: {error!r}") from error

    @staticmethod
    def _from_dict(document: dict[str, Any]) -> "DemandMemory":
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}, this release reads {VERSION}")
        memory = DemandMemory()
        for name in _NUMBERS:
            if document[name] is not None:
                setattr(memory, name, document[name])
        memory.clipped, memory.hidden = document["clipped"], document["hidden"]
        memory._doubtful = document["doubtful"]
        memory.chosen = memory.forecasters[document["chosen"]]
        memory.recent = deque((at, demand) for at, demand in document["recent"])
        memory.wishes = deque((at, wish) for at, wish in document["wishes"])
        for forecaster, each in zip(
            (*memory.forecasters, memory.seasonal), document["forecasters"], strict=True
        ):
            forecaster.load(each)
        memory.season = Season.from_dict(document["season"])
        memory.demands.load(document["demands"])
        return memory


_NUMBERS = (
    "at",
    "began_at",
    "demand",
    "desired",
    "mean",
    "usual_peak",
    "scaled_out_at",
    "scaled_in_at",
    "_minute",
    "_busiest",
    "_sum",
    "_count",
)


def _finite(number: float) -> float | None:
    """JSON has no infinity; a fresh memory's infinities stand for nothing yet."""
    return number if math.isfinite(number) else None
