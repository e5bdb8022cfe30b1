"""How long a failed launch holds the next one back: EC2 has no such offering, or something else is wrong.

No capacity is the matter of the offering (zone, type, market); a quota of the type and market, that of the offering in
every zone; everything else that of the whole group, under None. A throttled call is no failure of a launch: the same
call later is right, and the limiter sees to that.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.errors import CapacityError, CloudError, QuotaError, ThrottledError
from controller_asg.model.offering import Offering
from controller_asg.model.record import GroupRecord, LaunchBackoff

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 300.0
# An offering or group that had no failure for so long after its backoff ended starts from the first step again.
FORGET_SECONDS = 900.0
# Quotas that another type or market may still have room in; the others (disks, addresses) hold for all of them.
OFFERING_QUOTAS = frozenset({"InstanceLimitExceeded", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded"})


def failed(record: GroupRecord, offering: Offering | None, reason: str, now: datetime) -> GroupRecord:
    """One more failure there: the wait doubles from 5 s to at most 300 s."""
    before = next((b for b in record.backoffs if b.offering == offering), None)
    failures = before.failures + 1 if before else 1
    seconds = min(FIRST_SECONDS * 2 ** min(failures - 1, 16), LONGEST_SECONDS)
    rest = tuple(b for b in record.backoffs if b is not before)
    new = LaunchBackoff(offering, failures, now + timedelta(seconds=seconds), reason)
    return replace(record, backoffs=(*rest, new))


def launch_failed(
    record: GroupRecord, offering: Offering | None, error: CloudError, now: datetime
) -> GroupRecord:
    """A refused RunInstances; `offering` is what it asked for."""
    if isinstance(error, ThrottledError):
        return record
    if offering is not None and isinstance(error, QuotaError) and error.code in OFFERING_QUOTAS:
        return failed(record, offering._replace(zone=""), str(error), now)
    return failed(record, offering if isinstance(error, CapacityError) else None, str(error), now)


def succeeded(record: GroupRecord, offering: Offering) -> GroupRecord:
    """An instance came into service there: that offering and the group are well."""
    well = (None, offering, offering._replace(zone=""))
    kept = tuple(b for b in record.backoffs if b.offering not in well)
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


def holding(record: GroupRecord, offering: Offering | None, now: datetime) -> LaunchBackoff | None:
    """The backoff that forbids a launch of it now; None asks for the whole group."""
    everywhere = offering and offering._replace(zone="")
    return next(
        (b for b in record.backoffs if b.offering in (offering, everywhere) and now < b.until_at), None
    )


def avoided(record: GroupRecord, now: datetime) -> Iterator[LaunchBackoff]:
    """Those of offerings that hold now."""
    return (b for b in record.backoffs if b.offering is not None and now < b.until_at)
