"""How long a failed launch holds the next one back: EC2 has no such type in that zone, or something else is wrong.

The first is the matter of the (zone, instance type), the second of the whole group, under ("", "").
"""

from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.errors import CapacityError, CloudError
from controller_asg.model.record import GroupRecord, LaunchBackoff

Place = tuple[str, str]  # (zone, instance type)
GROUP: Place = ("", "")
FIRST_SECONDS = 5.0
LONGEST_SECONDS = 300.0
# A zone or group that had no failure for so long after its backoff ended starts from the first step again.
FORGET_SECONDS = 900.0


def failed(record: GroupRecord, place: Place, reason: str, now: datetime) -> GroupRecord:
    """One more failure there: the wait doubles from 5 s to at most 300 s."""
    before = next((b for b in record.backoffs if (b.zone, b.instance_type) == place), None)
    failures = before.failures + 1 if before else 1
    seconds = min(FIRST_SECONDS * 2 ** min(failures - 1, 16), LONGEST_SECONDS)
    rest = tuple(b for b in record.backoffs if b is not before)
    new = LaunchBackoff(*place, failures, now + timedelta(seconds=seconds), reason)
    return replace(record, backoffs=(*rest, new))


def launch_failed(record: GroupRecord, place: Place, error: CloudError, now: datetime) -> GroupRecord:
    """A refused RunInstances: no capacity is the place's matter, if there was one; everything else the group's."""
    of_place = isinstance(error, CapacityError) and place[0]
    return failed(record, place if of_place else GROUP, str(error), now)


def succeeded(record: GroupRecord, place: Place) -> GroupRecord:
    """An instance came into service there: that place and the group are well."""
    kept = tuple(b for b in record.backoffs if (b.zone, b.instance_type) not in (GROUP, place))
    return record if len(kept) == len(record.backoffs) else replace(record, backoffs=kept)


def forget(record: GroupRecord, now: datetime) -> GroupRecord:
    kept = tuple(b for b in record.backoffs if now < b.until_at + timedelta(seconds=FORGET_SECONDS))
    return record if len(kept) == len(record.backoffs) else replace(record, backoffs=kept)


def mend_times(record: GroupRecord, now: datetime) -> GroupRecord:
    """No wait is longer than the longest, unless the clock was set back."""
    latest = now + timedelta(seconds=LONGEST_SECONDS)
    if all(b.until_at <= latest for b in record.backoffs):
        return record
    return replace(
        record, backoffs=tuple(replace(b, until_at=min(b.until_at, latest)) for b in record.backoffs)
    )


def holding(record: GroupRecord, place: Place, now: datetime) -> LaunchBackoff | None:
    """The backoff that forbids a launch there now."""
    return next((b for b in record.backoffs if (b.zone, b.instance_type) == place and now < b.until_at), None)
