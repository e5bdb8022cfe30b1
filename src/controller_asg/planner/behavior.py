"""How fast the policies' wish may change the size: stabilization windows and rates, as in Kubernetes' autoscaler."""

import math
from dataclasses import replace
from datetime import timedelta

from controller_asg.model.decision import Step
from controller_asg.model.group import Direction
from controller_asg.model.record import WishedRange
from controller_asg.planner.draft import Draft

# Of a window or period; what is kept of it is that fine, so that the record stays small.
PARTS = 32


def held(draft: Draft, wish: int) -> int:
    """What remains of the wish, and its Steps.

    Source: Kubernetes, "Horizontal Pod Autoscaling", configurable scaling behavior: a scale-in goes to the highest wish
    of its window, a scale-out to the lowest of its own, and each rate counts from the size at its period's start.
    """
    behavior, desired = draft.group.behavior, draft.record.desired_capacity
    steady = _stabilized(draft, wish)
    if steady != wish:
        reason = f"the wish has not been beyond {steady} all the time"
        draft.steps.append(Step("stabilization_window", wish, steady, reason))
    if steady == desired:
        return desired
    direction = behavior.scale_out if steady > desired else behavior.scale_in
    limit = _limit(draft, direction, steady > desired)
    allowed = min(steady, limit) if steady > desired else max(steady, limit)
    if allowed != steady:
        draft.steps.append(
            Step("rate", steady, allowed, f"no further than {limit} for now ({direction.said()})")
        )
    return allowed


def changed(draft: Draft, before: int) -> None:
    """The policies have changed the size from there; what rates count with."""
    behavior, record, now = draft.group.behavior, draft.record, draft.now
    longest = max(
        (r.period_seconds for d in (behavior.scale_out, behavior.scale_in) for r in d.rates), default=0.0
    )
    if not longest:
        return
    begins, delta = now - timedelta(seconds=longest), record.desired_capacity - before
    recent = [(min(at, now), change) for at, change in record.size_changes if at > begins]
    if recent and now - recent[-1][0] < timedelta(seconds=longest / PARTS) and recent[-1][1] * delta > 0:
        delta += recent.pop()[1]
    draft.record = replace(record, size_changes=(*recent, (now, delta)))


def _stabilized(draft: Draft, wish: int) -> int:
    behavior, record, now = draft.group.behavior, draft.record, draft.now
    windows = [d.stabilization_window_seconds for d in (behavior.scale_out, behavior.scale_in)]
    if not any(windows):
        return wish
    wished = _remembered(draft, wish, max(windows))
    if wished != record.wished:
        draft.record = replace(record, wished=wished)
    desired, (out_begins, in_begins) = record.desired_capacity, (now - timedelta(seconds=s) for s in windows)
    if wish > desired:
        return max(
            desired, min(each.low for each in wished if each.until_at is None or each.until_at > out_begins)
        )
    if wish < desired:
        if draft.snapshot.watching_since_at > in_begins:
            return desired  # nobody knows what the wish would have been before
        return min(
            desired, max(each.high for each in wished if each.until_at is None or each.until_at > in_begins)
        )
    return wish


def _remembered(draft: Draft, wish: int, longest: float) -> tuple[WishedRange, ...]:
    """What was wished within the window, in parts; the last one holds on. At rest nothing of it changes."""
    now, old = draft.now, draft.record.wished
    begins, part = now - timedelta(seconds=longest), timedelta(seconds=longest / PARTS)
    if not old:
        # Before, the size itself is taken for what was wished.
        desired = draft.record.desired_capacity
        return (WishedRange(now, None, min(wish, desired), max(wish, desired)),)
    last = old[-1]
    if last.low == last.high == wish:
        return old
    if last.since_at <= now < last.since_at + part:
        return (*old[:-1], replace(last, low=min(last.low, wish), high=max(last.high, wish)))
    past = [each for each in old[:-1] if each.until_at is not None and begins < each.until_at <= now]
    return (*past, replace(last, until_at=now), WishedRange(now, None, wish, wish))


def _limit(draft: Draft, direction: Direction, out: bool) -> int:
    desired = draft.record.desired_capacity
    if direction.select == "disabled":
        return desired
    limits = []
    for rate in direction.rates:
        begins = draft.now - timedelta(seconds=rate.period_seconds)
        start = desired - sum(change for at, change in draft.record.size_changes if at > begins)
        if rate.count is not None:
            limits.append(start + rate.count if out else start - rate.count)
        elif rate.percent is not None:
            share = start * rate.percent / 100
            limits.append(math.ceil(start + share - 1e-9) if out else math.floor(start - share + 1e-9))
    if not limits:
        return 10_000 if out else 0
    if out:
        return max(desired, max(limits) if direction.select == "max" else min(limits))
    return min(desired, max(0, min(limits) if direction.select == "max" else max(limits)))
