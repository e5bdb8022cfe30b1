"""The policies to compare with: EC2's target tracking, Kubernetes' autoscaler, two naive ones, a forecast as a floor.

Each sees its metric with the period and the delay it has in its own system.
"""

from collections import deque
from collections.abc import Callable

from controller_asg.rehearse.load import TICK_SECONDS
from controller_asg.rehearse.world import Follower, Seen, whole

HOUR, DAY = 3600, 86_400


class TargetTracking60:
    """EC2 target tracking at 60 % CPU: out on 3 of 3 datapoints above, in on 15 minutes below 54 %.

    Source: EC2 Auto Scaling user guide, "Target tracking scaling policies". The size of a step in is not published;
    one instance or a tenth of the group is our reading.
    """

    target, low = 0.6, 0.54

    def __init__(self, period_seconds: int = 60, seen_after_seconds: int = 30) -> None:
        self.period, self.seen_after = period_seconds // TICK_SECONDS, seen_after_seconds // TICK_SECONDS
        self.minute = 60 // TICK_SECONDS
        self.in_points = 15 * 60 // period_seconds
        self.sum = 0.0
        self.arriving: deque[tuple[int, float]] = deque()
        self.points: deque[float] = deque(maxlen=3)
        self.low_points = 0
        self.in_at = -self.minute

    def __call__(self, seen: Seen) -> int:
        if seen.tick:
            self.sum += seen.utilisation
            if seen.tick % self.period == 0:
                self.arriving.append((seen.tick + self.seen_after, self.sum / self.period))
                self.sum = 0.0
        if not self.arriving or self.arriving[0][0] > seen.tick:
            return seen.desired
        last = self.arriving.popleft()[1]
        self.points.append(last)
        self.low_points = self.low_points + 1 if last < self.low else 0
        sized = whole(seen.in_service * last / self.target)
        if len(self.points) == 3 and min(self.points) > self.target:
            return max(seen.desired, sized)
        calm = self.low_points >= self.in_points and not seen.booting
        if calm and seen.tick - self.in_at >= self.minute:
            self.in_at = seen.tick
            return min(seen.desired, max(seen.desired - max(1, seen.desired // 10), sized))
        return seen.desired


class HorizontalPodAutoscaler60:
    """Kubernetes' HorizontalPodAutoscaler at 60 % with its default behaviour.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling", and its replica calculator.
    """

    target, tolerance = 0.6, 0.1
    sync_seconds, down_seconds = 15, 300

    def __init__(self) -> None:
        self.metric: deque[float] = deque(maxlen=3)
        self.sync_at = 0
        self.recommended: deque[tuple[int, int]] = deque()

    def __call__(self, seen: Seen) -> int:
        if seen.tick:
            self.metric.append(seen.utilisation)
        now = seen.tick * TICK_SECONDS
        if now < self.sync_at:
            return seen.desired
        self.sync_at += self.sync_seconds
        if len(self.metric) < 3:
            return seen.desired
        recommended = self._recommend(seen, (self.metric[0] + self.metric[1]) / 2 / self.target)
        self.recommended.append((now, recommended))
        while self.recommended[0][0] < now - self.down_seconds:
            self.recommended.popleft()
        if recommended > seen.desired:
            return min(recommended, max(2 * seen.desired, seen.desired + 4))
        return min(seen.desired, max(each for _, each in self.recommended))

    def _recommend(self, seen: Seen, ratio: float) -> int:
        if abs(ratio - 1) <= self.tolerance:
            return seen.desired
        if seen.booting and ratio > 1:
            spread = ratio * seen.in_service / seen.desired
            if spread <= 1 + self.tolerance:
                return seen.desired
            return max(seen.desired, whole(ratio * seen.in_service))
        return whole(ratio * seen.in_service)


class Naive70:
    """Out at once above 70 %, in below 63 % when nothing changed for five minutes."""

    target, low, rest_ticks = 0.7, 0.63, 300 // TICK_SECONDS

    def __init__(self) -> None:
        self.changed_at = -self.rest_ticks

    def __call__(self, seen: Seen) -> int:
        if not seen.tick:
            return seen.desired
        wish = whole(seen.served_by * seen.utilisation / self.target)
        rested = seen.tick - self.changed_at >= self.rest_ticks
        if (seen.utilisation > self.target and wish > seen.desired) or (
            seen.utilisation < self.low and wish < seen.desired and rested
        ):
            self.changed_at = seen.tick
            return wish
        return seen.desired


def thresholds(seen: Seen) -> int:
    """The first design's rule, every 30 s: one more above 80 %, one fewer below 10 %."""
    if not seen.tick or seen.tick % 3:
        return seen.desired
    return seen.desired + (seen.utilisation > 0.8) - (seen.utilisation < 0.1)


class Floored:
    """A policy with yesterday's hours as a floor, in the manner of EC2 predictive scaling: five minutes ahead."""

    ahead_seconds = 300

    def __init__(self, inner: Follower, target: float) -> None:
        self.inner, self.target = inner, target
        self.wish = 0  # the inner policy's last one, which the group's bounds may have cut
        self.hours: list[float] = [0.0]  # demand seen in each hour so far, summed over its ticks

    def __call__(self, seen: Seen) -> int:
        now = seen.tick * TICK_SECONDS
        if seen.tick:
            self.hours[-1] += seen.utilisation * seen.served_by
            if now % HOUR == 0:
                self.hours.append(0.0)
        self.wish = self.inner(seen._replace(desired=max(self.wish, seen.desired)))
        if now < DAY - self.ahead_seconds:
            return self.wish
        hours = {(now - DAY) // HOUR, (now + self.ahead_seconds - DAY) // HOUR}
        busiest = max(self.hours[hour] for hour in hours if hour >= 0) * TICK_SECONDS / HOUR
        return max(self.wish, whole(busiest / self.target))


BASELINES: dict[str, Callable[[], Follower]] = {
    "tt60": TargetTracking60,
    "tt60-hires": lambda: TargetTracking60(10, 10),
    "tt60-hires+floor": lambda: Floored(TargetTracking60(10, 10), 0.6),
    "hpa60": HorizontalPodAutoscaler60,
    "naive70": Naive70,
    "naive70+floor": lambda: Floored(Naive70(), 0.7),
    "threshold80/10": lambda: thresholds,
    "threshold80/10+floor": lambda: Floored(thresholds, 0.6),
}
"""A fresh policy by the name it has in tables."""
