"""Scheduled actions: what the operator writes, and when each of them is due.

Times that repeat are local times of the action's zone, as Debian's cron takes them: one that the clock skips in spring
is due right after the gap, one that comes twice in autumn is due the first time. With `*` in minute or hour it is due
as often as the time comes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field
from pydantic.dataclasses import dataclass

from controller_asg.model.scaling_policy import NAME_PATTERN, STRICT, Size

CRON_FIELDS = 5
# A time beyond these years can't be shifted by zones and durations without leaving what a datetime holds.
FIRST_YEAR, LAST_YEAR = 1970, 8999


@dataclass(frozen=True, slots=True, config=STRICT)
class ScheduledAction:
    """EC2's scheduled action: at its time it sets the group's bounds, its desired capacity, or both.

    A bound that it sets holds in place of the group's own until another action sets that bound, or a document with
    another `min_size` or `max_size` is applied. One with a duration ends by itself; while it runs its bounds hold, and
    where several run the largest. An action that changes in the document, or goes, takes its bounds with it.

    A controller that was down catches up with the latest time that each action missed, unless its duration is over by
    then; `desired_capacity` of one more than five minutes late only raises.
    """

    # What decisions call it; two actions of a group need two names.
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    # When it repeats: minute, hour, day of month, month, day of week, as in `30 6 * * MON-FRI`.
    recurrence: str | None = None
    # The IANA zone, as Europe/Berlin, of `recurrence` and of times without an offset. It follows daylight saving time:
    # a time that the clock skips is due right after the gap, one that comes twice is due the first time.
    time_zone: str = "UTC"
    # ISO 8601, of the years 1970 to 8999. Without a recurrence its only time; with one its first, and the recurrence
    # counts after it, as in EC2.
    start_time: datetime | None = None
    # ISO 8601, likewise. No recurrence after it. What the action has set stays, as in EC2; see duration_seconds.
    end_time: datetime | None = None
    # So long its bounds hold. Left out: until another action's or document's do, as in EC2.
    duration_seconds: Annotated[float, Field(ge=60, le=2_678_400)] | None = None
    # The group's min_size from then on. Left out: as it is.
    min_size: Size | None = None
    # The group's max_size from then on. Left out: as it is.
    max_size: Size | None = None
    # Set once, at the action's time. Policies may change it right after; a min_size they may not go below.
    desired_capacity: Size | None = None

    def starts_at(self) -> datetime | None:
        return self._moment(self.start_time)

    def ends_at(self) -> datetime | None:
        return self._moment(self.end_time)

    def until(self, at: datetime) -> datetime | None:
        """When the bounds of the action that was due then end by themselves; None: they don't."""
        return None if self.duration_seconds is None else at + timedelta(seconds=self.duration_seconds)

    def sizes(self) -> str:
        """`min_size 4, desired_capacity 6`"""
        values = {k: getattr(self, k) for k in ("min_size", "max_size", "desired_capacity")}
        return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)

    def _moment(self, at: datetime | None) -> datetime | None:
        """In UTC, to the second; one beyond the years, which an earlier release took, as their beginning or end."""
        if at is None:
            return None
        if not FIRST_YEAR <= at.year <= LAST_YEAR:
            return datetime(FIRST_YEAR if at.year < FIRST_YEAR else LAST_YEAR + 1, 1, 1, tzinfo=UTC)
        aware = at if at.tzinfo is not None else at.replace(tzinfo=ZoneInfo(self.time_zone))
        return aware.astimezone(UTC).replace(microsecond=0)


def times_after(action: ScheduledAction, after: datetime) -> Iterator[datetime]:
    """When the action is due, in UTC, from the next time on."""
    start, end = action.starts_at(), action.ends_at()
    if start is not None and start > after:
        yield start
        after = start
    if action.recurrence is None:
        return
    for local in CronSim(action.recurrence, after.astimezone(ZoneInfo(action.time_zone))):
        at = local.astimezone(UTC)
        if end is not None and at > end:
            return
        yield at


@lru_cache(maxsize=4096)
def next_time(action: ScheduledAction, after: datetime) -> datetime | None:
    """The first time after that one; None: there is none."""
    return next(times_after(action, after), None)


def latest_time(action: ScheduledAction, after: datetime, now: datetime) -> datetime | None:
    """The last time after the one and up to the other; None: there is none."""
    first = next_time(action, after)
    if first is None or first > now:
        return None
    if action.recurrence is None:
        return first
    until = min(now, action.ends_at() or now)
    back = CronSim(
        action.recurrence, (until + timedelta(minutes=1)).astimezone(ZoneInfo(action.time_zone)), reverse=True
    )
    return max(first, next(at for local in back if (at := local.astimezone(UTC)) <= until))


def cron_fault(recurrence: str) -> str:
    """What is wrong with it; empty when nothing is."""
    if len(recurrence.split()) != CRON_FIELDS:
        return "has not five fields"
    try:
        found = next(CronSim(recurrence, datetime(2000, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        return f"is no cron expression ({str(error).lower()})"
    return "" if found else "never comes"
