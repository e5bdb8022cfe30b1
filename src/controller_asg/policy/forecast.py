"""A forecast of a group's demand over the next two days, from the same times of the days and weeks before.

It is made anew every REFRESH_SECONDS from what was recorded by the minute, and looked up by the votes. Several simple
forecasts are blended, each weighed by how wrong it would have been over the last week; the blend is pulled to where
the load is now, the less the further ahead. A day has 24 hours here: where clocks change, two days are an hour off.
"""

from collections.abc import Iterable, Sequence

from controller_asg.model.immutable import immutable

STEP_SECONDS = 300
DAY, WEEK = 288, 2016  # steps
KEPT_DAYS = 14  # as EC2's predictive scaling looks back
AHEAD_STEPS = 2 * DAY
REFRESH_SECONDS = 900.0
# Of the first 24 hours, which EC2's predictive scaling wants too; so many steps may be without a report.
LACKING_SHARE = 0.1
AROUND_STEPS = 1  # a moment of another day is the mean of so many steps before and after
TRUST_POWER = 8  # of an error's inverse: the best of them leads
ERROR_HALF_LIFE_STEPS = 2 * DAY
HORIZON = DAY // 2  # the middle of the next day: each is judged by what it says so far ahead
LEAST = 1e-3  # instances; keeps ratios finite where nothing is asked for
LEVEL_STEPS = 12  # what the load is now
PULL_HALF_LIFE_STEPS = 36
RATIO_LIMIT = 2.0  # of the load now to what was foretold of it

Series = Sequence[float | None]


