"""What each instance's metric was over a window, and what they were together. Silence has no reading, never zero."""

from collections.abc import Sequence

from controller_asg.model.instance import AgentView, Sample

# A newest sample older than this is no reading of now, however short the window is.
STALE_SECONDS = 5.0


# Ids, and the values of the same instances.
Readings = tuple[list[str], list[float]]


def readings(serving: Sequence[AgentView], metric: str, window_seconds: float) -> Readings:
    """Of those that have a reading: the metric's mean over the window's samples.

    At a window shorter than the sample interval it is the newest sample. One whose newest sample is stale, or lacks
    the metric, has no reading.
    """
    ids, values = [], []
    stale_seconds = max(STALE_SECONDS, window_seconds)
    for instance in serving:
        samples = instance.samples
        if not samples:
            continue
        newest = samples[-1]
        value = newest.values.get(metric)
        if value is None or instance.as_of - newest.arrived_at > stale_seconds:
            continue
        if window_seconds > 1.0:
            value = _mean(samples, metric, instance.as_of - window_seconds)
        ids.append(instance.instance_id)
        values.append(value)
    return ids, values


def _mean(samples: Sequence[Sample], metric: str, since: float) -> float:
    """Over those since then; the newest one, which has the metric, counts however old it is."""
    total, count = 0.0, 0
    for sample in reversed(samples):
        if sample.arrived_at < since and count:
            break
        value = sample.values.get(metric)
        if value is not None:
            total += value
            count += 1
    return total / count


def statistic(name: str, values: Sequence[float]) -> float | None:
    """`average`, `maximum`, `minimum`, `p95` (nearest rank) or `sum` of the values; None of no values."""
    if not values:
        return None
    match name:
        case "average":
            return sum(values) / len(values)
        case "maximum":
            return max(values)
        case "minimum":
            return min(values)
        case "p95":
            return sorted(values)[-(-95 * len(values) // 100) - 1]
        case "sum":
            return sum(values)
    raise AssertionError(f"no statistic {name}")