@immutable
class Forecast:
    """Demand in instances at 100 % CPU, one value for each STEP_SECONDS from `begins_at` (Unix seconds) on.

    `error` is the mean absolute error over the last day, had it been foretold half a day before, over the mean demand;
    None: less than two days are recorded. `basis` says what it is made of.
    """

    begins_at: float
    demands: tuple[float, ...]
    basis: str
    error: float | None

    def highest(self, since: float, until: float) -> tuple[float, float] | None:
        """The highest demand foretold for those Unix seconds, and its step's begin; None: they lie outside."""
        first = max(0, int((since - self.begins_at) // STEP_SECONDS))
        last = int((until - self.begins_at) // STEP_SECONDS)
        if since < self.begins_at or first >= len(self.demands):
            return None
        index = max(range(first, min(last + 1, len(self.demands))), key=lambda each: self.demands[each])
        return self.demands[index], self.begins_at + index * STEP_SECONDS


def foretell(minutes: Iterable[tuple[float, float]], now: float) -> Forecast | None:
    """From (Unix seconds, demand) by the minute; what is not before `now` is left out. None: too little is recorded.

    Source: EC2 Auto Scaling user guide, "How predictive scaling works": 24 hours of data at least, 14 days at the most,
    48 hours ahead; there by the hour.
    """
    end = int(now // STEP_SECONDS)  # the step under way; what is known ends before it
    past = _steps(minutes, end)
    size = len(past)
    if size < DAY or sum(each is not None for each in past) < DAY * (1 - LACKING_SHARE):
        return None
    views = _Views(past)
    trust, error = views.judged()
    seen = foretold = 0.0
    for at in range(size - LEVEL_STEPS, size):
        actual, said = past[at], views.blend(at, at - HORIZON, trust)
        if actual is not None and said is not None:
            seen, foretold = seen + actual + LEAST, foretold + said + LEAST
    pull = min(max(seen / foretold, 1 / RATIO_LIMIT), RATIO_LIMIT) if foretold else 1.0
    demands = tuple(
        round(
            (views.blend(size + ahead, size, trust) or 0.0) * pull ** _half(ahead + 1, PULL_HALF_LIFE_STEPS),
            4,
        )
        for ahead in range(AHEAD_STEPS)
    )
    leading = max(trust, key=lambda name: trust[name])
    basis = f"{size / DAY:.1f} days, mostly {leading}; the load now is {100 * pull:.0f} % of what they say"
    return Forecast(float(end * STEP_SECONDS), demands, basis, error)


def _steps(minutes: Iterable[tuple[float, float]], end: int) -> list[float | None]:
    """The means of the steps before `end`, from the first known one on; None where nobody reported."""
    begin = end - KEPT_DAYS * DAY
    sums: dict[int, tuple[float, int]] = {}
    for at, demand in minutes:
        step = int(at // STEP_SECONDS)
        if begin <= step < end:
            total, count = sums.get(step, (0.0, 0))
            sums[step] = (total + demand, count + 1)
    means = {step: total / count for step, (total, count) in sums.items()}
    return [means.get(step) for step in range(min(means, default=end), end)]


def _mean(values: Series) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _half(steps: int, half_life: int) -> float:
    weight: float = 0.5 ** (steps / half_life)
    return weight


class _Views:
    """What each simple forecast says of a step, from the steps before `known`; an index counts from the first step."""

    def __init__(self, past: list[float | None]) -> None:
        self._past = past
        self._smooth = [
            _mean(past[max(0, at - AROUND_STEPS) : at + AROUND_STEPS + 1]) for at in range(len(past))
        ]
        self._sums, self._counts = [0.0], [0]
        for each in past:
            self._sums.append(self._sums[-1] + (each or 0.0))
            self._counts.append(self._counts[-1] + (each is not None))

    def judged(self) -> tuple[dict[str, float], float | None]:
        """How far each is trusted, by name, and the blend's error over the last day (see `Forecast`)."""
        size = len(self._past)
        names = tuple(self.of(size, size))
        errors, forget = dict.fromkeys(names, (0.0, 0.0)), _half(1, ERROR_HALF_LIFE_STEPS)
        before: dict[str, float] | None = None
        wrong = actual = 0.0
        for at in range(max(DAY, size - WEEK), size):
            if at == size - DAY:
                before = _trust(errors)
            seen = self._past[at]
            if seen is None:
                continue
            views = self.of(at, at - HORIZON)
            if before is not None and (foretold := _blended(views, before)) is not None:
                wrong, actual = wrong + abs(foretold - seen), actual + seen
            for name, each in views.items():
                if each is not None:
                    error, weight = errors[name]
                    errors[name] = (error * forget + abs(each - seen), weight * forget + 1.0)
        return _trust(errors), wrong / actual if actual else None

    def of(self, at: int, known: int) -> dict[str, float | None]:
        """By name; None: that forecast knows nothing of it. `known` is at least half a day."""
        lag = DAY * -(-(at - known + 1) // DAY)
        week = WEEK * -(-(at - known + 1) // WEEK)
        days = [self._smooth[at - back] for back in range(lag, min(lag + 7 * DAY, at + 1), DAY)]
        begin = max(0, known - DAY)
        count = self._counts[known] - self._counts[begin]
        return {
            "yesterday": self._past[at - lag] if at >= lag else None,
            "around that time yesterday": days[0] if days else None,
            "that time of three days": _mean(days[:3]) if len(days) > 1 else None,
            "that time of seven days": _mean(days) if len(days) > 3 else None,
            "that time a week ago": _mean(
                [self._smooth[at - back] for back in (week, 2 * week) if back <= at]
            ),
            "the day's mean": (self._sums[known] - self._sums[begin]) / count if count else None,
        }

    def blend(self, at: int, known: int, trust: dict[str, float]) -> float | None:
        return _blended(self.of(at, known), trust)


def _blended(views: dict[str, float | None], trust: dict[str, float]) -> float | None:
    known = [(trust[name], each) for name, each in views.items() if each is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * each for weight, each in known) / total if total else None


def _trust(errors: dict[str, tuple[float, float]]) -> dict[str, float]:
    """One that could not be judged yet is not trusted, unless none could: then all alike."""
    means = {name: error / weight for name, (error, weight) in errors.items() if weight}
    if not means:
        return dict.fromkeys(errors, 1.0)
    least = min(means.values()) + LEAST
    return {name: (least / (means[name] + LEAST)) ** TRUST_POWER if name in means else 0.0 for name in errors}
